"""Which cores this process may use, whoever has bound it: Slurm, mpirun, numactl or taskset."""

from __future__ import annotations

import os
import socket
from collections.abc import Iterable, Sequence
from typing import NamedTuple


class Seat(NamedTuple):
    """The place of a process: its rank, its host and the cores that it may use."""

    rank: int
    host: str
    cores: frozenset[int]
    """Those that it may use."""


def usable_cores() -> frozenset[int]:
    """Returns the numbers of the cores that this process may use."""
    if hasattr(os, "sched_getaffinity"):
        return frozenset(os.sched_getaffinity(0))
    return frozenset(range(os.cpu_count() or 1))  # macOS binds nobody


def own_seat() -> Seat:
    """Returns where rank 0, this process, runs."""
    return Seat(rank=0, host=socket.gethostname(), cores=usable_cores())


def threads_of_each(seats: Sequence[Seat]) -> list[int]:
    """Returns how many threads each process may have, so that they don't share a core."""
    threads = []
    for seat in seats:
        sharing = [each for each in seats if each.host == seat.host and each.cores & seat.cores]
        threads.append(max(1, len(seat.cores) // len(sharing)))
    return threads


def core_list(cores: Iterable[int]) -> str:
    """Returns the numbers of cores as Linux writes them: 0-3,8."""
    ranges: list[list[int]] = []
    for core in sorted(cores):
        if ranges and core == ranges[-1][1] + 1:
            ranges[-1][1] = core
        else:
            ranges.append([core, core])
    return ",".join(str(a) if a == b else f"{a}-{b}" for a, b in ranges)


def threads_line(seats: Sequence[Seat], threads: Sequence[int]) -> str:
    """Returns one line that says where the learners run, and with how many threads each."""
    places = []
    for seat, count in zip(seats, threads):
        plural = "s" * (count != 1)
        places.append(
            f"rank {seat.rank} with {count} thread{plural} on cores {core_list(seat.cores)} of"
            f" {seat.host}"
        )
    noun = "learner" if len(seats) == 1 else "learners"
    return f"{noun}: {'; '.join(places)}"
