"""Counts refused messages and lost executors, so that nothing is dropped silently."""

from __future__ import annotations

import logging
from collections import Counter
from typing import NamedTuple

log = logging.getLogger(__name__)

LOGGED_PER_RANK = 3
"""Lines that are logged for each rank. A broken device repeats itself: the counter has the rest."""
FLOOD = 1000
"""Refused messages of one rank that can be no accident."""
KEPT = 1024
"""Refused messages of one rank kept for the record between two drains, its first ones; `counts`
stays exact beyond that."""


class Fault(NamedTuple):
    """One refused message, or something else that happened to an executor."""

    rank: int
    reason: str
    step: int
    """As in the header, the number of the decision in its slot; 0 where the header could not be
    trusted."""
    agent: int
    """Agent that the header names, 0 where it could not be trusted; -1 where all of the executor's
    are concerned."""


class Faults:
    """Holds the refused messages of one process, by sender and reason."""

    def __init__(self, rank: int) -> None:
        self.counts: Counter[tuple[int, str]] = Counter()
        self._rank = rank
        self._refused: Counter[int] = Counter()
        self._rows: list[Fault] = []
        # For each rank, so that a flood of one can't hide what another does.
        self._kept: Counter[int] = Counter()
        self.flood: Fault | None = None
        """The message that brought the first rank to FLOOD refused ones; None while no rank has as
        many."""

    @property
    def total(self) -> int:
        """Number of refused messages so far."""
        return sum(self._refused.values())

    def count(self, source: int, reason: str, *, step: int = 0, agent: int = 0) -> None:
        """Counts one refused message of rank `source`; `reason` is a short slug such as "crc"."""
        fault = Fault(rank=source, reason=reason, step=step, agent=agent)
        self.counts[source, reason] += 1
        self._refused[source] += 1
        if self._kept[source] < KEPT:
            self._kept[source] += 1
            self._rows.append(fault)
        refused = self._refused[source]
        if refused == FLOOD and not self.flood:
            self.flood = fault
        if refused > LOGGED_PER_RANK:
            return
        last = ""
        if refused == LOGGED_PER_RANK:
            last = " (further ones are only counted)"
        log.warning("rank %d refused a message of rank %d: %s%s", self._rank, source, reason, last)

    def note(self, rank: int, kind: str, line: str) -> None:
        """Notes that something else happened to `rank`.

        `kind` is a short slug such as "absent", `line` a sentence for the log.
        """
        self.counts[rank, kind] += 1
        self._rows.append(Fault(rank=rank, reason=kind, step=0, agent=-1))
        times = self.counts[rank, kind]
        if times > LOGGED_PER_RANK:
            return
        last = ""
        if times == LOGGED_PER_RANK:
            last = " (further times are only counted)"
        log.warning("%s%s", line, last)

    def drain(self) -> list[Fault]:
        """Returns the faults since the last drain, oldest first, for the record."""
        rows = self._rows
        self._rows = []
        self._kept.clear()
        return rows
