"""pysc2's run configuration for Linux."""

from __future__ import annotations

import os
from typing import Any, NamedTuple


class Version(NamedTuple):
    """A version of the game."""

    build_version: int


class Linux:
    """Knows where the game is."""

    data_dir = property(lambda self: os.environ["SC2PATH"])
    cwd = None
    env = None
    version = Version(build_version=75689)
    _exec_name = "SC2_x64"

    @classmethod
    def priority(cls) -> int:
        return 1

    def start(self, **keywords: Any) -> Any:
        raise NotImplementedError
