"""The link inside one process, behind the same interface; the server's poll runs the executor."""

from __future__ import annotations

from collections import deque
from collections.abc import Callable
from typing import NoReturn

from sde_harl.link.transport import Collecting, Fan
from sde_harl.link.waiting import Waiter
from sde_harl.link.wire import Message


class Loopback(Collecting):
    """One of two ends in one process.

    The server's poll first runs the attached executor, if messages wait for it.
    """

    def __init__(self, rank: int, inbox: deque[memoryview], outbox: deque[memoryview]) -> None:
        super().__init__(rank, 2, Waiter())
        self._inbox = inbox
        self._outbox = outbox
        self._step: Callable[[], None] | None = None

    @staticmethod
    def pair() -> tuple[Loopback, Loopback]:
        """Returns the server's end (rank 0) and the executor's (rank 1)."""
        up: deque[memoryview] = deque()
        down: deque[memoryview] = deque()
        return Loopback(0, up, down), Loopback(1, down, up)

    def attach(self, step: Callable[[], None]) -> None:
        """Attaches the executor: `step` handles a pending message, inside this end's poll."""
        self._step = step

    def wait(self, timeout_s: float) -> list[Message]:
        """Polls once: in one process nothing more can come while this end waits."""
        return self.poll()

    def _post(self, dest: int, frame: bytes) -> None:
        self._outbox.append(memoryview(frame))

    def _await_fan(self, fan: Fan, failure_timeout_s: float) -> list[int]:
        # Nothing to wait for: `_post_frame` sends a copy.
        return [dest for dest in fan.frames if dest in self.absent]

    def _post_frame(self, fan: Fan, dest: int) -> None:
        # A copy, for the fan is written again before the other end reads this frame.
        self._post(dest, bytes(fan.frames[dest].data))

    def _arrived(self) -> list[tuple[int, memoryview]]:
        if self._step is not None:
            self._run_executor(self._step)
        count = len(self._inbox)
        if self.rank != 0:
            count = min(1, count)  # an executor takes one message at a time, see Transport.poll
        return [(1 - self.rank, self._inbox.popleft()) for _ in range(count)]

    def _run_executor(self, step: Callable[[], None]) -> None:
        left = len(self._outbox)
        while left:
            step()
            before = left
            left = len(self._outbox)
            if left == before:  # it has closed and takes no more
                return

    def flush(self, timeout_s: float) -> bool:
        """Has the other end take what was sent. Always True: sending here can't take long."""
        if self._step is not None:
            self._run_executor(self._step)
        return True

    def close(self, code: int = 0) -> None:
        """Does nothing: there is no link to end."""

    def abort(self, code: int) -> NoReturn:
        """Ends this process."""
        raise SystemExit(code)
