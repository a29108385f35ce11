"""A clock that a test moves, in place of the machine's."""

from __future__ import annotations

import math
import sys

import pytest

from sde_harl.meters import timing


class Clock:
    """Stands still until it is moved."""

    def __init__(self) -> None:
        self.ns = 0

    def __call__(self) -> int:
        return self.ns

    def move(self, seconds: float) -> None:
        """Lets time pass."""
        self.ns += max(0, math.ceil(seconds * 1e9))


def install(monkeypatch: pytest.MonkeyPatch) -> Clock:
    """Has every module of the package that is imported by now read a clock of the test."""
    clock = Clock()
    real = timing.now_ns
    for name, module in list(sys.modules.items()):
        if name.startswith("sde_harl.") and getattr(module, "now_ns", None) is real:
            monkeypatch.setattr(module, "now_ns", clock)
    return clock
