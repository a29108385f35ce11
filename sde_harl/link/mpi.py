"""The link over MPI: nonblocking sends, and a way to receive for each end.

The server takes messages from anyone, so it probes for each and learns its size before it makes room. An executor
hears the server alone, which keeps to the announced size: one receive is posted, and one call looks for a message.
"""

from __future__ import annotations

import logging
import os
import signal
import sys
import time
from abc import abstractmethod
from collections import deque
from typing import Any, NoReturn

from sde_harl.errors import UserError
from sde_harl.link.transport import Collecting, Fan, Transport
from sde_harl.link.waiting import Waiter, sharpen_sleeps
from sde_harl.link.wire import Message, WireError, unpack

log = logging.getLogger(__name__)

SERVER = 0
IN_FLIGHT = 64  # frames on their way to one rank before `send` waits for it
REAP_AT = 4  # frames that may have left and still be held: asking after each at once costs as much as sending it
MATCHES_A_POLL = 256  # so that a flood of one rank can't keep the others from being heard
SHORT_BYTES = 2048  # what every MPI sends whole with its announcement: once matched, it is here
SEND_TIMEOUT_S = 60.0
CLOSE_TIMEOUT_S = 10.0


def join(waiter: Waiter | None = None) -> Mpi:
    """Starts MPI and returns this rank's end. Only once in a process; only the thread that joined may use it."""
    free_single_core_binding()
    sharpen_sleeps()
    mpi = _initialised_mpi()
    waiter = waiter or Waiter()
    return MpiExecutor(mpi, waiter) if mpi.COMM_WORLD.Get_rank() else MpiServer(mpi, waiter)


class Mpi(Transport):
    """What both ends do alike: sending, and ending."""

    def __init__(self, mpi: Any, waiter: Waiter) -> None:
        self._mpi, self._comm, self._byte, self._status = (
            mpi,
            mpi.COMM_WORLD,
            mpi.BYTE,
            mpi.Status(),
        )
        super().__init__(self._comm.Get_rank(), self._comm.Get_size(), waiter)
        self._sending: dict[int, deque[tuple[Any, bytes]]] = {peer: deque() for peer in self.sent}
        self._fans: list[Fan] = []

    def _post(self, dest: int, frame: bytes) -> None:
        sending = self._sending[dest]
        if len(sending) >= REAP_AT:
            self._reap(dest)
            if len(sending) >= IN_FLIGHT:
                self._await_room(dest)
        sending.append((self._comm.Isend([frame, self._byte], dest), frame))

    def _await_fan(self, fan: Fan, failure_timeout_s: float) -> list[int]:
        if not fan.requests:
            comm = self._comm
            fan.requests = {
                d: comm.Send_init([frame.data, self._byte], d) for d, frame in fan.frames.items()
            }
            self._fans.append(fan)
        if not self.absent and self._left([*fan.requests.values()]):
            return []
        deadline = time.perf_counter() + failure_timeout_s
        while busy := [
            dest for dest, request in fan.requests.items() if not self._done(request, dest)
        ]:
            if not self.waiter.pause(deadline):
                break
            self._take_in()
        self.waiter.reset()
        return [dest for dest in fan.frames if dest in busy or dest in self.absent]

    def _post_frame(self, fan: Fan, dest: int) -> None:
        fan.requests[dest].Start()

    def _done(self, request: Any, dest: int) -> bool:
        """Whether what was sent to `dest` has left, or is not waited for."""
        if dest in self.absent:
            return True
        try:
            return bool(request.Test())
        except self._mpi.Exception as error:
            self._note_failure(error)
            return dest in self.lost

    def _left(self, requests: list[Any]) -> bool:
        try:
            return bool(self._mpi.Request.Testall(requests))
        except self._mpi.Exception as error:
            self._note_failure(error)
            return False

    def _note_failure(self, error: Exception) -> None:
        """Learn from MPI which processes have ended (ULFM). Raises `error` where it tells of something else."""
        mpi, comm, kind = self._mpi, self._comm, error.Get_error_class()  # type: ignore[attr-defined]
        if kind not in (mpi.ERR_PROC_FAILED, mpi.ERR_PROC_FAILED_PENDING, mpi.ERR_IN_STATUS):
            raise error
        failed = comm.Get_failed()
        count = failed.Get_size()
        comm.Ack_failed(count)
        lost = set(mpi.Group.Translate_ranks(failed, list(range(count)), comm.Get_group()))
        if kind == mpi.ERR_IN_STATUS and not lost:
            raise error
        self.lost |= lost
        self.absent |= lost

    def _reap(self, dest: int) -> None:
        """Lets go of the frames that have left."""
        sending = self._sending[dest]
        while sending and dest not in self.absent and self._done(sending[0][0], dest):
            sending.popleft()

    def _await_room(self, dest: int) -> None:
        sending, deadline = self._sending[dest], time.perf_counter() + SEND_TIMEOUT_S
        while len(sending) >= IN_FLIGHT and dest not in self.absent:
            if not self.waiter.pause(deadline):
                raise TimeoutError(
                    f"rank {dest} took none of its last {IN_FLIGHT} messages in {SEND_TIMEOUT_S:.0f} s"
                )
            self._take_in()
            self._reap(dest)
        self.waiter.reset()

    @abstractmethod
    def _take_in(self) -> None:
        """Takes in what has come, for two ranks that only send must still empty each other's queues."""

    def flush(self, timeout_s: float) -> bool:
        deadline = time.perf_counter() + timeout_s
        while not self._flushed():
            self._take_in()
            if not self.waiter.pause(deadline):
                return False
        self.waiter.reset()
        return True

    def _flushed(self) -> bool:
        present = [dest for dest in self._sending if dest not in self.absent]
        for dest in present:
            self._reap(dest)
        fanned = [
            fan.requests[dest] for fan in self._fans for dest in present if dest in fan.requests
        ]
        return not any(self._sending[dest] for dest in present) and self._left(fanned)

    def close(self, code: int = 0) -> None:
        """Flushes and finalises MPI. Every rank must close: where one can't, the job is ended."""
        if not self.flush(CLOSE_TIMEOUT_S):
            log.error(
                "rank %d could not deliver its last messages in %.0f s", self.rank, CLOSE_TIMEOUT_S
            )
            self.abort(code or 1)
        if self.absent:
            self.abort(code or 1)
        self._mpi.Finalize()

    def abort(self, code: int) -> NoReturn:
        """Ends every rank at once with the exit code.

        Under ULFM MPI_Abort ends this process alone, and mpirun waits for those that are stopped: then the server has
        its launcher end the job, which exits with 1.
        """
        sys.stdout.flush()
        sys.stderr.flush()
        if (
            self.rank == SERVER
            and self.absent - self.lost
            and "OMPI_MCA_mpi_ft_enable" in os.environ
        ):
            os.kill(os.getppid(), signal.SIGTERM)
            time.sleep(CLOSE_TIMEOUT_S)
        self._comm.Abort(code)
        raise SystemExit(code)


class MpiServer(Mpi, Collecting):
    """Rank 0's end."""

    def __init__(self, mpi: Any, waiter: Waiter) -> None:
        super().__init__(mpi, waiter)
        self._anyone = mpi.ANY_SOURCE
        self._whole: list[tuple[int, memoryview]] = []
        # Long messages still coming in, and what the same rank sent after them: with the request of each.
        self._coming: dict[int, deque[tuple[Any, memoryview]]] = {}

    def _take_in(self) -> None:
        # A matched probe, not a posted receive: when a message is longer than the posted buffer, Open MPI 5 writes past
        # the buffer's end before it reports MPI_ERR_TRUNCATE. The probe tells the size first.
        try:
            self._match()
        except self._mpi.Exception as error:
            self._note_failure(error)

    def _match(self) -> None:
        comm, status, whole = self._comm, self._status, self._whole
        for _ in range(MATCHES_A_POLL):
            matched = comm.Improbe(self._anyone, status=status)
            if matched is None and not whole:
                # Open MPI looks first and moves messages in afterwards, so only a second look sees what has just come.
                # With something in hand already that can wait: a fruitless look may cost the core.
                matched = comm.Improbe(self._anyone, status=status)
            if matched is None:
                return
            source, size = status.Get_source(), status.Get_count(self._byte)
            frame = memoryview(bytearray(size))
            if size <= SHORT_BYTES and source not in self._coming:
                matched.Recv([frame, self._byte])
                whole.append((source, frame))
            else:
                request = matched.Irecv([frame, self._byte])
                self._coming.setdefault(source, deque()).append((request, frame))

    def _arrived(self) -> list[tuple[int, memoryview]]:
        self._take_in()
        if self._coming:
            self._finish()
        whole, self._whole = self._whole, []
        return whole

    def _finish(self) -> None:
        for source, coming in list(self._coming.items()):
            room = MATCHES_A_POLL - len(self._whole)
            while coming and room > 0 and source not in self.lost and self._received(coming[0][0]):
                room -= 1
                self._whole.append((source, coming.popleft()[1]))
            if not coming or source in self.lost:
                del self._coming[source]

    def _received(self, request: Any) -> bool:
        try:
            return bool(request.Test())
        except self._mpi.Exception as error:
            self._note_failure(error)
            return False


class MpiExecutor(Mpi):
    """Any other rank's end."""

    def __init__(self, mpi: Any, waiter: Waiter) -> None:
        super().__init__(mpi, waiter)
        self._make_room()

    def set_frame_bytes(self, receive: int, send: int) -> None:
        """To be called while a message is handled: then none is being received."""
        super().set_frame_bytes(receive, send)
        self._receive.Free()
        self._make_room()

    def _make_room(self) -> None:
        self._frame = memoryview(bytearray(self._frame_bytes))
        self._receive = self._comm.Recv_init([self._frame, self._byte], SERVER)
        self._posted = False

    def poll(self) -> list[Message]:
        return self.wait(0.0)

    def wait(self, timeout_s: float) -> list[Message]:
        """As every transport's; the loop is tight, because boards spend most of their time in it."""
        if not self._posted:
            self._receive.Start()
            self._posted = True
        test, pause, status = self._receive.Test, self.waiter.pause, self._status
        deadline = time.perf_counter() + timeout_s
        try:
            while not test(status):
                if not pause(deadline):
                    return []
        except self._mpi.Exception as error:
            self._note_failure(error)
            raise UserError("the server's process has ended") from error
        self._posted = False
        self.waiter.reset()
        size = status.Get_count(self._byte)
        self.received[SERVER] += 1
        self.received_bytes += size
        try:
            return [unpack(SERVER, self._frame[:size], self.run_id)]
        except WireError as error:
            self.faults.count(SERVER, error.reason)
            return []

    def _take_in(self) -> None:
        """Nothing: one message at a time, after what it says has been done."""

    def close(self, code: int = 0) -> None:
        if self._posted:
            self._receive.Cancel()
            self._receive.Wait()
        super().close(code)


def _initialised_mpi() -> Any:
    import mpi4py

    mpi4py.rc.initialize = (
        False  # importing must not start MPI: the caller may still fork or fail before
    )
    from mpi4py import MPI

    # FUNNELED: one thread talks, others (the record's writer) don't; MULTIPLE would lock around every call.
    MPI.Init_thread(MPI.THREAD_FUNNELED)
    return MPI


def library_version() -> str:
    """Of the MPI library, such as "Open MPI v5.0.11"; MPI need not have started."""
    import mpi4py

    mpi4py.rc.initialize = False
    from mpi4py import MPI

    return str(MPI.Get_library_version()).partition(",")[0].strip("\0 \n")


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
