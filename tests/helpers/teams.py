"""Several learners in one process, a thread each, whose sums meet in memory."""

from __future__ import annotations

import threading
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from typing import TypeVar

import numpy as np
import torch
from limits import hang_limit_s
from numpy.typing import NDArray

from sde_harl.auxiliary.peers import Team

Result = TypeVar("Result")


class Meeting:
    """Where the learners of a team put what is to be added."""

    def __init__(self, size: int) -> None:
        self.size = size
        self.messages = 0
        self._barrier = threading.Barrier(size)
        self._parts: list[NDArray[np.float32]] = [np.zeros(0, np.float32)] * size

    def add(self, rank: int, array: NDArray[np.float32]) -> None:
        self._parts[rank] = array.copy()
        self._barrier.wait(hang_limit_s())
        array[:] = np.sum(self._parts, 0)
        self.messages += rank == 0
        # Nobody may put the next part in its place before all have read this one.
        self._barrier.wait(hang_limit_s())

    def leave(self) -> None:
        """Makes everybody fail who still waits."""
        self._barrier.abort()


class MeetingAdder:
    """One learner's way to the meeting."""

    def __init__(self, meeting: Meeting, rank: int) -> None:
        self.rank = rank
        self.size = meeting.size
        self._meeting = meeting

    def sum(self, array: NDArray[np.float32]) -> None:
        self._meeting.add(self.rank, array)


def learn_together(size: int, work: Callable[[Team], Result]) -> list[Result]:
    """Has `size` learners do the same work at once; returns what each one's returned."""
    meeting = Meeting(size)

    def one(rank: int) -> Result:
        torch.set_num_threads(1)
        torch.set_flush_denormal(True)
        team = Team(rank=rank, size=size)
        team.connect(MeetingAdder(meeting, rank))
        try:
            return work(team)
        except BaseException:
            meeting.leave()
            raise

    with ThreadPoolExecutor(size) as pool:
        futures = [pool.submit(one, rank) for rank in range(size)]
        return [each.result() for each in futures]
