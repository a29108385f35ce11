"""An executor's end of the link over MPI.

It hears the server alone, which keeps to the frame size that it has announced.

So one receive stays posted, and one call looks for a message.
"""

from __future__ import annotations

import os
import sys
import time
from typing import Any

from sde_harl.errors import UserError
from sde_harl.link.mpi_end import SEND_TIMEOUT_S, MpiEnd
from sde_harl.link.transport import SERVER
from sde_harl.link.waiting import Waiter
from sde_harl.link.wire import Message, WireError, unpack


class MpiExecutor(MpiEnd):
    """Receives from the server over MPI."""

    def __init__(self, mpi: Any, waiter: Waiter) -> None:
        super().__init__(mpi, waiter)
        self._make_room()

    def set_frame_bytes(self, receive: int, send: int) -> None:
        """Changes the sizes. Call it only while a message is handled."""
        # Then no message is being received, and the buffer can be replaced.
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
        """Polls until a message came, at most `timeout_s` seconds; then returns []."""
        if not self._posted:
            self._receive.Start()
            self._posted = True
        # Local names keep the loop tight, because boards spend most of their time in it.
        test = self._receive.Test
        pause = self.waiter.pause
        status = self._status
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

    def _give_up(self, dest: int) -> None:
        raise UserError(f"the server took no messages for {SEND_TIMEOUT_S:.0f} s")

    def _take_in(self) -> None:
        """Does nothing: what the last message says comes before the next one."""

    def close(self, code: int = 0) -> None:
        if SERVER in self.lost:
            # MPI_Finalize would wait for it, and MPI_Abort would kill the other executors, which
            # may not have let go of their sensors yet. Each of them notices by itself.
            sys.stdout.flush()
            sys.stderr.flush()
            os._exit(code)
        if self._posted:
            self._receive.Cancel()
            self._receive.Wait()
        super().close(code)
