"""Measures what the network interfaces used by a process have carried, by the kernel's counters.

Link headers are included, and so is the traffic of the host's other processes.
"""

from __future__ import annotations

from typing import Any, NamedTuple

import psutil


class Carried(NamedTuple):
    """Counts what a host's interfaces have carried since a `Network` was made; -1: unknown."""

    sent_bytes: int
    received_bytes: int
    sent_packets: int
    received_packets: int


UNKNOWN = Carried(sent_bytes=-1, received_bytes=-1, sent_packets=-1, received_packets=-1)


class Network:
    """The interfaces that this process's TCP connections to other hosts go over.

    MPI decides which interfaces it uses as late as at the first message. So the counters of all
    interfaces are kept from the start, and the right ones are found later.
    """

    def __init__(self) -> None:
        self._before = psutil.net_io_counters(pernic=True)
        self.interfaces: tuple[str, ...] = ()
        """Names of the interfaces in use, from the first sample on that finds a connection to
        another host; stays empty if there is none, as in a run on one host."""

    def sample(self) -> Carried:
        """Returns what has been carried up to now."""
        # Looked up until found, then kept: a connection that closes later, as it does when an
        # executor is lost, mustn't make the counters jump.
        if not self.interfaces:
            self.interfaces = _connected()
        if not self.interfaces:
            return UNKNOWN
        now = psutil.net_io_counters(pernic=True)
        present = {name: now[name] for name in self.interfaces if name in now}
        if not present:
            return UNKNOWN
        return Carried(
            sent_bytes=self._since_start("bytes_sent", present),
            received_bytes=self._since_start("bytes_recv", present),
            sent_packets=self._since_start("packets_sent", present),
            received_packets=self._since_start("packets_recv", present),
        )

    def _since_start(self, field: str, now: dict[str, Any]) -> int:
        """Returns how much one of psutil's counters has grown, over all interfaces in `now`."""
        total = 0
        for name, counters in now.items():
            # an interface that came up after the start has counted from 0
            before = getattr(self._before.get(name), field, 0)
            total += getattr(counters, field) - before
        return total


def _connected() -> tuple[str, ...]:
    """Returns the interfaces that own the near end of a connection to another host."""
    owner = _owners()
    found = set()
    for connection in psutil.Process().net_connections("tcp"):
        near = connection.laddr
        far = connection.raddr
        if connection.status != psutil.CONN_ESTABLISHED or not far:
            continue
        # two processes of this host may also talk over the address of a real interface
        is_to_another_host = far.ip not in owner
        if is_to_another_host and near.ip in owner:
            found.add(owner[near.ip])
    return tuple(sorted(found))


def _owners() -> dict[str, str]:
    """Returns the name of the interface that has each of this host's addresses."""
    interfaces = psutil.net_if_addrs().items()
    return {each.address: name for name, addresses in interfaces for each in addresses}
