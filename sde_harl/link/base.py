"""One rank's end of the link: what every transport does alike.

Executors talk to rank 0 only. Nothing here blocks: `poll` takes what has come, `wait` polls and sleeps in between.
"""

from __future__ import annotations

import time
from abc import ABC, abstractmethod
from collections import defaultdict
from dataclasses import dataclass
from typing import NamedTuple, NoReturn

from sde_harl.link.faults import Faults
from sde_harl.link.waiting import Waiter
from sde_harl.link.wire import HEADER, Buffer, Header, Kind, WireError, as_bytes, pack_into, unpack

FRAME_BYTES = 65536  # the largest frame the server takes before it knows the run's own
WEIGHTS_BYTES = 1 << 28  # the largest an executor takes: it follows the server anyway, and weights may be large
SMALLEST_BUFFER = 1024
SPARE_BUFFERS = 64  # kept of each size


class Message(NamedTuple):
    """A checked frame; `payload` is valid until the next poll."""

    source: int
    header: Header
    payload: memoryview


@dataclass
class Traffic:
    """What went to and came from one rank; bytes count whole frames, refused ones too."""

    messages_sent: int = 0
    bytes_sent: int = 0
    messages_received: int = 0
    bytes_received: int = 0


class Buffers:
    """Reusable buffers in powers of two, so that a steady run allocates nothing."""

    def __init__(self) -> None:
        self._spare: defaultdict[int, list[memoryview]] = defaultdict(list)

    def take(self, size: int) -> memoryview:
        """A buffer of at least `size` bytes; what it holds is left over from before."""
        capacity = max(SMALLEST_BUFFER, 1 << (size - 1).bit_length())
        spare = self._spare[capacity]
        return spare.pop() if spare else memoryview(bytearray(capacity))

    def give(self, buffer: memoryview) -> None:
        """Takes a buffer back for reuse."""
        spare = self._spare[len(buffer)]
        if len(spare) < SPARE_BUFFERS:
            spare.append(buffer)


class Transport(ABC):
    """One rank's end of the link. `run_id` None (before the WELCOME) accepts every run and sends 0."""

    def __init__(self, rank: int, size: int, waiter: Waiter, buffers: Buffers) -> None:
        self.rank = rank
        self.size = size
        self.run_id: int | None = None
        self.waiter = waiter
        self.faults = Faults(rank)
        peers = range(1, size) if rank == 0 else range(1)
        self.traffic = {peer: Traffic() for peer in peers}
        self._frame_bytes = WEIGHTS_BYTES if rank else FRAME_BYTES
        self._buffers = buffers
        self._lent: list[memoryview] = []  # under the payloads of the last poll

    def set_frame_bytes(self, size: int) -> None:
        """Refuses frames above `size` bytes from the next poll on."""
        self._frame_bytes = size

    def send(
        self,
        dest: int,
        kind: Kind,
        payload: Buffer = b"",
        *,
        agent: int = 0,
        step: int = 0,
        slot: int = 0,
        environments: int = 0,
        version: int = 0,
    ) -> int:
        """Copies the payload and sends it to `dest` without waiting; returns the frame's size in bytes.

        Raises TimeoutError if `dest` has taken none of its last 64 messages for a minute.
        """
        traffic = self.traffic[dest]
        body = payload if isinstance(payload, bytes) else as_bytes(payload)
        buffer = self._buffers.take(HEADER.size + len(body))
        header = Header(kind, agent, self.run_id or 0, step, slot, environments, version)
        size = pack_into(buffer, header, body)
        self._post(dest, buffer, size)
        traffic.messages_sent += 1
        traffic.bytes_sent += size
        return size

    def poll(self) -> list[Message]:
        """The messages that have come, in the order each rank sent them; refused ones are counted in `faults`.

        An executor gets one at most, so that what it says (the WELCOME's run and frame size) holds for the next.
        """
        self._take_back()
        return self._checked(self._arrived())

    def _take_back(self) -> None:
        for buffer in self._lent:
            self._buffers.give(buffer)
        self._lent.clear()

    def _checked(self, frames: list[tuple[int, memoryview, int]]) -> list[Message]:
        messages = []
        for source, buffer, size in frames:
            traffic = self.traffic[source]
            traffic.messages_received += 1
            traffic.bytes_received += size
            if size > self._frame_bytes:
                self.faults.count(source, "oversize")  # and its buffer is let go, not kept for reuse
                continue
            self._lent.append(buffer)
            try:
                header, payload = unpack(buffer[:size], self.run_id)
            except WireError as error:
                self.faults.count(source, error.reason)
            else:
                messages.append(Message(source, header, payload))
        return messages

    def wait(self, timeout_s: float) -> list[Message]:
        """Polls until something came, at most `timeout_s` seconds; then returns []."""
        self._take_back()
        deadline = time.perf_counter() + timeout_s
        while True:
            frames = self._arrived()
            if frames:
                messages = self._checked(frames)
                if messages:
                    self.waiter.reset()
                    return messages
            left_s = deadline - time.perf_counter()
            if left_s <= 0:
                return []
            self.waiter.pause(left_s)

    @abstractmethod
    def _post(self, dest: int, buffer: memoryview, size: int) -> None:
        """Sends the first `size` bytes of `buffer`, and gives it back to the buffers when they are gone."""

    @abstractmethod
    def _arrived(self) -> list[tuple[int, memoryview, int]]:
        """Source, buffer and size of each frame that has come."""

    @abstractmethod
    def flush(self, timeout_s: float) -> bool:
        """Waits until every send has left; False if that took longer than `timeout_s`."""

    @abstractmethod
    def close(self) -> None:
        """Flushes and ends the link. Every rank must close."""

    @abstractmethod
    def abort(self, code: int) -> NoReturn:
        """Ends every rank at once with the exit code."""
