"""Keeps which executors take part: what each still has to answer, and which are absent."""

from __future__ import annotations

from collections.abc import Iterable
from typing import NamedTuple

# Longer than a radio link's worst retransmissions, so that those are waited for; short, because
# until then every decision waits to the end of its deadline.
ABSENT_NS = 1_000_000_000
"""Silence after which an executor gets no more questions until it has answered."""
REPORT = -1
"""The slot of a question that asks for a report (METER) instead of a decision."""


class Question(NamedTuple):
    """Something that an executor was sent and has to answer."""

    slot: int
    number: int
    """Number of the slot's decision, or of the report."""
    agent: int
    """The agent that the answer is for; where one answer is for all agents of an executor, the
    first of them."""


class Membership:
    """Keeps the questions that were not answered in time, and derives from them who is absent."""

    def __init__(self, ranks: Iterable[int], absent: set[int], failure_timeout_ns: int) -> None:
        """Starts with nothing owed.

        `absent` is the transport's own set: no call waits for ranks in it, and nothing is sent to
        them.
        """
        self.absent = absent
        self.lost: set[int] = set()
        """Those of `absent` that never come back: their process has ended, or they have said so."""
        self.owing: set[int] = set()
        """Ranks that owe any answer."""
        self._failure_timeout_ns = failure_timeout_ns
        # By rank: when each open question was asked, the oldest first.
        self._owed: dict[int, dict[Question, int]] = {rank: {} for rank in ranks}

    def missed(
        self, rank: int, questions: Iterable[Question], *, now_ns: int, since_ns: int
    ) -> bool:
        """Notes questions that have no answer; returns True if the executor is absent from now on.

        They were asked at `since_ns`.
        """
        owed = self._owed[rank]
        for question in questions:
            owed[question] = since_ns
            self.owing.add(rank)
        longest_ns = min(ABSENT_NS, self._failure_timeout_ns)
        if rank in self.absent or self.silent_ns(rank, now_ns) < longest_ns:
            return False
        self.absent.add(rank)
        return True

    def lose(self, ranks: Iterable[int]) -> None:
        """Expects nothing more of executors that will not come back."""
        self.lost.update(ranks)
        self.absent.update(ranks)
        for rank in ranks:
            self._owed[rank].clear()
            self.owing.discard(rank)

    def is_owed(self, rank: int, question: Question) -> bool:
        """Returns whether the executor still owes an answer to the question."""
        return question in self._owed[rank]

    def heard(self, rank: int, question: Question) -> bool:
        """Settles a question that was answered; returns True if the executor is back.

        That is, it was absent and now owes nothing more.
        """
        owed = self._owed[rank]
        _settle(owed, question)
        if not owed:
            self.owing.discard(rank)
        if owed or rank not in self.absent or rank in self.lost:
            return False
        self.absent.discard(rank)
        return True

    def silent_ns(self, rank: int, now_ns: int) -> int:
        """Returns how long the oldest of its answers has been due; 0 if none is."""
        owed = self._owed[rank]
        if not owed:
            return 0
        # A dict keeps its order: the first is the oldest.
        return now_ns - next(iter(owed.values()))

    def timed_out(self, now_ns: int) -> list[int]:
        """Returns the ranks that have owed an answer for as long as the failure timeout."""
        return [
            rank for rank in self._owed if self.silent_ns(rank, now_ns) >= self._failure_timeout_ns
        ]


def _settle(owed: dict[Question, int], question: Question) -> None:
    """Removes a question from those owed, with all that can have no answer any more."""
    # MPI keeps the order of what one rank sends: an earlier question about the same slot will have
    # no answer any more, and nor will any question asked before a report.
    for each in list(owed):
        is_older = each.slot == question.slot and each.number < question.number
        if question.slot == REPORT or is_older:
            del owed[each]
    owed.pop(question, None)
