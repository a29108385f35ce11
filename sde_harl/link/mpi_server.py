"""Rank 0's end of the link over MPI.

It takes messages from anyone, so it probes for each and learns its size before it makes room.
"""

from __future__ import annotations

from collections import deque
from typing import Any, NamedTuple

from sde_harl.link.mpi_end import MpiEnd
from sde_harl.link.transport import Collecting
from sde_harl.link.waiting import Waiter

# Bounded, so that a flood of one rank can't keep the others from being heard.
MATCHES_A_POLL = 256
"""Messages taken in at a time."""
# Every MPI sends so few bytes together with the announcement (the eager protocol): once matched,
# they are here.
SHORT_BYTES = 2048


class Receiving(NamedTuple):
    """A message that is still coming in."""

    request: Any
    frame: memoryview


class MpiServer(MpiEnd, Collecting):
    """Receives from all executors over MPI."""

    def __init__(self, mpi: Any, waiter: Waiter) -> None:
        super().__init__(mpi, waiter)
        self._anyone = mpi.ANY_SOURCE
        self._complete: list[tuple[int, memoryview]] = []
        # By rank: its long messages that are still coming in, and what it sent after them. A short
        # message must not overtake a long one of the same rank.
        self._coming: dict[int, deque[Receiving]] = {}

    def _take_in(self) -> None:
        # A matched probe, not a posted receive: when a message is longer than the posted buffer,
        # Open MPI 5 writes past the buffer's end before it reports MPI_ERR_TRUNCATE. The probe
        # tells the size first.
        try:
            self._match()
        except self._mpi.Exception as error:
            self._note_failure(error)

    def _match(self) -> None:
        comm = self._comm
        status = self._status
        complete = self._complete
        for _ in range(MATCHES_A_POLL):
            matched = comm.Improbe(self._anyone, status=status)
            if matched is None and not complete:
                # Open MPI looks first and moves messages in afterwards, so only a second look sees
                # what has just come. With something in hand already that can wait: a fruitless look
                # may cost the core.
                matched = comm.Improbe(self._anyone, status=status)
            if matched is None:
                return
            source = status.Get_source()
            size = status.Get_count(self._byte)
            frame = memoryview(bytearray(size))
            if size <= SHORT_BYTES and source not in self._coming:
                matched.Recv([frame, self._byte])
                complete.append((source, frame))
            else:
                request = matched.Irecv([frame, self._byte])
                self._coming.setdefault(source, deque()).append(Receiving(request, frame))

    def _arrived(self) -> list[tuple[int, memoryview]]:
        self._take_in()
        if self._coming:
            self._finish()
        complete = self._complete
        self._complete = []
        return complete

    def _finish(self) -> None:
        """Moves long messages that are here to the complete ones, each rank's in order."""
        for source, coming in list(self._coming.items()):
            room = MATCHES_A_POLL - len(self._complete)
            while coming and room > 0 and source not in self.lost and self._is_here(coming[0]):
                room -= 1
                self._complete.append((source, coming.popleft().frame))
            if not coming or source in self.lost:
                del self._coming[source]

    def _is_here(self, receiving: Receiving) -> bool:
        try:
            return bool(receiving.request.Test())
        except self._mpi.Exception as error:
            self._note_failure(error)
            return False
