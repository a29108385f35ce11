"""Shares of the processor, as control groups (version 1 or 2) that onhost puts a host's processes into."""

from __future__ import annotations

import time
from pathlib import Path

PREFIX = "sde-"
V1, V2 = Path("/sys/fs/cgroup/cpu"), Path("/sys/fs/cgroup")
PERIOD_US = 10_000  # a share is given out anew so often
GONE_S = 5.0


def supported() -> bool:
    return _version() > 0


def make(host: str, cores: float) -> Path:
    """The group of one host, with so much of a core."""
    quota = round(cores * PERIOD_US)
    if _version() == 1:
        group, limits = (
            V1 / f"{PREFIX}{host}",
            {"cpu.cfs_period_us": f"{PERIOD_US}", "cpu.cfs_quota_us": f"{quota}"},
        )
    else:
        group, limits = V2 / f"{PREFIX}{host}", {"cpu.max": f"{quota} {PERIOD_US}"}
    group.mkdir()
    for file, value in limits.items():
        (group / file).write_text(value)
    return group


def remove_all() -> None:
    """The groups of all hosts; what ran in them has been killed."""
    deadline = time.monotonic() + GONE_S
    for group in [*V1.glob(f"{PREFIX}*"), *V2.glob(f"{PREFIX}*")]:
        while (group / "cgroup.procs").read_text() and time.monotonic() < deadline:
            time.sleep(0.02)
        group.rmdir()


def _version() -> int:
    if (V1 / "cpu.cfs_quota_us").exists():
        return 1
    offered = V2 / "cgroup.subtree_control"
    return 2 if offered.exists() and "cpu" in offered.read_text().split() else 0
