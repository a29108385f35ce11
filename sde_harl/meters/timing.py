"""Stopwatches. The clocks of two hosts are never subtracted: each measures spans of its own."""

from __future__ import annotations

import time

now_ns = time.perf_counter_ns


class Stage:
    """Adds up the time between entering and leaving one named stretch of work."""

    __slots__ = ("_entered_ns", "total_ns")  # entered several times at every decision

    def __init__(self) -> None:
        self.total_ns = 0
        self._entered_ns = 0

    def __enter__(self) -> None:
        self._entered_ns = now_ns()

    def __exit__(self, *error: object) -> None:
        self.total_ns += now_ns() - self._entered_ns


class Stages:
    """Adds up the time of each named stage: `with stages("encode"): ...`.

    A stage must not be nested in itself: its second entry would overwrite the time of its first.
    """

    def __init__(self) -> None:
        self._stages: dict[str, Stage] = {}

    def __call__(self, name: str) -> Stage:
        stage = self._stages.get(name)
        if stage is None:
            stage = Stage()
            self._stages[name] = stage
        return stage

    def take(self) -> dict[str, float]:
        """Returns seconds by stage since the last `take`, in order of first use."""
        seconds = {name: stage.total_ns * 1e-9 for name, stage in self._stages.items()}
        for stage in self._stages.values():
            stage.total_ns = 0
        return seconds
