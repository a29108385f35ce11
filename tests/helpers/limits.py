"""Time limits of the tests. They are for hangs alone: no test fails because the machine is slow.

A wait ends when the thing happens. Its limit is generous, and grows with how slow the machine is
at the beginning of the session.
"""

from __future__ import annotations

import os
import statistics
import subprocess
import sys
import time
from collections.abc import Callable

import pytest

IDLE_START_S = 0.12
"""Seconds that START takes on an idle machine of the kind that the limits were chosen on."""
START = "import numpy"
SLOWNESS = "SDE_HARL_TEST_SLOWNESS"
"""The environment variable that hands the measurement on to the workers of pytest-xdist."""
WAIT_S = 300.0
"""Limit of one wait, on an idle machine. All that the tests wait for takes seconds there."""
TEST_S = 900.0
"""Limit of one test, on an idle machine. It is longer than WAIT_S, so that a wait can tell what it
waited for."""


def slowness() -> float:
    """Returns how many times slower than an idle one this machine is; at least 1.

    It is measured once in a session.
    """
    if SLOWNESS not in os.environ:
        # The first start may read files that are not in memory, so it is the median that counts.
        start_s = statistics.median(time_start() for _ in range(3))
        os.environ[SLOWNESS] = f"{max(1.0, start_s / IDLE_START_S):.2f}"
    return float(os.environ[SLOWNESS])


def time_start() -> float:
    """Returns the seconds that a Python with numpy takes to start and end, by the wall clock."""
    began = time.perf_counter()
    subprocess.run([sys.executable, "-c", START], check=True)
    return time.perf_counter() - began


def hang_limit_s(base_s: float = WAIT_S) -> float:
    """Returns the limit for something that takes far less than `base_s` on an idle machine."""
    return base_s * slowness()


def wait_until(
    happened: Callable[[], object], what: str, *, is_alive: Callable[[], bool] = lambda: True
) -> None:
    """Waits until something has happened.

    Fails the test where it can't happen any more because `is_alive` is false, or after the limit.
    """
    deadline = time.monotonic() + hang_limit_s()
    while not happened():
        # What has ended may have done it since the last look.
        if not is_alive() and not happened():
            pytest.fail(f"ended without: {what}")
        if time.monotonic() > deadline:
            pytest.fail(f"waited {hang_limit_s():.0f} s in vain for: {what}")
        time.sleep(0.02)
