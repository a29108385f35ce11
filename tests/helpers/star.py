"""Rank 0's link to several executors inside this process, which play environments of their own."""

from __future__ import annotations

from collections import deque
from collections.abc import Callable, Sequence
from functools import partial

from sde_harl.executor.executor import Executor
from sde_harl.link.loopback import Loopback
from sde_harl.link.transport import Collecting, Fan
from sde_harl.link.waiting import Waiter
from sde_harl.link.wire import Message
from sde_harl.training.shard_player import make_player


class Star(Collecting):
    """Each executor has a loopback of its own, and runs inside this end's poll."""

    def __init__(self, argv: Sequence[str], executors: int) -> None:
        """`argv`: every executor's command line."""
        super().__init__(0, executors + 1, Waiter())
        self.change: Callable[[int, bytearray], None] = lambda rank, frame: None
        """Called with the sender and each frame of executors: it may change them on the way."""
        self.silent: set[int] = set()
        """Ranks that do nothing from now on."""
        self._up: dict[int, deque[memoryview]] = {}
        self._down: dict[int, deque[memoryview]] = {}
        self.executors: dict[int, Executor] = {}
        self._ends: dict[int, Loopback] = {}
        for rank in range(1, executors + 1):
            self._up[rank] = deque()
            self._down[rank] = deque()
            far = Loopback(1, self._down[rank], self._up[rank])
            self._ends[rank] = far
            self.executors[rank] = Executor(far, make_player=partial(make_player, argv))

    def wait(self, timeout_s: float) -> list[Message]:
        return self.poll()

    def _post(self, dest: int, frame: bytes) -> None:
        self._down[dest].append(memoryview(frame))

    def _await_fan(self, fan: Fan, failure_timeout_s: float) -> list[int]:
        return []

    def _post_frame(self, fan: Fan, dest: int) -> None:
        self._post(dest, bytes(fan.frames[dest].data))

    def kill(self, rank: int) -> None:
        """Ends an executor, as MPI tells it of one whose process has ended."""
        self.silent.add(rank)
        self.lost.add(rank)
        self.absent.add(rank)

    def _is_busy(self, rank: int) -> bool:
        if rank in self.silent:
            return False
        return bool(self._down[rank]) or self.executors[rank].is_playing

    def _arrived(self) -> list[tuple[int, memoryview]]:
        arrived = []
        for rank, far in self._ends.items():
            executor = self.executors[rank]
            while self._is_busy(rank):
                for message in far.poll():
                    executor.handle(message)
                executor.act_if_due()
            while self._up[rank] and rank not in self.silent:
                frame = bytearray(self._up[rank].popleft())
                self.change(rank, frame)
                arrived.append((rank, memoryview(frame)))
        return arrived

    def flush(self, timeout_s: float) -> bool:
        return True

    def close(self, code: int = 0) -> None:
        """Does nothing: there is no link to end."""

    def abort(self, code: int) -> None:  # type: ignore[override]
        raise SystemExit(code)
