"""Network counters: which interfaces are in use, and what they have carried."""

from __future__ import annotations

import socket
from collections.abc import Iterator
from types import SimpleNamespace

import psutil
import pytest

from sde_harl.meters.network import UNKNOWN, Carried, Network


class Kernel:
    """A host with eth0 (10.0.0.2), docker0 and lo, whose counters a test sets."""

    def __init__(self) -> None:
        self.counters = {"eth0": (100, 200, 3, 4), "docker0": (7, 7, 7, 7), "lo": (50, 50, 5, 5)}
        self.connections: list[tuple[str, str]] = []

    def net_io_counters(self, pernic: bool) -> dict[str, SimpleNamespace]:
        names = ("bytes_sent", "bytes_recv", "packets_sent", "packets_recv")
        return {
            name: SimpleNamespace(**dict(zip(names, values)))
            for name, values in self.counters.items()
        }

    def net_if_addrs(self) -> dict[str, list[SimpleNamespace]]:
        owned = {"eth0": "10.0.0.2", "docker0": "172.17.0.1", "lo": "127.0.0.1"}
        return {name: [SimpleNamespace(address=address)] for name, address in owned.items()}

    def net_connections(self, kind: str) -> list[SimpleNamespace]:
        assert kind == "tcp"
        ends = [
            (SimpleNamespace(ip=near), SimpleNamespace(ip=far)) for near, far in self.connections
        ]
        return [
            SimpleNamespace(laddr=near, raddr=far, status=psutil.CONN_ESTABLISHED)
            for near, far in ends
        ]


@pytest.fixture
def kernel(monkeypatch: pytest.MonkeyPatch) -> Iterator[Kernel]:
    kernel = Kernel()
    for name in ("net_io_counters", "net_if_addrs"):
        monkeypatch.setattr(psutil, name, getattr(kernel, name))
    monkeypatch.setattr(psutil, "Process", lambda: kernel)
    return kernel


def test_what_the_connections_interface_has_carried_since_the_start(kernel: Kernel) -> None:
    network = Network()
    kernel.connections = [
        ("127.0.0.1", "127.0.0.1"),
        ("10.0.0.2", "10.0.0.1"),
        ("10.0.0.2", "10.0.0.2"),
    ]
    kernel.counters |= {"eth0": (1100, 2200, 13, 24), "docker0": (9, 9, 9, 9)}
    assert network.sample() == Carried(1000, 2000, 10, 20)
    assert network.interfaces == ("eth0",)
    kernel.connections = []  # they are known by now
    kernel.counters["eth0"] = (1101, 2200, 14, 24)
    assert network.sample() == Carried(1001, 2000, 11, 20)


def test_several_interfaces_add_up_and_a_new_one_counts_from_nought(kernel: Kernel) -> None:
    del kernel.counters["docker0"]
    network = Network()
    kernel.counters |= {"eth0": (101, 200, 4, 4), "docker0": (40, 30, 2, 1)}
    kernel.connections = [("10.0.0.2", "10.0.0.1"), ("172.17.0.1", "172.17.0.2")]
    assert network.sample() == Carried(41, 30, 3, 1)
    assert network.interfaces == ("docker0", "eth0")


def test_within_one_host_nothing_is_known(kernel: Kernel) -> None:
    network = Network()
    kernel.connections = [("127.0.0.1", "127.0.0.1"), ("10.0.0.2", "10.0.0.2")]
    assert network.sample() == UNKNOWN
    assert network.interfaces == ()


def test_a_real_connection_within_this_host_is_none_to_others() -> None:
    with socket.create_server(("127.0.0.1", 0)) as server, socket.create_connection(
        server.getsockname()
    ):
        assert Network().sample() == UNKNOWN
