"""Measures what this process uses of its host."""

from __future__ import annotations

import resource
import sys
from pathlib import Path
from typing import NamedTuple

import psutil

STATUS = Path("/proc/self/status")


class Sample(NamedTuple):
    """Holds what a process has used since it began."""

    cpu_s: float
    """CPU seconds, user and system, of all threads."""
    rss_bytes: int
    """Resident memory at this moment."""
    peak_rss_bytes: int
    """The most resident memory so far."""


class Process:
    """This process, ready to be sampled."""

    def __init__(self) -> None:
        self._process = psutil.Process()

    def sample(self) -> Sample:
        """Returns what has been used up to now."""
        with self._process.oneshot():  # psutil reads each file of /proc once for both questions
            cpu = self._process.cpu_times()
            rss = self._process.memory_info().rss
        return Sample(
            cpu_s=cpu.user + cpu.system,
            rss_bytes=rss,
            # they come from two files of the kernel, which needn't agree
            peak_rss_bytes=max(rss, _peak_rss_bytes()),
        )


def _peak_rss_bytes() -> int:
    # getrusage's peak is inherited through exec from the process that started this one, so a small
    # process started by a large one would report the large one's; the kernel's VmHWM begins anew.
    if STATUS.exists():
        for line in STATUS.read_text().splitlines():
            if line.startswith("VmHWM:"):
                return int(line.split()[1]) * 1024
    peak = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
    if sys.platform == "darwin":
        return peak  # macOS counts bytes, Linux kilobytes
    return peak * 1024
