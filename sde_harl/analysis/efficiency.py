"""Tells how much of what a cluster has given a run it used: processor time, and memory."""

from __future__ import annotations

import numpy as np

from sde_harl.analysis.devices import SERVER, is_one_process
from sde_harl.record.progress import clock
from sde_harl.record.reader import Columns, Run


def efficiency(run: Run, *, cores: int, memory_bytes: int) -> list[str]:
    """Returns lines for the log of a job that was given `cores`, and memory on all its hosts.

    `memory_bytes` is 0 where it wasn't limited. Returns no lines for a run without figures. Raises
    UserError for a damaged file.
    """
    resources = run.table("resources")
    if not resources:
        return []
    # In one process every rank reports all of it, so the server's report is the whole.
    if is_one_process(run):
        chosen = resources["rank"] == SERVER
        resources = {name: values[chosen] for name, values in resources.items()}
    if not len(resources["rank"]):
        return []
    taken_s = float(resources["time_s"].max())
    cpu_s = _sum_of_ranks(resources, "cpu_s")
    peak = _sum_of_ranks(resources, "peak_rss_bytes")
    given_s = cores * taken_s
    lines = [
        f"processors: {clock(cpu_s)} used of {clock(given_s)} ({cores} cores for {clock(taken_s)}):"
        f" {cpu_s / max(given_s, 1e-9):.0%}"
    ]
    memory = f"memory: {peak / 1e9:.1f} GB at most"
    if memory_bytes:
        memory += f", of {memory_bytes / 1e9:.1f} GB: {peak / memory_bytes:.0%}"
    lines.append(memory)
    return lines


def _sum_of_ranks(resources: Columns, name: str) -> float:
    """Adds up the largest value of every rank."""
    ranks = resources["rank"]
    return float(sum(resources[name][ranks == rank].max() for rank in np.unique(ranks)))
