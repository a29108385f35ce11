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
DRAIN_BYTES = 1 << 16
"""Room for messages that are larger than any that is expected, all over one another."""


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
        # By rank: memory for its next frame of that size, so that a large one needs none anew.
        self._rooms: dict[int, memoryview] = {}
        self._drain = bytearray(DRAIN_BYTES)
        # Messages too large to be kept, which are still coming in: each sender and request.
        self._draining: list[tuple[int, Any]] = []

    def _give_up(self, dest: int) -> None:
        self.absent.add(dest)
        self.stuck.add(dest)

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
            size = status.Get_elements(self._byte)
            if size > self._frame_bytes:
                self._refuse(matched, source, size)
                continue
            frame = self._room_for(source, size)
            if size <= SHORT_BYTES and source not in self._coming:
                matched.Recv([frame, self._byte])
                complete.append((source, frame))
            else:
                request = matched.Irecv([frame, self._byte])
                self._coming.setdefault(source, deque()).append(Receiving(request, frame))

    def expect(self, source: int, room: memoryview) -> None:
        self._rooms[source] = room

    def _room_for(self, source: int, size: int) -> memoryview:
        room = self._rooms.get(source)
        if room is None or len(room) != size:
            return memoryview(bytearray(size))
        # Only once: a second frame of this size must not write over the first.
        del self._rooms[source]
        return room

    def _refuse(self, matched: Any, source: int, size: int) -> None:
        """Counts a message that is larger than any expected one, and receives it into nowhere."""
        self.received[source] += 1
        self.received_bytes += size
        self.faults.count(source, "oversize")
        # It has to be received, or its sender could never leave MPI. A buffer of its size would
        # let a device decide how much memory this process takes; a shorter one Open MPI 5 writes
        # past. So all pieces of it go to the same place: the stride between them is 0.
        pieces = -(-size // DRAIN_BYTES)
        nowhere = self._byte.Create_hvector(pieces, DRAIN_BYTES, 0).Commit()
        self._draining.append((source, matched.Irecv([self._drain, 1, nowhere])))
        # MPI keeps what it needs of the type until the message is here.
        nowhere.Free()

    def _arrived(self) -> list[tuple[int, memoryview]]:
        self._take_in()
        if self._coming:
            self._finish()
        if self._draining:
            self._draining = [
                (source, request)
                for source, request in self._draining
                if source not in self.lost and not self._is_here(request)
            ]
        complete = self._complete
        self._complete = []
        return complete

    def _finish(self) -> None:
        """Moves long messages that are here to the complete ones, each rank's in order."""
        for source, coming in list(self._coming.items()):
            room = MATCHES_A_POLL - len(self._complete)
            while (
                coming and room > 0 and source not in self.lost and self._is_here(coming[0].request)
            ):
                room -= 1
                self._complete.append((source, coming.popleft().frame))
            if not coming or source in self.lost:
                del self._coming[source]

    def _is_here(self, request: Any) -> bool:
        try:
            return bool(request.Test())
        except self._mpi.Exception as error:
            self._note_failure(error)
            return False
