"""Waits for answers, and notices meanwhile which executors are late, absent, back or lost."""

from __future__ import annotations

from collections.abc import Callable, Mapping

from sde_harl.errors import UserError
from sde_harl.link.faults import FLOOD, Fault
from sde_harl.link.transport import Transport
from sde_harl.meters.timing import now_ns
from sde_harl.server.membership import Membership, Question
from sde_harl.server.publisher import Publisher
from sde_harl.server.receiver import Receiver
from sde_harl.server.redeal import Dealer
from sde_harl.server.settings import PoolSettings
from sde_harl.server.slot import Slot

POLL_S = 0.1
"""Longest single wait: MPI reports a dead process between two of them."""


class AnswerWaiter:
    """Takes in what executors send until something has come, or it is too late.

    All methods that wait raise UserError where an executor is given up and the run may not go on
    without it.
    """

    def __init__(
        self,
        transport: Transport,
        settings: PoolSettings,
        *,
        membership: Membership,
        receiver: Receiver,
        publisher: Publisher,
        slots: list[Slot],
        dealer: Dealer | None,
    ) -> None:
        """`dealer` deals what lost executors did; None where nobody does it any more."""
        self._transport = transport
        self._settings = settings
        self._membership = membership
        self._receiver = receiver
        self._publisher = publisher
        self._slots = slots
        self._dealer = dealer

    def wait(self, is_done: Callable[[], bool], until_ns: int) -> bool:
        """Takes in what comes until `is_done`; returns False if it isn't when the time is over."""
        while not is_done():
            left_s = (until_ns - now_ns()) * 1e-9
            for message in self._transport.wait(min(left_s, POLL_S)):
                self._receiver.receive(message)
            # What follows is rare, and each test is one look at an empty container.
            if self._receiver.returned:
                self._take_back()
            if self._receiver.parted or self._has_lost():
                self._note_losses()
            if self._transport.faults.flood:
                self._check_flood(self._transport.faults.flood)
            if left_s <= 0:
                # Checked once more: the answer may have come with the last messages.
                return is_done()
        return True

    def note_missed(self, questions: dict[int, list[Question]], since_ns: int, what: str) -> None:
        """Notes questions, by rank, that were not answered in time.

        They were asked at `since_ns`; `what` says, for users, what the executor has not done.
        """
        now = now_ns()
        for rank, each in questions.items():
            if self._membership.missed(rank, each, now_ns=now, since_ns=since_ns):
                self._note(rank, "absent", f"{what}; its agents do without it until it answers")
        # All ranks, not only those of `questions`: any may have been silent for too long by now.
        silent = self._membership.timed_out(now)
        for rank in silent:
            if not self._settings.survives_losses:
                raise self.give_up(rank, what)
        # Where its agents do nothing without it, it may still come back.
        if silent and self._dealer:
            self.lose(dict.fromkeys(silent, f"{what} within {self._timeout()}"))

    def give_up(self, rank: int, what: str) -> UserError:
        """Marks an executor absent; returns the error that says what it did not do in time."""
        self._transport.absent.add(rank)
        return UserError(f"{self._name(rank)} {what} within {self._timeout()}")

    def _timeout(self) -> str:
        return f"link.failure_timeout_s = {self._settings.failure_timeout_s:g} s"

    def error(self, rank: int, what: str) -> UserError:
        """Returns the error that says what is wrong with an executor."""
        return UserError(f"{self._name(rank)}: {what}")

    def _check_flood(self, flood: Fault) -> None:
        # A run that survives losses drops these messages, and its record has their number.
        if not self._settings.survives_losses:
            raise UserError(
                f"{self._name(flood.rank)}: {FLOOD:,} of its messages were wrong, "
                f"the last: {flood.reason}"
            )

    def _take_back(self) -> None:
        """Brings executors that were absent and have answered all they owed up to date."""
        for rank in self._receiver.returned:
            self._note(rank, "back", "answers again")
            self._publisher.catch_up(rank)
        self._receiver.returned.clear()
        # There may have been nobody to deal to.
        self._redeal()

    def _has_lost(self) -> bool:
        """Returns whether the transport has lost an executor that still counts as one."""
        lost = self._membership.lost
        return not (self._transport.lost <= lost and self._transport.stuck <= lost)

    def _note_losses(self) -> None:
        """Stops waiting for executors that will not come back."""
        parted = self._receiver.parted
        why_lost = {
            **dict.fromkeys(self._transport.stuck, "takes none of the messages that it is sent"),
            **dict.fromkeys(self._transport.lost, "its process has ended"),
            **parted,
        }
        # These still run, so they hear the goodbye at the end.
        self._transport.parted |= parted.keys()
        parted.clear()
        lost = self._membership.lost
        self.lose({rank: why for rank, why in why_lost.items() if rank not in lost})

    def lose(self, why: Mapping[int, str]) -> None:
        """Expects nothing more of executors that will not come back, and says why of each.

        Raises UserError where the run may not go on without one, or none is left.
        """
        without = "its agents do without it"
        if self._dealer:
            without = "others take over"
        for rank, reason in why.items():
            # A run doesn't begin without one that has never said hello.
            if not self._settings.survives_losses or rank not in self._receiver.hosts:
                raise self.error(rank, reason)
            self._note(rank, "lost", f"{reason}; {without}")
        ranks = {*why}
        self._membership.lose(ranks)
        # Even a run that goes on without some executors has nothing to do without all.
        if self._membership.lost >= {*self._transport.executors}:
            raise UserError("no executor is left")
        for slot in self._slots:
            if slot.missing:
                slot.leave_out(ranks)
        self._redeal()

    def _redeal(self) -> None:
        """Deals what lost executors did, where the run is to."""
        if not self._dealer:
            return
        membership = self._membership
        for rank, does in self._dealer.deal(membership.lost, membership.absent).items():
            self._note(rank, "redealt", does)

    def _note(self, rank: int, kind: str, what: str) -> None:
        """Writes an event to the log and the record."""
        self._transport.faults.note(rank, kind, f"{self._name(rank)}: {kind}: {what}")

    def _name(self, rank: int) -> str:
        """Returns a rank and its host, as users read them."""
        if rank in self._transport.learners:
            return f"learner {rank}"
        # It may have been lost before it said hello.
        host = "unknown host"
        if rank in self._receiver.hosts:
            host = self._receiver.hosts[rank].host
        return f"executor {rank} ({host})"
