"""Writes an EnvSpec as JSON and reads it back.

A run leaves it behind as spec.json, and a worker process answers with it.
"""

from __future__ import annotations

import json
import math
from collections.abc import Iterable, Sequence
from math import prod
from typing import Any, get_args, get_origin, get_type_hints

from sde_harl.config.wording import brief
from sde_harl.envs.base import EnvSpec
from sde_harl.errors import UserError
from sde_harl.outside.text import strict_json

MAX_SIZE = 1 << 24
"""Most numbers of an observation, a state or an action's choices; a larger size means that the file
is damaged, and would ask for all of this host's memory."""
MOST_BYTES = 1 << 20
"""Of a spec. That of a hundred agents takes some thousands."""
DTYPES = ("float32", "uint8")


def to_json(spec: EnvSpec) -> str:
    """Returns the spec as one line."""
    return json.dumps(spec._asdict())


def common_spec(specs: Sequence[EnvSpec]) -> EnvSpec:
    """Returns the spec that all environments of a run have.

    Raises UserError where they differ: a factory may make another environment at each call.
    """
    first = specs[0]
    for other in specs:
        if other != first:
            pairs = zip(first._fields, first, other)
            field, one, two = next(pair for pair in pairs if pair[1] != pair[2])
            raise UserError(
                f"env.name: expected environments that are all alike, got {field} that differ:"
                f" {brief(one)}, {brief(two)} ({first.name})"
            )
    return first


def from_json(text: str | bytes) -> EnvSpec:
    """Reads what `to_json` or a user's hand wrote. Raises ValueError that names the wrong field."""
    given = strict_json(text)
    if not isinstance(given, dict):
        given = {}  # so that the fields are reported as missing
    fields = {name: _tuples(value) for name, value in given.items()}
    _check_names(fields)
    for name, kind in get_type_hints(EnvSpec).items():
        if name in fields and not _is(fields[name], kind):
            raise ValueError(f"{name}: not a {kind}")
    spec = EnvSpec(**fields)
    for name, is_right in _consistent(spec):
        if not is_right:
            raise ValueError(f"{name}: not what it can be")
    return spec


def _check_names(fields: dict[str, Any]) -> None:
    """Raises ValueError that names a field that is missing or unknown, in alphabetical order."""
    optional = set(EnvSpec._field_defaults)
    needed = set(EnvSpec._fields) - optional
    # Optional fields may be missing: files of earlier versions lack the newer ones.
    for name in sorted((needed ^ set(fields)) - optional):
        if name in needed:
            raise ValueError(f"{name}: missing")
        raise ValueError(f"{name}: no such field")


def _tuples(value: Any) -> Any:
    """Turns lists, however nested, into tuples: JSON has lists only, an EnvSpec tuples only."""
    if isinstance(value, list):
        return tuple(map(_tuples, value))
    return value


def _is(value: Any, kind: Any) -> bool:
    """Returns whether `value` is of the annotated type `kind`; a bool is no int here."""
    if get_origin(kind) is tuple:
        return isinstance(value, tuple) and all(_is(each, get_args(kind)[0]) for each in value)
    return type(value) is kind  # isinstance would take True for an int


def _consistent(spec: EnvSpec) -> list[tuple[str, bool]]:
    """Returns pairs (field, whether it is possible and fits the other fields)."""
    n = len(spec.agents)
    actions = spec.action_sizes
    images = spec.obs_images
    images_fit = len(images) == n and all(map(_is_image_of, images, spec.obs_sizes))
    obs_dtype_fits = spec.obs_dtype in DTYPES and (bool(images) or spec.obs_dtype != "uint8")
    return [
        ("name", spec.name.count("/") == 1 and spec.name.isprintable()),
        ("agents", n == len(set(spec.agents)) > 0),
        ("obs_sizes", len(spec.obs_sizes) == n and _are_sizes(spec.obs_sizes)),
        ("action_sizes", len(actions) == n and all(each and _are_sizes(each) for each in actions)),
        ("continuous", not spec.continuous or {len(each) for each in actions} == {1}),
        ("state_size", _are_sizes([spec.state_size])),
        ("unit_types", len(spec.unit_types) == n),
        ("obs_images", not images or images_fit),
        ("obs_dtype", obs_dtype_fits),
        ("state_image", not spec.state_image or _is_image_of(spec.state_image, spec.state_size)),
        ("state_dtype", spec.state_dtype in DTYPES),
        ("episode_limit", spec.episode_limit >= 0),
        ("noop", spec.noop >= 0),
        ("action_bounds", not spec.action_bounds or _are_bounds(spec)),
    ]


def _are_bounds(spec: EnvSpec) -> bool:
    """Returns whether every dimension of every agent's action has a finite range."""
    dimensions = tuple((len(own),) for own in spec.action_bounds)
    ranges = [each for own in spec.action_bounds for each in own]
    return (
        spec.continuous
        and dimensions == spec.action_sizes
        and all(len(each) == 2 and -math.inf < each[0] < each[1] < math.inf for each in ranges)
    )


def _are_sizes(numbers: Iterable[int]) -> bool:
    return all(0 < each <= MAX_SIZE for each in numbers)


def _is_image_of(shape: tuple[int, ...], size: int) -> bool:
    """Returns whether `shape` is an (H, W, C) of `size` numbers."""
    return len(shape) == 3 and _are_sizes(shape) and prod(shape) == size
