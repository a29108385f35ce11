"""Reads a run's configuration from its record."""

from __future__ import annotations

from typing import Any

import yaml

from sde_harl.errors import UserError
from sde_harl.record.reader import Run


def config_section(run: Run, name: str) -> dict[str, Any]:
    """Returns one section of the configuration in /meta. Raises UserError where it has none."""
    # Plain YAML, not config/schema.py: a record of an earlier version may lack newer keys.
    try:
        return dict(yaml.safe_load(str(run.meta["config"]))[name])
    except (yaml.YAMLError, KeyError, TypeError, ValueError) as error:
        raise UserError(f"{run.path}: /meta config has no section {name}") from error
