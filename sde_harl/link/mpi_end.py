"""Both ends of the link over MPI: nonblocking sends, noticing dead processes, and ending."""

from __future__ import annotations

import logging
import math
import os
import signal
import sys
import time
from abc import abstractmethod
from collections import deque
from typing import Any, NoReturn

from sde_harl.link.mpi_team import MpiTeam, Watch
from sde_harl.link.transport import SERVER, Fan, Transport
from sde_harl.link.waiting import Waiter

log = logging.getLogger(__name__)

IN_FLIGHT = 64
"""Frames on their way to one rank before `send` waits for it."""
# Asking after each frame at once would cost as much as sending it.
REAP_AT = 4
"""Frames to one rank that may have left and are still held."""
SEND_TIMEOUT_S = 60.0
CLOSE_TIMEOUT_S = 10.0


class MpiEnd(Transport):
    """Sends frames over MPI; a subclass for each end receives them."""

    def __init__(self, mpi: Any, waiter: Waiter) -> None:
        """`mpi` is mpi4py's MPI module, already initialised."""
        self._mpi = mpi
        self._comm = mpi.COMM_WORLD
        self._byte = mpi.BYTE
        self._status = mpi.Status()
        super().__init__(self._comm.Get_rank(), self._comm.Get_size(), waiter)
        # By rank: each frame on its way, behind its request. MPI reads a frame until its request is
        # done.
        self._sending: dict[int, deque[tuple[Any, bytes]]] = {peer: deque() for peer in self.sent}
        self._fans: list[Fan] = []

    def _post(self, dest: int, frame: bytes) -> None:
        sending = self._sending[dest]
        if len(sending) >= REAP_AT:
            self._reap(dest)
            if len(sending) >= IN_FLIGHT and not self._await_room(dest):
                self._give_up(dest)
                return
        sending.append((self._comm.Isend([frame, self._byte], dest), frame))

    def _await_fan(self, fan: Fan, failure_timeout_s: float) -> list[int]:
        if not fan.requests:
            self._make_requests(fan)
        # The usual case costs one call for all ranks.
        if not self.absent and self._have_left([*fan.requests.values()]):
            return []
        deadline = time.perf_counter() + failure_timeout_s
        busy = self._busy(fan)
        while busy and self.waiter.pause(deadline):
            self._take_in()
            busy = self._busy(fan)
        self.waiter.reset()
        return [dest for dest in fan.frames if dest in busy or dest in self.absent]

    def _make_requests(self, fan: Fan) -> None:
        # Persistent, so that MPI sets up the sending of a fan only once.
        fan.requests = {
            dest: self._comm.Send_init([frame.data, self._byte], dest)
            for dest, frame in fan.frames.items()
        }
        self._fans.append(fan)

    def _busy(self, fan: Fan) -> list[int]:
        """Returns the present ranks to which the fan's last frame is still on its way."""
        return [dest for dest, request in fan.requests.items() if not self._is_done(request, dest)]

    def _post_frame(self, fan: Fan, dest: int) -> None:
        fan.requests[dest].Start()

    def _is_done(self, request: Any, dest: int) -> bool:
        """Returns whether what was sent to `dest` has left, or is not waited for."""
        if dest in self.absent:
            return True
        try:
            return bool(request.Test())
        except self._mpi.Exception as error:
            self._note_failure(error)
            return dest in self.lost

    def _have_left(self, requests: list[Any]) -> bool:
        try:
            return bool(self._mpi.Request.Testall(requests))
        except self._mpi.Exception as error:
            self._note_failure(error)
            return False

    def team(self, watch: Watch, timeout_s: float) -> MpiTeam:
        """Returns this rank's place among those that learn, all of which must call it."""
        return MpiTeam(self._mpi, [SERVER, *self.learners], watch, timeout_s)

    def _note_failure(self, error: Exception) -> None:
        """Learns from MPI which processes have ended (ULFM). Raises `error` if that isn't it."""
        mpi = self._mpi
        kind = error.Get_error_class()  # type: ignore[attr-defined]  # mpi4py's own error
        if kind not in (mpi.ERR_PROC_FAILED, mpi.ERR_PROC_FAILED_PENDING, mpi.ERR_IN_STATUS):
            raise error
        lost = self._acknowledge_failed()
        # Testall reports a dead peer as an error in a status; without one, the error is something
        # else.
        if kind == mpi.ERR_IN_STATUS and not lost:
            raise error
        self.lost |= lost
        self.absent |= lost

    def _acknowledge_failed(self) -> set[int]:
        """Returns the ranks whose processes have ended, and tells MPI that they are known."""
        comm = self._comm
        failed = comm.Get_failed()
        count = failed.Get_size()
        # Acknowledged, a dead rank no longer makes receives from any source fail.
        comm.Ack_failed(count)
        ranks = list(range(count))
        return set(self._mpi.Group.Translate_ranks(failed, ranks, comm.Get_group()))

    def _reap(self, dest: int) -> None:
        """Lets go of the frames that have left."""
        sending = self._sending[dest]
        while sending and dest not in self.absent and self._is_done(sending[0][0], dest):
            sending.popleft()

    def _await_room(self, dest: int) -> bool:
        """Waits until `send` may send another frame to `dest`; False if that takes too long."""
        sending = self._sending[dest]
        deadline = time.perf_counter() + SEND_TIMEOUT_S
        while len(sending) >= IN_FLIGHT and dest not in self.absent:
            if not self.waiter.pause(deadline):
                return False
            self._take_in()
            self._reap(dest)
        self.waiter.reset()
        return True

    @abstractmethod
    def _give_up(self, dest: int) -> None:
        """Goes on without a peer that takes no messages. Raises UserError where nobody is left."""

    @abstractmethod
    def _take_in(self) -> None:
        """Receives what has come while this end waits to send."""
        # Else two ranks that both wait to send would wait for ever: neither empties the other's
        # queue.

    def flush(self, timeout_s: float) -> bool:
        deadline = time.perf_counter() + timeout_s
        while not self._is_flushed():
            self._take_in()
            if not self.waiter.pause(deadline):
                return False
        self.waiter.reset()
        return True

    def _is_flushed(self) -> bool:
        present = [dest for dest in self._sending if dest not in self.absent]
        for dest in present:
            self._reap(dest)
        fanned = [
            fan.requests[dest] for fan in self._fans for dest in present if dest in fan.requests
        ]
        return not any(self._sending[dest] for dest in present) and self._have_left(fanned)

    def close(self, code: int = 0) -> None:
        """Flushes and finalises MPI. Every rank must close: where one can't, the job is ended."""
        if not self.flush(CLOSE_TIMEOUT_S):
            log.error(
                "rank %d could not deliver its last messages in %.0f s", self.rank, CLOSE_TIMEOUT_S
            )
            self.abort(code or 1)
        if self.absent:
            # Finalize would wait for them.
            self.abort(code or 1)
        try:
            self._await_everyone()
        except self._mpi.Exception as error:
            self._note_failure(error)
            self.abort(code or 1)
        self._mpi.Finalize()

    def _await_everyone(self) -> None:
        """Waits until every rank closes."""
        # Finalize waits, too, but takes nothing in: an executor that is sending what nobody waits
        # for any more, such as a shard, could not end.
        everyone = self._comm.Ibarrier()
        while not everyone.Test():
            self._take_in()
            self.waiter.pause(math.inf)

    def abort(self, code: int) -> NoReturn:
        """Ends every rank at once with the exit code."""
        sys.stdout.flush()
        sys.stderr.flush()
        # Under ULFM MPI_Abort ends this process alone, and mpirun waits for those that are stopped.
        # So the server has its launcher end the job, which then exits with 1.
        under_ulfm = "OMPI_MCA_mpi_ft_enable" in os.environ
        if self.rank == SERVER and self.absent - self.lost and under_ulfm:
            os.kill(os.getppid(), signal.SIGTERM)
            time.sleep(CLOSE_TIMEOUT_S)
        self._comm.Abort(code)
        raise SystemExit(code)
