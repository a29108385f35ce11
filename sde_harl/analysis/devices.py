"""Tells the devices' processor time and energy from the server's."""

from __future__ import annotations

import numpy as np

from sde_harl.analysis.energy import Energy, host_energies
from sde_harl.record.reader import Columns, Run
from sde_harl.record.schema import Array

SERVER = 0
"""The rank that isn't a device."""


def device_energies(run: Run) -> list[Energy]:
    """Returns the figures of all hosts but the server's, by their own sensors.

    A device on the server's host has no figure: that sensor counts the server too. The GPUs'
    sensors are left out, as nets on devices run on processors.
    """
    # Hosts are in the order of ranks, so the server's is the first.
    return host_energies(run)[1:]


def is_one_process(run: Run) -> bool:
    """Returns True where rank 0 and the first executor are the same process."""
    entries = [entry for entry in run.json_list("hosts") if isinstance(entry, dict)]
    if len(entries) < 2:
        return False
    server = (entries[0].get("host"), entries[0].get("pid"))
    executor = (entries[1].get("host"), entries[1].get("pid"))
    return None not in server and server == executor


def device_cpu_counters(run: Run, resources: Columns) -> list[Array]:
    """Returns each executor's processor time so far, in seconds, at each of its reports.

    There are none where one process holds all: it can't tell the executors' time from the server's.
    """
    if not resources or is_one_process(run):
        return []
    ranks = [rank for rank in np.unique(resources["rank"]) if rank != SERVER]
    return [resources["cpu_s"][resources["rank"] == rank] for rank in ranks]
