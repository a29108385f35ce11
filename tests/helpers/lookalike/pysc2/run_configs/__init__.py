"""Chooses the run configuration of the highest priority."""

from __future__ import annotations

from typing import Any

from pysc2.run_configs import platforms


def get() -> Any:
    """Returns the configuration, as pysc2 does."""
    configs = [platforms.Linux, *platforms.Linux.__subclasses__()]
    return max(configs, key=lambda each: each.priority())()
