"""Reads what Slurm tells a job about itself: its environment variables."""

from __future__ import annotations

import os
import re
from typing import NamedTuple

# 4(x2),1: two hosts with four, and one with one.
EACH = re.compile(r"(\d+)(?:\(x(\d+)\))?")
CORES = "SLURM_JOB_CPUS_PER_NODE"
PARTS = "SLURM_JOB_CPUS_PER_NODE_HET_GROUP_"
MIB = 1 << 20


class Allocation(NamedTuple):
    """The resources that a job was given, on all of its hosts together."""

    cores: int
    memory_bytes: int
    """0 where Slurm doesn't limit it."""


def restarts() -> int:
    """Returns how often Slurm has put this job back into its queue; 0 outside of Slurm."""
    return _number("SLURM_RESTART_COUNT")


def allocation() -> Allocation | None:
    """Returns what this job was given; None outside of Slurm."""
    # A heterogeneous job has a variable for each part, and that of the first without a number too.
    parts = [told for name, told in os.environ.items() if name.startswith(PARTS)]
    told = ",".join(parts) or os.environ.get(CORES, "")
    hosts = [(int(cores), int(times or 1)) for cores, times in EACH.findall(told)]
    if not hosts:
        return None
    cores = sum(each * times for each, times in hosts)
    mib = _number("SLURM_MEM_PER_NODE") * sum(times for _, times in hosts)
    if not mib:
        mib = _number("SLURM_MEM_PER_CPU") * cores
    return Allocation(cores=cores, memory_bytes=mib * MIB)


def _number(name: str) -> int:
    text = os.environ.get(name, "")
    return int(text) if text.isdecimal() else 0
