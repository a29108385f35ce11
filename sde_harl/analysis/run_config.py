"""Reads a run's configuration from its record."""

from __future__ import annotations

import math
from typing import TypeVar

from sde_harl.config.yaml_text import load
from sde_harl.errors import UserError
from sde_harl.record.reader import Run

T = TypeVar("T", int, float, str, bool)


def setting(run: Run, key: str, missing: T | None = None, *, kind: type[T]) -> T:
    """Returns a value of the configuration in /meta by its key ("policy.blocks").

    `missing` is returned where the record, of an earlier version, lacks the key. Raises UserError
    where it may not be missing, and where it isn't of its kind.
    """
    # Plain YAML, not config/schema.py: a record of an earlier version may lack newer keys.
    value = load(run.text("config", ""), f"{run.path}: /meta config")
    for name in key.split("."):
        if isinstance(value, dict):
            value = value.get(name)
        else:
            value = None
    if value is None and missing is not None:
        return missing
    # A whole number is a number too; true is neither.
    if kind is float and type(value) is int:
        value = float(value)
    is_endless = isinstance(value, float) and not math.isfinite(value)
    if type(value) is not kind or is_endless:
        raise UserError(f"{run.path}: /meta config doesn't tell {key}")
    return value
