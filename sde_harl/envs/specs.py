"""An EnvSpec as text: what a run leaves behind as spec.json, and what worker processes say."""

from __future__ import annotations

import json
from math import prod
from typing import Any, get_args, get_origin, get_type_hints

from sde_harl.envs.base import EnvSpec

MOST = 1 << 24
"""Numbers of an observation, a state or an action's choices: more is a damaged file."""
DTYPES = ("float32", "uint8")


def to_json(spec: EnvSpec) -> str:
    """One line."""
    return json.dumps(spec._asdict())


def from_json(text: str | bytes) -> EnvSpec:
    """What `to_json` wrote, or somebody by hand. Raises ValueError that names the field that is wrong."""
    given = json.loads(text)
    fields = (
        {name: _tuples(value) for name, value in given.items()} if isinstance(given, dict) else {}
    )
    needed = set(EnvSpec._fields) - set(EnvSpec._field_defaults)
    for name in sorted(set(fields) ^ needed):
        if name not in EnvSpec._field_defaults:
            raise ValueError(f"{name}: {'missing' if name in needed else 'no such field'}")
    for name, kind in get_type_hints(EnvSpec).items():
        if name in fields and not _is(fields[name], kind):
            raise ValueError(f"{name}: not a {kind}")
    spec = EnvSpec(**fields)
    for name, right in _consistent(spec):
        if not right:
            raise ValueError(f"{name}: not what it can be")
    return spec


def _tuples(value: Any) -> Any:
    """JSON has lists only."""
    return tuple(map(_tuples, value)) if isinstance(value, list) else value


def _is(value: Any, kind: Any) -> bool:
    if get_origin(kind) is tuple:
        return isinstance(value, tuple) and all(_is(each, get_args(kind)[0]) for each in value)
    return type(value) is kind


def _consistent(spec: EnvSpec) -> list[tuple[str, bool]]:
    """Fields, and whether they fit each other."""
    n, actions, images = len(spec.agents), spec.action_sizes, spec.obs_images
    sizes = lambda numbers: all(0 < each <= MOST for each in numbers)  # noqa: E731
    pictures = lambda each, size: len(each) == 3 and sizes(each) and prod(each) == size  # noqa: E731
    return [
        ("name", spec.name.count("/") == 1 and spec.name.isprintable()),
        ("agents", n == len(set(spec.agents)) > 0),
        ("obs_sizes", len(spec.obs_sizes) == n and sizes(spec.obs_sizes)),
        ("action_sizes", len(actions) == n and all(each and sizes(each) for each in actions)),
        ("continuous", not spec.continuous or {len(each) for each in actions} == {1}),
        ("state_size", sizes((spec.state_size,))),
        ("unit_types", len(spec.unit_types) == n),
        (
            "obs_images",
            not images or len(images) == n and all(map(pictures, images, spec.obs_sizes)),
        ),
        ("obs_dtype", spec.obs_dtype in DTYPES and (bool(images) or spec.obs_dtype != "uint8")),
        ("state_image", not spec.state_image or pictures(spec.state_image, spec.state_size)),
        ("state_dtype", spec.state_dtype in DTYPES),
        ("episode_limit", spec.episode_limit >= 0),
        ("noop", spec.noop >= 0),
    ]
