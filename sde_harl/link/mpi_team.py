"""The ranks that learn together: sums over all of them, and arrays that the first one gives out.

They have a communicator of their own, so executors take no part. Nothing here blocks for good: a
rank that waits for the others looks meanwhile whether they are still there.
"""

from __future__ import annotations

import os
import time
from collections.abc import Sequence
from typing import Any, Protocol

import numpy as np
from numpy.typing import NDArray

from sde_harl.errors import UserError
from sde_harl.link.waiting import sharpen_sleeps

TAG = 1
"""Tells the making of this communicator from other messages."""
LARGEST_PIECE = 1 << 30
"""Bytes that are given out in one message; MPI counts up to 2^31."""
SPIN_S = 0.05
"""Wait that is spun through: the others compute the same number of rows, and are here soon."""
SLEEP_S = 0.5e-3
LOOK_S = 0.05
"""Time between two looks at the others."""


class Watch(Protocol):
    """Knows what else happens while this rank waits for the others."""

    def look(self) -> None:
        """Raises where there is nobody to wait for."""

    def fail(self, what: str) -> UserError:
        """Returns the error that ends the wait."""


class MpiTeam:
    """This rank's place among the ranks that learn together."""

    def __init__(self, mpi: Any, ranks: Sequence[int], watch: Watch, timeout_s: float) -> None:
        """Returns when all `ranks` (of the world, rank 0 first) have called it."""
        world = mpi.COMM_WORLD
        self._mpi = mpi
        self._comm = world.Create_group(world.Get_group().Incl(list(ranks)), TAG)
        self._watch = watch
        self.timeout_s = timeout_s
        """Longest wait for the others in one call."""
        self.rank = int(self._comm.Get_rank())
        self.size = int(self._comm.Get_size())
        sharpen_sleeps()

    def sum(self, array: NDArray[np.float32]) -> None:
        """Replaces an array by its sum over all ranks, which must have arrays of the same size."""
        mpi = self._mpi
        self._finish(self._comm.Iallreduce(mpi.IN_PLACE, [array, mpi.FLOAT], mpi.SUM))

    def share(self, array: NDArray[Any]) -> None:
        """Writes the first rank's contiguous array over those of the others, which are as large."""
        flat = array.reshape(-1).view(np.uint8)
        for start in range(0, flat.size, LARGEST_PIECE):
            piece = flat[start : start + LARGEST_PIECE]
            self._finish(self._comm.Ibcast([piece, self._mpi.BYTE], 0))

    def share_bytes(self, content: bytes) -> bytes:
        """Returns the first rank's `content`, of any size; what the others give is not used."""
        size = np.array([len(content)], np.int64)
        self.share(size)
        array = np.empty(size[0], np.uint8)
        if self.rank == 0:
            array[:] = np.frombuffer(content, np.uint8)
        self.share(array)
        return array.tobytes()

    def _finish(self, request: Any) -> None:
        """Waits until a request is done. Raises what `watch` says where that takes too long."""
        # Not by link/waiting.py: its pauses end on a signal, which only all ranks together may do.
        began = time.perf_counter()
        looked = began
        while not self._is_done(request):
            now = time.perf_counter()
            if now - looked > LOOK_S:
                self._watch.look()
                looked = now
            if now - began > self.timeout_s:
                raise self._watch.fail(
                    "a learner has not taken part in an update within link.failure_timeout_s ="
                    f" {self.timeout_s:g} s"
                )
            if now - began < SPIN_S:
                os.sched_yield()
            else:
                time.sleep(SLEEP_S)

    def _is_done(self, request: Any) -> bool:
        try:
            return bool(request.Test())
        except self._mpi.Exception:
            # Of a process that has ended (ULFM): the link knows which.
            self._watch.look()
            raise self._watch.fail("a learner's process has ended") from None
