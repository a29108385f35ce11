"""One rank's end of the link: what every transport does alike.

Executors talk to rank 0 only. Nothing here blocks: `poll` takes what has come, `wait` polls and
sleeps in between.
"""

from __future__ import annotations

import time
from abc import ABC, abstractmethod
from collections.abc import Callable, Iterable, Mapping
from typing import Any, NamedTuple, NoReturn

from sde_harl.link.faults import Faults
from sde_harl.link.waiting import Waiter
from sde_harl.link.wire import (
    OVERHEAD,
    Fields,
    Frame,
    Header,
    Message,
    WireError,
    frame_of,
    new_frame,
    seal,
    unpack,
)

SERVER = 0
"""The rank that learns, which all others talk to."""
FRAME_BYTES = 65536
"""Size of the largest frame either way before the run's own size is known."""


class Traffic(NamedTuple):
    """Counts messages to and from all peers, refused ones too, and the bytes of their frames."""

    sent: int
    received: int
    sent_bytes: int
    received_bytes: int


class Fan:
    """Frames to several ranks, kept for the next sending: only what changes is written again."""

    def __init__(self, frames: dict[int, Frame]) -> None:
        self.frames = frames
        self.requests: dict[int, Any] = {}
        """The transport's own."""


class Transport(ABC):
    """One rank's end of the link."""

    def __init__(self, rank: int, size: int, waiter: Waiter) -> None:
        self.rank = rank
        self.size = size
        self.run_id: int | None = None
        """None before the WELCOME: frames of every run are accepted, and 0 is sent."""
        self.waiter = waiter
        self.faults = Faults(rank)
        self.absent: set[int] = set()
        """Peers that are neither sent to nor waited for, until the owner of this end says
        otherwise."""
        self.lost: set[int] = set()
        """Peers whose processes have ended, where MPI reports it (ULFM)."""
        self.stuck: set[int] = set()
        """Peers, absent too, that took none of their last messages: nothing more is sent to
        them."""
        self.parted: set[int] = set()
        """Peers, absent too, that have said they can't go on; they still hear a goodbye."""
        self.executors = range(1, size)
        self.learners = range(size, size)
        """Ranks behind the executors that learn with rank 0, and hold no agents."""
        peers = range(1)
        if rank == 0:
            peers = range(1, size)
        self.sent = dict.fromkeys(peers, 0)
        """Messages to each rank."""
        self.received = dict.fromkeys(peers, 0)
        """Messages from each rank, refused ones too."""
        self.sent_bytes = 0
        self.received_bytes = 0
        self._frame_bytes = FRAME_BYTES
        self._send_bytes = FRAME_BYTES

    def reserve(self, learners: int) -> None:
        """Takes so many of the last ranks for learners. Call it before anything is sent."""
        self.executors = range(1, self.size - learners)
        self.learners = range(self.size - learners, self.size)

    def set_frame_bytes(self, receive: int, send: int) -> None:
        """Refuses frames above `receive` bytes, from the next poll on; sends none above `send`."""
        self._frame_bytes = receive
        self._send_bytes = send

    def send(self, dest: int, header: Header, payload: bytes = b"") -> int:
        """Sends a frame to `dest` without waiting; returns its size in bytes.

        The header's run id is filled in. To a lost or stuck peer nothing is sent. Raises ValueError
        for a frame larger than the other end has room for.
        """
        fields: Fields = header
        if header.run_id != self.run_id:  # answers have the run of their question
            fields = header.in_run(self.run_id or 0)
        frame = frame_of(fields, payload)
        self._send_frame(dest, frame)
        return len(frame)

    def send_all(self, dests: Iterable[int], header: Header, payload: bytes) -> None:
        """Sends the same frame to several ranks, and makes it only once. Raises as `send`."""
        frame = frame_of(header.in_run(self.run_id or 0), payload)
        for dest in dests:
            self._send_frame(dest, frame)

    def _send_frame(self, dest: int, frame: bytes) -> None:
        if len(frame) > self._send_bytes:
            raise self._no_room(dest, len(frame))
        self.sent[dest] += 1
        self.sent_bytes += len(frame)
        if dest not in self.lost and dest not in self.stuck:
            self._post(dest, frame)

    def fan(self, sizes: Mapping[int, int]) -> Fan:
        """Returns frames to several ranks, with payloads of these bytes. Raises as `send`."""
        for dest, size in sizes.items():
            if OVERHEAD + size > self._send_bytes:
                raise self._no_room(dest, OVERHEAD + size)
        return Fan({dest: new_frame(size) for dest, size in sizes.items()})

    def send_fan(
        self,
        fan: Fan,
        write: Callable[[int], None],
        *,
        header: Header,
        failure_timeout_s: float,
    ) -> list[int]:
        """Has `write` fill each rank's payload, then sends that rank's frame.

        The header's run id is filled in. Returns the ranks that were left out: absent ones, and
        those that haven't taken what the fan sent them last within `failure_timeout_s`.
        """
        left_out = self._await_fan(fan, failure_timeout_s)
        fields = header.in_run(self.run_id or 0)
        # Written and sent one by one: the first executor is at work before the last frame is
        # written.
        for dest, frame in fan.frames.items():
            if dest in left_out:
                continue
            write(dest)
            seal(frame.data, fields)
            self.sent[dest] += 1
            self.sent_bytes += len(frame.data)
            self._post_frame(fan, dest)
        return left_out

    def await_fan(self, fan: Fan, timeout_s: float) -> bool:
        """Waits until a fan's last frames have left; False after `timeout_s`.

        For who writes into its frames before `send_fan`.
        """
        return not self._await_fan(fan, timeout_s)

    def traffic(self) -> Traffic:
        """Returns what has been sent and received up to now."""
        return Traffic(
            sent=sum(self.sent.values()),
            received=sum(self.received.values()),
            sent_bytes=self.sent_bytes,
            received_bytes=self.received_bytes,
        )

    @abstractmethod
    def _await_fan(self, fan: Fan, failure_timeout_s: float) -> list[int]:
        """Waits until the fan's last frames have left. Returns ranks as `send_fan`."""

    @abstractmethod
    def _post_frame(self, fan: Fan, dest: int) -> None:
        """Sends one of the fan's frames as it is."""

    def _no_room(self, dest: int, size: int) -> ValueError:
        return ValueError(
            f"a frame of {size} bytes to rank {dest}, which has room for {self._send_bytes}"
        )

    def expect(self, source: int, room: memoryview) -> None:  # noqa: B027
        """Has the next frame of exactly this size from `source` received into `room`.

        A transport that hands over the sender's own memory needs no room.
        """

    @abstractmethod
    def poll(self) -> list[Message]:
        """Returns the messages that have come, each rank's in order; counts refused ones.

        An executor gets one at most: a WELCOME changes the run id and the frame size that the next
        is checked by.
        """

    @abstractmethod
    def wait(self, timeout_s: float) -> list[Message]:
        """Polls until something came, at most `timeout_s` seconds; then returns []."""

    @abstractmethod
    def _post(self, dest: int, frame: bytes) -> None:
        """Sends a frame as it is, unless `dest` turns out to be stuck."""

    @abstractmethod
    def flush(self, timeout_s: float) -> bool:
        """Waits until every frame to a present peer has left; False after `timeout_s`."""

    @abstractmethod
    def close(self, code: int = 0) -> None:
        """Flushes and ends the link. Every rank must close.

        Where a peer is absent, all ranks end at once with `code`.
        """

    @abstractmethod
    def abort(self, code: int) -> NoReturn:
        """Ends every rank at once with the exit code."""


class Collecting(Transport):
    """An end that takes any number of frames at a time, each in a buffer of its own."""

    def poll(self) -> list[Message]:
        return self._checked(self._arrived())

    def wait(self, timeout_s: float) -> list[Message]:
        deadline = time.perf_counter() + timeout_s
        while True:
            frames = self._arrived()
            if frames:
                # All of them may have been refused: then the wait goes on.
                messages = self._checked(frames)
                if messages:
                    self.waiter.reset()
                    return messages
            if not self.waiter.pause(deadline):
                return []

    def _checked(self, frames: list[tuple[int, memoryview]]) -> list[Message]:
        """Returns the frames that are right; counts the others."""
        messages = []
        run_id = self.run_id
        limit = self._frame_bytes
        for source, frame in frames:
            self.received[source] += 1
            self.received_bytes += len(frame)
            try:
                if len(frame) > limit:
                    raise WireError("oversize")
                messages.append(unpack(source, frame, run_id))
            except WireError as error:
                self.faults.count(source, error.reason)
        return messages

    @abstractmethod
    def _arrived(self) -> list[tuple[int, memoryview]]:
        """Returns source and bytes of each frame that has come."""
