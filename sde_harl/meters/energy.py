"""What a host uses, in joules, where it has a sensor; where it has none, the reason. No wattage is ever assumed.

A host may have two: `host` (its processors, or the whole board) and `gpu`. They overlap on some hosts and not on
others, so they are kept apart. A sensor counts for everything that runs on its host, not for this process alone.
"""

from __future__ import annotations

import math
import threading
import time
from collections.abc import Callable
from pathlib import Path
from typing import NamedTuple

from sde_harl.meters.sensors import Counter, Power, Unreadable, ina3221, nvml, pmic, rapl

ROOT = Path("/")


class Joules(NamedTuple):
    """Of a host; NaN where it has no such sensor."""

    host: float
    gpu: float


NOTHING = Joules(math.nan, math.nan)


class Integral(threading.Thread):
    """Joules of a sensor that shows watts: the trapezoids between samples, taken by a thread of its own."""

    def __init__(self, power: Power) -> None:
        super().__init__(daemon=True)
        self._power, self._lock = power, threading.Lock()
        self._total, self._last, self._then = 0.0, power.watts(), time.perf_counter()
        self.start()

    def run(self) -> None:
        while True:
            time.sleep(self._power.period_s)
            try:
                self.joules()
            except Unreadable:
                continue  # whoever asks is told

    def joules(self) -> float:
        """Since the start, up to now."""
        with self._lock:
            watts, now = self._power.watts(), time.perf_counter()
            self._total += 0.5 * (self._last + watts) * (now - self._then)
            self._last, self._then = watts, now
            return self._total


class Energy:
    """The sensors of this host."""

    def __init__(self) -> None:
        self._host, self.host_scope = _first(
            [lambda: rapl(ROOT), lambda: ina3221(ROOT), lambda: pmic(ROOT)]
        )
        """What the host's sensor covers, or why there is none."""
        self._gpu, self.gpu_scope = _first([nvml])
        """What the GPUs' sensor covers, or why there is none."""

    def joules(self) -> Joules:
        """Used since this was made, or since some moment before; NaN where nothing can be read."""
        return Joules(_read(self._host), _read(self._gpu))

    def idle_watts(self, seconds: float) -> Joules:
        """Mean watts over a pause of so many seconds, in which we should not work; no pause without a sensor."""
        if not seconds or not (self._host or self._gpu):
            return NOTHING
        before, started = self.joules(), time.perf_counter()
        time.sleep(seconds)
        after, elapsed = self.joules(), time.perf_counter() - started
        return Joules(*((now - then) / elapsed for now, then in zip(after, before)))


def _first(sensors: list[Callable[[], Counter | Power]]) -> tuple[Callable[[], float] | None, str]:
    """The first that can be read, and what it covers; else the reasons of all."""
    reasons = []
    for find in sensors:
        try:
            sensor = find()
            reader = sensor.joules if isinstance(sensor, Counter) else Integral(sensor).joules
            return reader, sensor.scope
        except Unreadable as error:
            reasons.append(str(error))
    return None, f"not measurable here: {'; '.join(reasons)}"


def _read(reader: Callable[[], float] | None) -> float:
    try:
        return reader() if reader else math.nan
    except Unreadable:
        return math.nan
