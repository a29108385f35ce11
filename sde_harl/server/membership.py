"""Who answers: what each executor still owes, who is waited for, and who has been silent for how long."""

from __future__ import annotations

from collections.abc import Iterable
from typing import NamedTuple

ABSENT_NS = 1_000_000_000
"""Silence after which an executor is asked nothing more until it has answered. Longer than a radio link's worst
retransmissions, so that these are waited for; short, because every decision until then waits for its whole deadline."""
REPORT = -1
"""The slot of a question that is no observation: METER."""


class Question(NamedTuple):
    """Something that an executor was sent and has an answer to."""

    slot: int
    number: int
    """Of the slot's decision."""
    agent: int
    """The first of those that the answer is for: of whole policies an executor's all, else this one."""


class Membership:
    """The questions that were not answered in time, and what follows from them.

    `absent` is the transport's own set: nobody waits for those in it, and nothing is sent to them.
    """

    def __init__(self, ranks: Iterable[int], absent: set[int], patience_ns: int) -> None:
        self.absent, self.lost = absent, set[int]()
        """`lost` of `absent` are those that never come back: their process has ended, or they have said so."""
        self.debtors = set[int]()
        """Those that owe anything."""
        self._patience_ns = patience_ns
        self._owed: dict[int, dict[Question, int]] = {rank: {} for rank in ranks}

    def missed(self, rank: int, questions: Iterable[Question], now_ns: int, since_ns: int) -> bool:
        """Note questions of `since_ns` that have no answer; True if the executor is absent from now on."""
        owed = self._owed[rank]
        for question in questions:
            owed[question] = since_ns
            self.debtors.add(rank)
        if rank in self.absent or self.silent_ns(rank, now_ns) < min(ABSENT_NS, self._patience_ns):
            return False
        self.absent.add(rank)
        return True

    def is_owed(self, rank: int, question: Question) -> bool:
        return question in self._owed[rank]

    def heard(self, rank: int, question: Question) -> bool:
        """Settle a question that has been answered; True if the executor was absent and is back, owing nothing more.

        MPI keeps the order of what one rank sends: an earlier question about the same slot has no answer coming any
        more, and before a report none at all.
        """
        owed = self._owed[rank]
        for each in [*owed]:
            if question.slot == REPORT or (
                each.slot == question.slot and each.number < question.number
            ):
                del owed[each]
        owed.pop(question, None)
        if not owed:
            self.debtors.discard(rank)
        if owed or rank not in self.absent or rank in self.lost:
            return False
        self.absent.discard(rank)
        return True

    def silent_ns(self, rank: int, now_ns: int) -> int:
        """How long the oldest of its answers has been due; 0 if none is."""
        owed = self._owed[rank]
        return now_ns - next(iter(owed.values())) if owed else 0

    def impatient(self, now_ns: int) -> list[int]:
        """Ranks that have owed an answer for longer than the patience."""
        return [rank for rank in self._owed if self.silent_ns(rank, now_ns) >= self._patience_ns]
