"""The memory of this host, and what can't fit into it."""

from __future__ import annotations

import os

from sde_harl.errors import UserError

GB = 1e9


def host_bytes() -> int:
    """Returns the size of this host's memory."""
    return os.sysconf("SC_PHYS_PAGES") * os.sysconf("SC_PAGE_SIZE")


def check_fits(key: str, needed_bytes: float, what: str) -> None:
    """Raises UserError, naming the configuration's key, where `what` exceeds the host's memory.

    Linux grants more than there is, and later kills whoever uses it. So it is asked here, before
    anything is allocated.
    """
    there = host_bytes()
    if needed_bytes > there:
        raise UserError(
            f"{key}: expected less, for {what} would take {needed_bytes / GB:,.0f} GB,"
            f" and this host has {there / GB:,.0f}"
        )
