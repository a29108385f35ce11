"""Counting what the link refused and whom it lost: who and why, never silently."""

from __future__ import annotations

import logging
from collections import Counter, deque
from typing import NamedTuple

log = logging.getLogger(__name__)

LOGGED_PER_RANK = 3  # a broken device repeats itself: the first few lines tell the story, the counter tells the rest
FLOOD = 1000  # refused messages of one rank that are no accident any more
KEPT = 1024  # rows kept for the record between two drains; `counts` stays exact beyond that


class Fault(NamedTuple):
    """One refused message, or what else befell an executor; 0 where the header could not be trusted."""

    rank: int
    reason: str
    step: int
    """As in the header: the number of the decision in its slot."""
    agent: int
    """-1 where it is all of the executor's."""


class Faults:
    """Refused messages of one process, by sender and reason."""

    def __init__(self, rank: int) -> None:
        self.counts: Counter[tuple[int, str]] = Counter()
        self._rank = rank
        self._seen: Counter[int] = Counter()
        self._rows: deque[Fault] = deque(maxlen=KEPT)
        self.flood: Fault | None = None
        """The message of the first rank to have sent FLOOD wrong ones that made them so many."""

    @property
    def total(self) -> int:
        """All refused messages so far."""
        return sum(self._seen.values())

    def count(self, source: int, reason: str, *, step: int = 0, agent: int = 0) -> None:
        """Counts one refused message of rank `source`; `reason` is a short slug such as "crc"."""
        self.counts[source, reason] += 1
        self._seen[source] += 1
        self._rows.append(Fault(source, reason, step, agent))
        if self._seen[source] == FLOOD and not self.flood:
            self.flood = self._rows[-1]
        if self._seen[source] <= LOGGED_PER_RANK:
            last = (
                " (further ones are only counted)" if self._seen[source] == LOGGED_PER_RANK else ""
            )
            log.warning(
                "rank %d refused a message of rank %d: %s%s", self._rank, source, reason, last
            )

    def note(self, rank: int, kind: str, line: str) -> None:
        """Notes something else that befell `rank`; `kind` is a short slug such as "absent", `line` says it in full."""
        self.counts[rank, kind] += 1
        self._rows.append(Fault(rank, kind, 0, -1))
        if self.counts[rank, kind] <= LOGGED_PER_RANK:
            last = (
                " (further times are only counted)"
                if self.counts[rank, kind] == LOGGED_PER_RANK
                else ""
            )
            log.warning("%s%s", line, last)

    def drain(self) -> list[Fault]:
        """The faults since the last drain, oldest first, for the record."""
        rows = list(self._rows)
        self._rows.clear()
        return rows
