"""The two transports: over MPI, or inside one process behind the same interface."""

from __future__ import annotations

import logging
import os
import sys
import time
from collections import deque
from collections.abc import Callable
from typing import Any, NoReturn

from sde_harl.link.base import Buffers, Message, Traffic, Transport
from sde_harl.link.waiting import Waiter, sharpen_sleeps

__all__ = ["Loopback", "Message", "Mpi", "Traffic", "Transport", "launched_ranks"]

log = logging.getLogger(__name__)

IN_FLIGHT = 64  # frames on their way to one rank before `send` waits for it
MATCHES_A_POLL = 256  # so that a flood of one rank can't keep the others from being heard
SHORT_BYTES = 2048  # what every MPI sends whole with its announcement: once matched, it is here
SEND_TIMEOUT_S = 60.0
CLOSE_TIMEOUT_S = 10.0

Frames = deque[tuple[memoryview, int]]


class Loopback(Transport):
    """Both ends in one process. The server's poll runs the attached executor first, if something waits for it."""

    def __init__(self, rank: int, buffers: Buffers, inbox: Frames, outbox: Frames) -> None:
        super().__init__(rank, 2, Waiter(), buffers)
        self._inbox = inbox
        self._outbox = outbox
        self._step: Callable[[], None] | None = None

    @staticmethod
    def pair() -> tuple[Loopback, Loopback]:
        """The server's end (rank 0) and the executor's (rank 1)."""
        buffers = Buffers()  # one store: more goes down than up, so two would run dry and over
        up: Frames = deque()
        down: Frames = deque()
        return Loopback(0, buffers, up, down), Loopback(1, buffers, down, up)

    def attach(self, step: Callable[[], None]) -> None:
        """`step` handles what is pending at the other end; it runs inside this end's poll."""
        self._step = step

    def wait(self, timeout_s: float) -> list[Message]:
        """One poll: in one process nothing more can come while this end waits."""
        return self.poll()

    def _post(self, dest: int, buffer: memoryview, size: int) -> None:
        self._outbox.append((buffer, size))

    def _arrived(self) -> list[tuple[int, memoryview, int]]:
        if self._step is not None:
            self._run_executor(self._step)
        count = len(self._inbox) if self.rank == 0 else min(1, len(self._inbox))
        return [(1 - self.rank, *self._inbox.popleft()) for _ in range(count)]

    def _run_executor(self, step: Callable[[], None]) -> None:
        left = len(self._outbox)
        while left:
            step()
            before, left = left, len(self._outbox)
            if left == before:  # it has closed and takes no more
                return

    def flush(self, timeout_s: float) -> bool:
        """True: a frame has left when it is sent."""
        return True

    def close(self) -> None:
        """Nothing to end."""

    def abort(self, code: int) -> NoReturn:
        """Ends this process."""
        raise SystemExit(code)


_Arrival = tuple[int, Any, memoryview, int]
"""Source, mpi4py request (None: nothing left to come), buffer, size."""


class Mpi(Transport):
    """The link over MPI. Only one may exist in a process, and only the thread that made it may use it."""

    def __init__(self, waiter: Waiter | None = None) -> None:
        free_single_core_binding()
        sharpen_sleeps()
        self._mpi = _initialised_mpi()
        self._comm = self._mpi.COMM_WORLD
        super().__init__(self._comm.Get_rank(), self._comm.Get_size(), waiter or Waiter(), Buffers())
        self._byte = self._mpi.BYTE
        self._source = 0 if self.rank else self._mpi.ANY_SOURCE
        self._tag = self._mpi.ANY_TAG
        self._status = self._mpi.Status()
        self._sending: dict[int, deque[tuple[Any, memoryview]]] = {peer: deque() for peer in self.traffic}
        self._arriving: list[_Arrival] = []

    def _post(self, dest: int, buffer: memoryview, size: int) -> None:
        self._reap(dest)
        if len(self._sending[dest]) >= IN_FLIGHT:
            self._await_room(dest)
        self._sending[dest].append((self._comm.Isend([buffer, size, self._byte], dest), buffer))

    def _reap(self, dest: int) -> None:
        sending = self._sending[dest]
        while sending and sending[0][0].Test():
            self._buffers.give(sending.popleft()[1])

    def _await_room(self, dest: int) -> None:
        deadline = time.perf_counter() + SEND_TIMEOUT_S
        while len(self._sending[dest]) >= IN_FLIGHT:
            left_s = deadline - time.perf_counter()
            if left_s <= 0:
                raise TimeoutError(f"rank {dest} took none of its last {IN_FLIGHT} messages in {SEND_TIMEOUT_S:.0f} s")
            self._match()  # two ranks that only send must still empty each other's queues
            self._reap(dest)
            self.waiter.pause(left_s)
        self.waiter.reset()

    def _match(self) -> None:
        # A matched probe, not a posted receive: when a message is longer than the posted buffer, Open MPI 5 writes past
        # the buffer's end before it reports MPI_ERR_TRUNCATE. The probe tells the size first.
        status, arriving = self._status, self._arriving
        for _ in range(MATCHES_A_POLL if self.rank == 0 else 1 - len(arriving)):
            matched = self._comm.Improbe(self._source, self._tag, status)
            if matched is None and not arriving:
                # Open MPI looks first and moves messages in afterwards, so only a second look sees what has just come.
                # With something in hand already that can wait: a fruitless look may cost the core.
                matched = self._comm.Improbe(self._source, self._tag, status)
            if matched is None:
                return
            size = status.Get_count(self._byte)
            buffer = self._buffers.take(size)
            if size <= SHORT_BYTES:
                matched.Recv([buffer, size, self._byte])
                arriving.append((status.Get_source(), None, buffer, size))
            else:
                request = matched.Irecv([buffer, size, self._byte])
                arriving.append((status.Get_source(), request, buffer, size))

    def _arrived(self) -> list[tuple[int, memoryview, int]]:
        self._match()
        if not self._arriving:
            return []
        frames = []
        unfinished: list[_Arrival] = []
        for arrival in self._arriving:
            source, request, buffer, size = arrival
            # A rank's long message may finish after its next short one: keep its order.
            if (request is None or request.Test()) and not any(source == late[0] for late in unfinished):
                frames.append((source, buffer, size))
            else:
                unfinished.append(arrival)
        self._arriving = unfinished
        return frames

    def flush(self, timeout_s: float) -> bool:
        """Waits until every send has left; False if that took longer than `timeout_s`."""
        deadline = time.perf_counter() + timeout_s
        while True:
            for dest in self._sending:
                self._reap(dest)
            left_s = deadline - time.perf_counter()
            if not any(self._sending.values()):
                self.waiter.reset()
                return True
            if left_s <= 0:
                return False
            self._match()
            self.waiter.pause(left_s)

    def close(self) -> None:
        """Flushes and finalises MPI. Every rank must close. A rank that takes nothing more ends the job instead."""
        if not self.flush(CLOSE_TIMEOUT_S):
            log.error("rank %d could not deliver its last messages in %.0f s", self.rank, CLOSE_TIMEOUT_S)
            self.abort(1)
        self._mpi.Finalize()

    def abort(self, code: int) -> NoReturn:
        """Ends every rank at once with the exit code."""
        sys.stdout.flush()
        sys.stderr.flush()
        self._comm.Abort(code)
        raise SystemExit(code)


def _initialised_mpi() -> Any:
    import mpi4py

    mpi4py.rc.initialize = False  # importing must not start MPI: the caller may still fork or fail before
    from mpi4py import MPI

    # FUNNELED: one thread talks, others (the record's writer) don't; MULTIPLE would lock around every call.
    MPI.Init_thread(MPI.THREAD_FUNNELED)
    return MPI


def launched_ranks() -> tuple[int, int]:
    """This process's rank and the number of ranks as the MPI launcher set them; (0, 1) when there was none.

    Slurm's own variables alone are no launch: a batch script has them too.
    """
    env = os.environ
    for rank, size in (
        ("OMPI_COMM_WORLD_RANK", "OMPI_COMM_WORLD_SIZE"),
        ("PMI_RANK", "PMI_SIZE"),
        ("PMIX_RANK", "SLURM_STEP_NUM_TASKS"),
    ):
        if rank in env and size in env:
            return int(env[rank]), int(env[size])
    return 0, 1


def free_single_core_binding() -> None:
    """Lets this process use all its host's cores if a launcher has bound it to one and nobody asked for that.

    Open MPI binds a rank to a core where it thinks that cores suffice, which starves every other thread of the rank.
    Under Slurm, or with a binding policy in the environment, the binding was meant.
    """
    asked = {"SLURM_JOB_ID", "PRTE_MCA_hwloc_default_binding_policy"} & set(os.environ)
    if asked or not hasattr(os, "sched_setaffinity") or len(os.sched_getaffinity(0)) != 1:
        return
    os.sched_setaffinity(0, range(os.cpu_count() or 1))
