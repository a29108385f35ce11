"""Measures what a host uses, in joules, where it has a sensor; where it has none, says why.

A host may have two sensors: `host` (its processors, or all of the board) and `gpu`. On some hosts
the first includes the second and on others it doesn't, so they are kept apart and never added up. A
sensor counts everything that runs on its host, not this process alone. Where there is no sensor the
joules are NaN: no wattage is ever assumed.
"""

from __future__ import annotations

import math
import threading
import time
from collections.abc import Callable
from functools import partial
from pathlib import Path
from typing import NamedTuple

from sde_harl.meters.sensors import Counter, Power, UnreadableError, ina3221, nvml, pmic, rapl

ROOT = Path("/")


class Joules(NamedTuple):
    """Joules (or watts) of a host; NaN where it has no such sensor."""

    host: float
    gpu: float


NOTHING = Joules(host=math.nan, gpu=math.nan)


class Integral(threading.Thread):
    """Adds up the joules of a sensor that shows watts.

    A thread of its own samples the sensor, since callers ask too seldom: between two of their
    questions the power may rise and fall. Between two samples the power is taken as a straight
    line, so that each pair adds a trapezoid.
    """

    def __init__(self, power: Power) -> None:
        super().__init__(daemon=True)  # so that it doesn't keep the process alive
        self._power = power
        self._lock = threading.Lock()
        self._total_j = 0.0
        self._last_w = power.watts()
        self._last_s = time.perf_counter()
        self.start()

    def run(self) -> None:
        while True:
            time.sleep(self._power.period_s)
            try:
                self.joules()
            except UnreadableError:
                # Sensors may fail for a moment, so the thread goes on. A caller of `joules` gets
                # the error itself.
                continue

    def joules(self) -> float:
        """Takes a sample; returns the joules from the start up to now. Raises UnreadableError."""
        # Called by the sampling thread and by the run's.
        with self._lock:
            watts = self._power.watts()
            now_s = time.perf_counter()
            self._total_j += 0.5 * (self._last_w + watts) * (now_s - self._last_s)
            self._last_w = watts
            self._last_s = now_s
            return self._total_j


class Energy:
    """The energy sensors of this host."""

    def __init__(self) -> None:
        host = _first([partial(rapl, ROOT), partial(ina3221, ROOT), partial(pmic, ROOT)])
        gpu = _first([nvml])
        self._read_host = host.joules
        self._read_gpu = gpu.joules
        self.host_scope = host.scope
        """Tells what the host's sensor covers, or why there is none."""
        self.gpu_scope = gpu.scope
        """Tells what the GPUs' sensor covers, or why there is none."""

    def joules(self) -> Joules:
        """Returns the joules used since a moment that is fixed for this object.

        Only differences of two results mean something. NaN where nothing can be read.
        """
        return Joules(host=_read(self._read_host), gpu=_read(self._read_gpu))

    def idle_watts(self, seconds: float) -> Joules:
        """Waits so many seconds and returns the mean watts of that time.

        The process should do nothing meanwhile. Without a sensor there is no wait.
        """
        has_sensor = self._read_host is not None or self._read_gpu is not None
        if not seconds or not has_sensor:
            return NOTHING
        before = self.joules()
        started_s = time.perf_counter()
        time.sleep(seconds)
        after = self.joules()
        elapsed_s = time.perf_counter() - started_s  # a pause may last longer than asked
        return Joules(
            host=(after.host - before.host) / elapsed_s, gpu=(after.gpu - before.gpu) / elapsed_s
        )


class _Reader(NamedTuple):
    """A way to read joules, or None where there is no sensor; and what to say about it."""

    joules: Callable[[], float] | None
    scope: str


def _first(sensors: list[Callable[[], Counter | Power]]) -> _Reader:
    """Returns the first sensor that can be read; if there is none, the reasons of all."""
    reasons = []
    for find in sensors:
        try:
            return _reader(find())
        except UnreadableError as error:
            reasons.append(str(error))
    return _Reader(joules=None, scope=f"not measurable here: {'; '.join(reasons)}")


def _reader(sensor: Counter | Power) -> _Reader:
    if isinstance(sensor, Counter):
        return _Reader(joules=sensor.joules, scope=sensor.scope)
    return _Reader(joules=Integral(sensor).joules, scope=sensor.scope)


def _read(reader: Callable[[], float] | None) -> float:
    """Returns the joules; NaN without a sensor, and where it fails just now."""
    if reader is None:
        return math.nan
    try:
        return reader()
    except UnreadableError:
        return math.nan
