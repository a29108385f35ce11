"""What this process uses of its host."""

from __future__ import annotations

import resource
import sys
from pathlib import Path
from typing import NamedTuple

import psutil

STATUS = Path("/proc/self/status")


class Sample(NamedTuple):
    """CPU seconds (user and system, all threads), resident and peak resident bytes, since the process began."""

    cpu_s: float
    rss_bytes: int
    peak_rss_bytes: int


class Process:
    """This process, ready to be sampled."""

    def __init__(self) -> None:
        self._process = psutil.Process()

    def sample(self) -> Sample:
        """What has been used up to now."""
        with self._process.oneshot():
            cpu = self._process.cpu_times()
            rss = self._process.memory_info().rss
        return Sample(cpu.user + cpu.system, rss, max(rss, _peak_rss_bytes()))


def _peak_rss_bytes() -> int:
    # getrusage's peak is inherited through exec from whoever started us, so a small process started by a large one
    # would report the large one's; the kernel's VmHWM begins anew.
    if STATUS.exists():
        for line in STATUS.read_text().splitlines():
            if line.startswith("VmHWM:"):
                return int(line.split()[1]) * 1024
    peak = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
    return peak if sys.platform == "darwin" else peak * 1024
