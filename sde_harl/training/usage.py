"""Measures what every rank has used so far, for the tables /resources and /traffic."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import numpy as np
from numpy.typing import NDArray

from sde_harl.link.transport import Traffic
from sde_harl.meters.energy import Energy
from sde_harl.meters.network import Network
from sde_harl.meters.process import Process
from sde_harl.meters.timing import now_ns
from sde_harl.protocol.resources import Resources


class ServerUsage:
    """Rank 0's own meters. The names of what they show are those of `Resources`, the executors'."""

    def __init__(self, idle_s: float) -> None:
        """Measures the idle host's power for `idle_s` seconds, during which it waits."""
        self.energy = Energy()
        # Before anything else is measured: the pause must be no part of the run.
        self._idle = self.energy.idle_watts(idle_s)
        self._process = Process()
        self._network = Network()
        self._started_ns = now_ns()

    def seconds(self) -> float:
        """Returns the time since the run began."""
        return (now_ns() - self._started_ns) * 1e-9

    def resources(self) -> dict[str, float]:
        """Returns rank 0's numbers for /resources."""
        process = self._process.sample()
        joules = self.energy.joules()
        return {
            "cpu_s": process.cpu_s,
            "rss_bytes": process.rss_bytes,
            "peak_rss_bytes": process.peak_rss_bytes,
            "joules": joules.host,
            "gpu_joules": joules.gpu,
            "idle_w": self._idle.host,
            "gpu_idle_w": self._idle.gpu,
            # Decisions without the server: it takes none.
            "alone": 0,
        }

    def traffic(self, frames: Traffic) -> dict[str, int]:
        """Returns rank 0's numbers for /traffic: its `frames`, and what its interfaces carried."""
        # The kernel's counters of the interfaces in use, with all headers below ours.
        carried = self._network.sample()._asdict()
        return frames._asdict() | {f"carried_{name}": value for name, value in carried.items()}


def by_rank(
    own: Mapping[str, float], resources: Mapping[int, Resources]
) -> dict[str, NDArray[Any]]:
    """Returns a column for each name of rank 0's `own`: its value, then each executor's."""
    return {
        name: np.array([value, *(getattr(each, name) for each in resources.values())])
        for name, value in own.items()
    }
