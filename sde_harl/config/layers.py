"""From layers of raw values to a checked configuration; errors name the key, its place, and what would be right.

A layer comes from YAML or from the command line (command.py puts them in order); past `build` there are only objects.
"""

from __future__ import annotations

import dataclasses
import difflib
import math
import reprlib
from collections.abc import Hashable, Iterable
from typing import Any, NamedTuple, get_args, get_origin, get_type_hints

import yaml

from sde_harl.codec.coder import least_bytes
from sde_harl.config.schema import PROFILES, Config, LinkProfile
from sde_harl.errors import UserError


class Value(NamedTuple):
    """A raw value and where it was written."""

    value: Any
    source: str


Layer = dict[str, Value]
"""Flat keys ("train.envs") and their raw values."""


class Key(NamedTuple):
    """One key of the configuration: its section ("" at the top), its field and the field's type."""

    section: str
    field: dataclasses.Field[Any]
    kind: Any


SECTIONS: dict[str, Any] = {
    name: kind for name, kind in get_type_hints(Config).items() if dataclasses.is_dataclass(kind)
}
"""Every section's class."""


def _spelt(field: str) -> str:
    """A field's name in a file: words that are Python's own have a _ behind them here, and none there (roles.from)."""
    return field.rstrip("_")


KEYS = {
    f"{section}.{_spelt(item.name)}": Key(section, item, get_type_hints(owner)[item.name])
    for section, owner in SECTIONS.items()
    for item in dataclasses.fields(owner)
}
KEYS |= {
    item.name: Key("", item, get_type_hints(Config)[item.name])
    for item in dataclasses.fields(Config)
    if item.name not in SECTIONS
}
"""Every key by its flat name, in the order of a file."""


def build(layer: Layer) -> Config:
    """A checked Config from flat keys. Raises UserError for an unknown key, a wrong type or a value out of bounds."""
    values: dict[str, dict[str, Any]] = {section: {} for section in ("", *SECTIONS)}
    for name, given in layer.items():
        if name not in KEYS:
            raise UserError(
                f"{shown(name)}: no such key ({given.source}){did_you_mean(name, KEYS, 0.3)}"
            )
        key = KEYS[name]
        values[key.section][key.field.name] = _checked(name, given, key)
    config = Config(
        **{section: kind(**values[section]) for section, kind in SECTIONS.items()}, **values[""]
    )
    _check_together(config, layer)
    return config


def to_yaml(config: Config) -> str:
    """The complete file; `from_yaml` reads it back to an equal Config."""
    plain: dict[str, Any] = dataclasses.asdict(config)
    plain["policy"]["groups"] = [list(group) for group in config.policy.groups]
    plain["roles"] = {_spelt(name): value for name, value in plain["roles"].items()}
    return str(yaml.safe_dump(plain, sort_keys=False, default_flow_style=None))


def from_yaml(text: str, source: str) -> Config:
    """A Config from a complete or partial file's text; `source` names it in errors."""
    return build(layer_of(text, source))


def layer_of(text: str, source: str) -> Layer:
    """The flat keys of a YAML text. Raises UserError where it is no YAML, no sections, or a key is given twice."""
    tree = load(text, source)
    if not isinstance(tree, (dict, type(None))):
        raise UserError(f"{source}: sections are expected, got {brief(tree)}")
    layer: Layer = {}
    for name, value in (tree or {}).items():
        inside = value if name in SECTIONS else {name: value}
        if not isinstance(inside, (dict, type(None))):
            raise UserError(f"{name}: a section of keys is expected, got {brief(value)} ({source})")
        for key, raw in (inside or {}).items():
            flat = f"{name}.{key}" if name in SECTIONS else str(key)
            if flat in layer:
                raise UserError(f"{shown(flat)}: given twice ({source})")
            layer[flat] = Value(raw, source)
    return layer


class _Loader(yaml.SafeLoader):
    """Safe YAML that refuses a key given twice, where PyYAML would silently take the last, and endless numbers."""

    def construct_mapping(self, node: yaml.MappingNode, deep: bool = False) -> dict[Any, Any]:
        seen: set[Hashable] = set()
        for key_node, _ in node.value:
            key = self.construct_object(key_node, deep=True)
            if not isinstance(key, Hashable):
                break  # the parent class says so
            if key in seen:
                raise yaml.constructor.ConstructorError(
                    None, None, f"{brief(key)} is given twice", key_node.start_mark
                )
            seen.add(key)
        return super().construct_mapping(node, deep)

    def construct_yaml_int(self, node: yaml.ScalarNode) -> int:
        number: int = super().construct_yaml_int(node)
        if number.bit_length() > 63:  # Python refuses to print numbers of thousands of digits
            raise yaml.constructor.ConstructorError(
                None, None, "a whole number beyond 64 bits", node.start_mark
            )
        return number


_Loader.add_constructor("tag:yaml.org,2002:int", _Loader.construct_yaml_int)

BAD_YAML = (
    yaml.YAMLError,
    ArithmeticError,
    AttributeError,
    LookupError,
    RecursionError,
    TypeError,
    ValueError,
)
"""What PyYAML raises for text that is not YAML, or only just: `!!int ""`, `!!map [x]`, `!!timestamp x`, a deep nest."""


def load(text: str, source: str) -> Any:
    """The value of a YAML text. Raises UserError that names the source, the line and the problem."""
    try:
        return _Loader(text).get_single_data()
    except BAD_YAML as error:
        mark = getattr(error, "problem_mark", None)
        where = f"{source}:{mark.line + 1}" if mark and "\n" in text else source
        problem = (
            getattr(error, "problem", None)
            or getattr(error, "reason", None)
            or "a value can't be read"
        )
        raise UserError(f"{where}: not valid YAML: {shown(problem)}") from error


_SHORT = reprlib.Repr()
_SHORT.maxlevel, _SHORT.maxstring, _SHORT.maxother = 2, 60, 60


def brief(raw: Any) -> str:
    """Any value in one line, short even where YAML's aliases made it huge or endless."""
    text = _SHORT.repr(raw)
    return text if len(text) <= 63 else f"{text[:60]}..."


def shown(text: str) -> str:
    """A key, file or problem as it stands, or quoted where it would break the line."""
    return text if text and text.isprintable() else repr(text)


def did_you_mean(word: str, valid: Iterable[str], cutoff: float = 0.6) -> str:
    """A hint to end a message with, or nothing."""
    near = difflib.get_close_matches(word[:80], valid, 1, cutoff)
    return f"; did you mean {near[0]}?" if near else ""


def _checked(name: str, given: Value, key: Key) -> Any:
    """The value in the key's type and within its bounds."""
    value = _profile(given.value) if key.kind is LinkProfile else _convert(given.value, key.kind)
    wanted = _spell(key.kind) if value is None else _broken_bound(value, key.field)
    if wanted:
        raise UserError(f"{name}: expected {wanted}, got {brief(given.value)} ({given.source})")
    return value


def _profile(raw: Any) -> LinkProfile | None:
    """A link by name, or by its numbers; None where it is neither."""
    if isinstance(raw, str):
        return PROFILES.get(raw)
    fields = {item.name: item for item in dataclasses.fields(LinkProfile)}
    if not isinstance(raw, dict) or not set(raw) <= set(fields):
        return None
    numbers = {name: _convert(value, float) for name, value in raw.items()}
    if any(value is None or _broken_bound(value, fields[name]) for name, value in numbers.items()):
        return None
    return LinkProfile(**numbers)


def _broken_bound(value: Any, item: dataclasses.Field[Any]) -> str:
    """What `value` should have been, or nothing where it is right."""
    choices, bounds = item.metadata.get("choices"), item.metadata.get("bounds")
    if choices and value not in choices:
        return f"one of {', '.join(choices)}"
    if isinstance(value, str) and not (value and value.isprintable()):
        return "text that is neither empty nor holds control characters"
    if bounds:
        least, most, above = bounds
        if not (math.isfinite(value) and least <= value <= most and value > above):
            limits = f"{least} or more" if most == math.inf else f"{least} to {most}"
            return f"a number above {above}" if above > -math.inf else limits
    return ""


def _convert(raw: Any, kind: Any) -> Any:
    """`raw` as `kind`, or None where it is something else. 3e-4, which YAML 1.1 reads as text, is a number."""
    if kind in (int, float) and isinstance(raw, (str, int, float)) and not isinstance(raw, bool):
        try:
            number = float(raw)
        except (ValueError, OverflowError):
            return None
        if kind is float:
            return number
        return int(raw if isinstance(raw, int) else number) if number.is_integer() else None
    if get_origin(kind) is tuple and isinstance(raw, (list, tuple)):
        items = [_convert(each, get_args(kind)[0]) for each in raw]
        return None if None in items else tuple(items)
    if get_origin(kind) is dict and isinstance(raw, dict):
        pairs = {_convert(key, int): _convert(each, int) for key, each in raw.items()}
        return None if None in pairs or None in pairs.values() or len(pairs) < len(raw) else pairs
    if kind is str and isinstance(raw, (int, float)) and not isinstance(raw, bool):
        return str(raw)  # an experiment may well be called 7
    return raw if kind in (bool, str) and isinstance(raw, kind) else None


def _spell(kind: Any) -> str:
    return {
        int: "a whole number",
        float: "a number",
        bool: "true or false",
        str: "text",
        tuple: "lists of agent indices",
        dict: "a map of agent to rank, each agent once",
        LinkProfile: f"one of {', '.join(PROFILES)}, or some of loss (0 to 0.9), delay_ms and jitter_ms",
    }[get_origin(kind) or kind]


def _check_together(config: Config, layer: Layer) -> None:
    """What no single field can tell."""
    policy, train, exp, link = config.policy, config.train, config.record.exp, config.link
    emulated, remembering = (
        link.model != PROFILES["none"],
        policy.recurrent and policy.local_blocks == policy.blocks,
    )
    remembered = "policy.recurrent, policy.local_blocks = policy.blocks: a device that misses a step remembers wrongly"
    local, minibatches, critics = (
        policy.local_blocks,
        config.algo.minibatches,
        config.algo.critic_minibatches,
    )
    chunk = config.algo.chunk if policy.recurrent else 1
    on_device, coded = local == policy.blocks, config.codec.name != "none"
    rows = train.envs * train.rollout // chunk
    target, start, scale = (
        config.codec.target_bytes,
        config.codec.rate_coef,
        config.codec.latent_scale,
    )
    least = least_bytes(train.envs // train.slots, config.codec.pack)
    agents = sorted(agent for group in policy.groups for agent in group)
    whole = agents == [*range(len(agents))] and () not in policy.groups
    source, count, groups = config.roles.source, config.roles.count, policy.groups
    given = source == "config" and config.roles.from_ == "none"
    for key, value, right, wanted in (
        (
            "policy.local_blocks",
            local,
            local <= policy.blocks,
            f"policy.blocks ({policy.blocks}) or less",
        ),
        (
            "codec.name",
            config.codec.name,
            coded or on_device,
            "a codec (policy.local_blocks < policy.blocks: latents are sent)",
        ),
        (
            "codec.name",
            config.codec.name,
            not (coded and on_device),
            "none (policy.local_blocks = policy.blocks: nothing is coded)",
        ),
        (
            "policy.fallback_head",
            policy.fallback_head,
            not (policy.fallback_head and on_device),
            "false (policy.local_blocks = policy.blocks: all of the policy is on the device)",
        ),
        ("policy.groups", policy.groups, whole, "every agent from 0 on exactly once"),
        (
            "policy.groups",
            policy.groups,
            given or not groups,
            "none, for roles.source or roles.from gives them",
        ),
        (
            "roles.source",
            source,
            source == "config" or config.roles.from_ == "none",
            "config, to have roles.from",
        ),
        (
            "roles.count",
            count,
            not count or source != "config",
            "0, for roles.source = config counts none",
        ),
        (
            "train.envs",
            train.envs,
            train.envs % train.slots == 0,
            f"a multiple of train.slots = {train.slots}",
        ),
        (
            "algo.minibatches",
            minibatches,
            minibatches <= rows,
            f"{rows} (a rollout's rows or chunks) or less",
        ),
        (
            "algo.critic_minibatches",
            critics,
            critics <= rows,
            f"{rows} (a rollout's rows or chunks) or less",
        ),
        (
            "train.rollout",
            train.rollout,
            train.rollout % chunk == 0,
            f"a multiple of algo.chunk ({chunk})",
        ),
        (
            "codec.target_bytes",
            target,
            not target or config.codec.name == "entropy",
            "0 (codec.name is not entropy)",
        ),
        (
            "codec.target_bytes",
            target,
            not target or target > least,
            f"more than {least:g}, what no rate can save",
        ),
        (
            "codec.latent_scale",
            scale,
            math.frexp(scale)[0] == 0.5,
            "a power of 2: weights are exact multiples then",
        ),
        (
            "codec.rate_coef",
            start,
            not target or start > 0,
            "a number above 0 for codec.target_bytes to start from",
        ),
        (
            "link.deadline_ms",
            link.deadline_ms,
            link.deadline_ms > 0 or not emulated,
            "more than 0, with link.model",
        ),
        (
            "link.deadline_ms",
            link.deadline_ms,
            not (link.deadline_ms and remembering),
            f"0 ({remembered})",
        ),
        (
            "link.on_fault",
            link.on_fault,
            link.on_fault == "abort" or not remembering,
            f"abort ({remembered})",
        ),
        (
            "link.model",
            link.model,
            not (emulated and on_device),
            "none (policy.local_blocks = policy.blocks)",
        ),
        *_of_executors(config),
        ("record.exp", exp, "/" not in exp and exp not in (".", ".."), "the name of a folder"),
    ):
        if not right:
            source = layer[key].source if key in layer else "default"
            raise UserError(f"{key}: expected {wanted}, got {brief(value)} ({source})")


def _of_executors(config: Config) -> list[tuple[str, Any, bool, str]]:
    """Keys, their values, whether these are right, and what they should have been."""
    executor, train, record, spec = config.executor, config.train, config.record, config.env.spec
    device, sensor, on_torch = executor.device, executor.sensor, executor.backend == "torch"
    deadline, exits = config.link.deadline_ms, config.policy.fallback_head
    rows = [
        (
            "executor.device",
            device,
            device == "cpu" or on_torch,
            "cpu (executor.backend is not torch)",
        )
    ]
    if config.env.name != "devices":
        return [
            *rows,
            ("executor.sensor", sensor, sensor == "none", "none (env.name is not devices)"),
        ]
    return [
        *rows,
        ("executor.sensor", sensor, sensor != "none", "module:function (env.name = devices)"),
        ("env.spec", spec, spec != "none", "a run's spec.json (env.name = devices)"),
        ("train.load", train.load, train.load != "none", "a checkpoint (env.name = devices)"),
        (
            "link.deadline_ms",
            deadline,
            deadline > 0 or not exits,
            "more than 0 (policy.fallback_head, env.name = devices)",
        ),
        (
            "train.steps",
            train.steps,
            train.steps == 0,
            "0 (env.name = devices: nobody knows the rewards)",
        ),
        ("train.envs", train.envs, train.envs == 1, "1 (env.name = devices: there is one world)"),
        (
            "record.trajectories",
            record.trajectories,
            record.trajectories == "none",
            "none (env.name = devices)",
        ),
    ]
