"""The executors' reports: what they have used and how long their answers took.

N agents, n of one executor, K decisions since the last report, k of those that the executor was
asked about.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import NamedTuple

import numpy as np
from numpy.typing import NDArray

from sde_harl.link.wire import WireError
from sde_harl.protocol.resources import Resources, unpack_meter
from sde_harl.server.decision_log import DecisionLog, Decisions


class Report(NamedTuple):
    """One executor's report."""

    resources: Resources
    timings: NDArray[np.uint32]
    """(k, n, 3) uint32 ns for each decision and agent of the executor: local net, encode, round
    trip."""


class PoolReport(NamedTuple):
    """Everything that happened since the last report."""

    decisions: Decisions
    resources: dict[int, Resources]
    """By rank, of each executor that is there."""


def read_report(payload: memoryview, agents: int) -> Report:
    """Reads a METER payload of an executor with so many agents. Raises WireError("meter")."""
    resources, timings = unpack_meter(payload)
    if len(timings) % agents:
        raise WireError("meter")
    return Report(resources=resources, timings=timings.reshape(-1, agents, 3))


class Reports:
    """Holds the reports that are being waited for."""

    def __init__(self) -> None:
        self.number = 0
        """Number of the reports that are waited for; another one is late or wrong."""
        self.received: dict[int, Report] = {}

    def begin(self) -> int:
        """Begins to wait for new reports; returns their number."""
        self.received.clear()
        # Another number, so that a late report of the last round doesn't count for this one.
        self.number += 1
        return self.number

    def device_ns(
        self, decisions: DecisionLog, executors: Mapping[int, tuple[int, ...]]
    ) -> NDArray[np.uint32]:
        """Returns the executors' times (K, N, 3) uint32 of a log's decisions; 0 where unknown."""
        agents = sum(map(len, executors.values()))
        times = np.zeros((len(decisions), agents, 3), np.uint32)
        for rank, report in self.received.items():
            rows = np.flatnonzero(decisions.was_asked(rank))
            # None where the executor was lost since it reported.
            held = executors.get(rank, ())
            # Another count of rows means that some answers never came: then it is unknown which
            # decision a row is of. Another one of agents: they were dealt anew since.
            if report.timings.shape[:2] == (len(rows), len(held)):
                times[np.ix_(rows, np.array(held, np.intp))] = report.timings
        return times

    def resources(self) -> dict[int, Resources]:
        """Returns what each executor that has reported has used."""
        return {rank: report.resources for rank, report in self.received.items()}
