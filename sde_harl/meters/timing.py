"""Stopwatches. Clocks of two hosts are never subtracted."""

from __future__ import annotations

import time

now_ns = time.perf_counter_ns


class Stage:
    """One named stretch of work; adds the time between enter and exit."""

    __slots__ = ("_entered_ns", "total_ns")

    def __init__(self) -> None:
        self.total_ns = 0
        self._entered_ns = 0

    def __enter__(self) -> None:
        self._entered_ns = now_ns()

    def __exit__(self, *error: object) -> None:
        self.total_ns += now_ns() - self._entered_ns


class Stages:
    """`with stages("encode"): ...` adds up the time of each named stage. A stage may not be nested in itself."""

    def __init__(self) -> None:
        self._stages: dict[str, Stage] = {}

    def __call__(self, name: str) -> Stage:
        stage = self._stages.get(name)
        if stage is None:
            stage = self._stages[name] = Stage()
        return stage

    def take(self) -> dict[str, float]:
        """Seconds by stage since the last take, in order of first use."""
        seconds = {name: stage.total_ns * 1e-9 for name, stage in self._stages.items()}
        for stage in self._stages.values():
            stage.total_ns = 0
        return seconds
