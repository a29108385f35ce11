"""What the interfaces that a process talks over have carried: the kernel's counters, link headers included."""

from __future__ import annotations

from typing import NamedTuple

import psutil


class Carried(NamedTuple):
    """Of a host's interfaces, by any of its processes, since a meter was made; -1: unknown."""

    sent_bytes: int
    received_bytes: int
    sent_packets: int
    received_packets: int


UNKNOWN = Carried(-1, -1, -1, -1)


class Network:
    """The interfaces that this process's TCP connections to other hosts go over.

    Which ones, MPI decides as late as at the first message, so that the counters of all are kept from the start.
    """

    def __init__(self) -> None:
        self._before = psutil.net_io_counters(pernic=True)
        self.interfaces: tuple[str, ...] = ()
        """Their names, from the first sample on that sees a connection; empty where there is none, as in one host."""

    def sample(self) -> Carried:
        """What has been carried up to now."""
        self.interfaces = self.interfaces or _connected()
        if not self.interfaces:
            return UNKNOWN
        now = psutil.net_io_counters(pernic=True)
        spans = [
            [getattr(now[name], field) - (getattr(self._before[name], field) if name in self._before else 0)
             for field in ("bytes_sent", "bytes_recv", "packets_sent", "packets_recv")]
            for name in self.interfaces
            if name in now
        ]  # fmt: skip
        return Carried(*map(sum, zip(*spans))) if spans else UNKNOWN


def _connected() -> tuple[str, ...]:
    """Interfaces that own the near end of a connection to another host."""
    owner = {
        each.address: name
        for name, addresses in psutil.net_if_addrs().items()
        for each in addresses
    }
    found = set()
    for connection in psutil.Process().net_connections("tcp"):
        near, far = connection.laddr, connection.raddr
        if (
            connection.status == psutil.CONN_ESTABLISHED
            and far
            and far.ip not in owner
            and near.ip in owner
        ):
            found.add(owner[near.ip])
    return tuple(sorted(found))
