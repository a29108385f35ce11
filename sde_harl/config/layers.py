"""From layers of raw values to a checked configuration; errors name the key, its place, and what would be right.

A layer comes from YAML or from the command line (command.py puts them in order); past `build` there are only objects.
"""

from __future__ import annotations

import dataclasses
import math
from typing import Any, NamedTuple, get_args, get_origin, get_type_hints

import yaml

from sde_harl.config.rules import first_broken
from sde_harl.config.schema import PROFILES, Config, LinkProfile
from sde_harl.config.wording import brief, did_you_mean, shown
from sde_harl.config.yaml_text import load
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
    _check_rules(config, layer)
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


def _check_rules(config: Config, layer: Layer) -> None:
    """Raises UserError for the first rule between several keys that `config` breaks."""
    rule = first_broken(config)
    if rule is None:
        return
    source = "default"
    if rule.key in layer:
        source = layer[rule.key].source
    wanted = rule.expected(config)
    got = brief(rule.value(config))
    raise UserError(f"{rule.key}: expected {wanted}, got {got} ({source})")
