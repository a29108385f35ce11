"""From layers of raw values to a checked Config. Each error names the key, its source and a remedy.

A layer is read from YAML or from the command line; arguments.py puts the layers in order. All other
rooms see the Config alone.
"""

from __future__ import annotations

import hashlib
from collections.abc import Sequence
from pathlib import Path
from typing import Any, NamedTuple

import yaml
from pydantic import ValidationError

from sde_harl.config.expected import expectations
from sde_harl.config.keys import KEYS, SECTIONS, spelt
from sde_harl.config.rules import first_broken
from sde_harl.config.schema import Config
from sde_harl.config.wording import brief, key_meant, shown
from sde_harl.config.yaml_text import load
from sde_harl.errors import UserError


class _Dumper(yaml.SafeDumper):
    """Writes out what is there twice: yaml_text.py reads no aliases."""

    def ignore_aliases(self, data: Any) -> bool:
        return True


class Value(NamedTuple):
    """A raw value and where it was written."""

    value: Any
    source: str
    """A file's name, or "command line"."""


Layer = dict[str, Value]
"""Raw values by flat key ("train.envs")."""


def build(layer: Layer) -> Config:
    """Returns the checked Config of a layer.

    Raises UserError for an unknown key, a wrong type, a value out of bounds, or a broken rule.
    """
    config, wrong = _validate(layer)
    # pydantic reports in the order of the schema. A user mends a file from its top.
    for name, given in layer.items():
        if name not in KEYS:
            hint = key_meant(name, KEYS)
            raise UserError(f"{shown(name)}: no such key ({given.source}){hint}")
        if name in wrong:
            raise _error(name, wanted=wrong[name], got=given.value, source=given.source)
    assert config is not None  # nothing was wrong
    _check_rules(config, layer)
    return config


def _validate(layer: Layer) -> tuple[Config | None, dict[str, str]]:
    """Returns the Config, or None and what each wrong key should have been. Skips unknown keys."""
    raw: dict[str, dict[str, Any]] = {section: {} for section in ("", *SECTIONS)}
    for name, given in layer.items():
        if name in KEYS:
            raw[KEYS[name].section][KEYS[name].field] = given.value
    wrong: dict[str, str] = {}
    sections: dict[str, Any] = {}
    for section, model in SECTIONS.items():
        try:
            sections[section] = model(**raw[section])
        except ValidationError as error:
            wrong |= expectations(section, KEYS, error)
    config = None
    try:
        config = Config(**sections, **raw[""])
    except ValidationError as error:
        wrong |= expectations("", KEYS, error)
    return config, wrong


def _check_rules(config: Config, layer: Layer) -> None:
    """Raises UserError for the first rule between several keys that `config` breaks."""
    rule = first_broken(config)
    if rule is None:
        return
    source = "default"
    if rule.key in layer:
        source = layer[rule.key].source
    wanted = rule.expected(config)
    raise _error(rule.key, wanted=wanted, got=rule.value(config), source=source)


def _error(name: str, *, wanted: str, got: Any, source: str) -> UserError:
    return UserError(f"{name}: expected {wanted}, got {brief(got)} ({source})")


def to_yaml(config: Config) -> str:
    """Returns the complete file. `from_yaml` reads it back to an equal Config."""
    plain = config.model_dump()
    plain["policy"]["groups"] = [list(group) for group in config.policy.groups]
    plain["roles"] = {spelt(name): value for name, value in plain["roles"].items()}
    return str(yaml.dump(plain, Dumper=_Dumper, sort_keys=False, default_flow_style=None))


def digest(config: Config) -> str:
    """Returns what two equal Configs have in common, and no others."""
    return hashlib.sha256(to_yaml(config).encode()).hexdigest()


def from_yaml(text: str, source: str) -> Config:
    """Returns the Config of a complete or partial file's text. `source` names it in errors."""
    return build(layer_of(text, source))


def is_same_run(written: Path, config: Config, free: Sequence[str] = ("resume",)) -> bool:
    """Returns whether a run's config.yaml says the same as `config`, but for `free` keys of train.

    False too where there is no such file, or one of another version.
    """
    try:
        theirs = from_yaml(written.read_text(encoding="utf-8"), str(written))
    except (OSError, ValueError, UserError):
        return False
    freed = {name: getattr(config.train, name) for name in free}
    train = theirs.train.model_copy(update=freed)
    return to_yaml(theirs.model_copy(update={"train": train})) == to_yaml(config)


def layer_of(text: str, source: str) -> Layer:
    """Returns the flat keys of a YAML text.

    Raises UserError for text that is not YAML or has no sections, and for a key given twice.
    """
    tree = load(text, source)
    if tree is None:
        return {}
    if not isinstance(tree, dict):
        raise UserError(f"{source}: sections are expected, got {brief(tree)}")
    layer: Layer = {}
    for name, value in tree.items():
        for flat, raw in _flat_keys(name, value, source):
            # A file may hold both train.envs and a section train: YAML itself can't see that.
            if flat in layer:
                raise UserError(f"{shown(flat)}: given twice ({source})")
            layer[flat] = Value(value=raw, source=source)
    return layer


def _flat_keys(name: Any, value: Any, source: str) -> list[tuple[str, Any]]:
    """Returns the values below one name at the top of a file, each with its flat key."""
    if name not in SECTIONS:
        return [(str(name), value)]
    if value is None:
        return []
    if not isinstance(value, dict):
        raise UserError(f"{name}: a section of keys is expected, got {brief(value)} ({source})")
    return [(f"{name}.{key}", raw) for key, raw in value.items()]
