"""Every key of the configuration by its flat name ("train.envs"), as schema.py defines it."""

from __future__ import annotations

import math
from typing import Any, Literal, NamedTuple, get_args, get_origin

import annotated_types
from pydantic.fields import FieldInfo

from sde_harl.config.schema import Config, Section


class Bounds(NamedTuple):
    """The range of a number."""

    least: float = -math.inf
    most: float = math.inf
    above: float = -math.inf
    """A bound that the number must exceed."""


class Key(NamedTuple):
    """One key of the configuration."""

    section: str
    """"" for keys at the top."""
    field: str
    """The field's name in its section's model."""
    info: FieldInfo

    @property
    def kind(self) -> type:
        """The plain type: int, float, bool, str, tuple, dict or LinkProfile."""
        annotation = self.info.annotation
        if get_origin(annotation) is Literal:
            return str
        kind = get_origin(annotation) or annotation
        assert isinstance(kind, type)
        return kind

    @property
    def choices(self) -> tuple[str, ...]:
        """The words that the value may be. Empty for keys that are no choice."""
        if get_origin(self.info.annotation) is not Literal:
            return ()
        return get_args(self.info.annotation)

    @property
    def bounds(self) -> Bounds:
        """The range of the value, as written in the schema: error lines show an int as one."""
        found: dict[str, Any] = {}
        for item in self.info.metadata:
            if isinstance(item, annotated_types.Ge):
                found["least"] = item.ge
            elif isinstance(item, annotated_types.Le):
                found["most"] = item.le
            elif isinstance(item, annotated_types.Gt):
                found["above"] = item.gt
        return Bounds(**found)

    @property
    def default(self) -> Any:
        return self.info.get_default(call_default_factory=True)

    @property
    def help(self) -> str:
        """The text under the field, on one line."""
        return " ".join((self.info.description or "").split())


def spelt(field: str) -> str:
    """Returns a field's name in files: roles.from is `from_` here, because `from` is Python's."""
    return field.rstrip("_")


def _sections() -> dict[str, type[Section]]:
    found: dict[str, type[Section]] = {}
    for name, info in Config.model_fields.items():
        if isinstance(info.annotation, type) and issubclass(info.annotation, Section):
            found[name] = info.annotation
    return found


def _keys() -> dict[str, Key]:
    """Returns all keys in the order of a file."""
    found: dict[str, Key] = {}
    for section, model in SECTIONS.items():
        for field, info in model.model_fields.items():
            found[f"{section}.{spelt(field)}"] = Key(section=section, field=field, info=info)
    for field, info in Config.model_fields.items():
        if field not in SECTIONS:
            found[field] = Key(section="", field=field, info=info)
    return found


SECTIONS = _sections()
KEYS = _keys()
