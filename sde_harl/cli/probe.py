"""What one host is and how the link to it does, for doctor.py: mpirun -np 2 --host SERVER,HOST python -m sde_harl.cli.probe

Rank 0 pings the other rank, asks what it is, and prints a line of JSON; alone, it prints what it is itself.
"""

from __future__ import annotations

import json
import os
import statistics
import struct
import time
from typing import Any, NamedTuple

import psutil

from sde_harl.codec.golden import coder_agrees
from sde_harl.link import mpi
from sde_harl.link.transport import Transport
from sde_harl.link.wire import Header, Kind, Message, parse_json
from sde_harl.meters.energy import Energy
from sde_harl.meters.network import Network
from sde_harl.protocol.hello import describe_host

SERVER, OTHER = 0, 1
MARK = "sde_harl.cli.probe "
"""Before the line of JSON, which comes among what mpirun and the host's shell may print."""
PINGS = 20
PATIENCE_S = 20.0
WALL_NS = struct.Struct("<q")
BRIDGES = ("docker", "virbr", "br-", "lxcbr", "cni", "flannel")
CHOSEN = ("OMPI_MCA_btl_tcp_if_include", "OMPI_MCA_btl_tcp_if_exclude")


class Host(NamedTuple):
    """What a host said of itself."""

    host: str
    arch: str
    python: str
    numpy: str
    package: str
    mpi: str
    cores: int
    memory_bytes: int
    interfaces: list[str]
    """That MPI talks over; empty within one host."""
    bridges: list[str]
    """Of containers and virtual machines, which MPI may take for the network."""
    chosen: bool
    """Whether mpirun was told which interfaces to take."""
    coder: bool
    """Whether its rANS coder makes the bytes it must."""
    energy: str
    """What its sensor covers, or why it has none."""
    gpu_energy: str


class Probe(NamedTuple):
    """A host as the server sees it; of the server itself no round trip (0)."""

    server: Host
    host: Host
    round_trip_us: float
    clock_s: float
    """Its clock less the server's, known to half the best round trip."""


def describe(network: Network) -> Host:
    """This host."""
    said = describe_host(Energy())._asdict()
    del said["pid"]
    network.sample()
    return Host(
        **said,
        mpi=mpi.library_version(),
        memory_bytes=psutil.virtual_memory().total,
        interfaces=[*network.interfaces],
        bridges=[
            name
            for name, state in psutil.net_if_stats().items()
            if name.startswith(BRIDGES) and state.isup
        ],
        chosen=any(os.environ.get(name) for name in CHOSEN),
        coder=coder_agrees(),
    )


def to_json(probe: Probe) -> str:
    return json.dumps(
        {**probe._asdict(), "server": probe.server._asdict(), "host": probe.host._asdict()}
    )


def from_json(text: str) -> Probe:
    """Raises ValueError for anything but what `to_json` gives."""
    fields = parse_json(memoryview(text.encode()))
    if set(fields) != set(Probe._fields) or not all(
        type(fields[key]) is float for key in ("round_trip_us", "clock_s")
    ):
        raise ValueError("not a probe")
    return Probe(
        **{**fields, "server": host_from(fields["server"]), "host": host_from(fields["host"])}
    )


def host_from(fields: Any) -> Host:
    """Raises ValueError where the fields are not a host's, by name and type."""
    kinds = {"cores": int, "memory_bytes": int, "chosen": bool, "coder": bool}
    kinds |= dict.fromkeys(("interfaces", "bridges"), list)
    if not isinstance(fields, dict) or set(fields) != set(Host._fields):
        raise ValueError("not a host")
    for key, value in fields.items():
        if type(value) is not kinds.get(key, str):
            raise ValueError(f"{key} of a host is {value!r}")
        if isinstance(value, list) and not all(isinstance(each, str) for each in value):
            raise ValueError(f"{key} of a host is {value!r}")
    return Host(**fields)


def ask(transport: Transport, network: Network) -> Probe:
    """The server's side: pings, then the question."""
    trips, clocks = [], []
    for _ in range(PINGS):
        sent, wall = time.perf_counter(), time.time_ns()
        transport.send(OTHER, Header(kind=Kind.METER))
        answer = _next(transport)
        trips.append(time.perf_counter() - sent)
        [theirs] = WALL_NS.unpack(answer.payload)
        clocks.append((theirs - (wall + time.time_ns()) / 2) * 1e-9)
    transport.send(OTHER, Header(kind=Kind.HELLO))
    host = host_from(parse_json(_next(transport).payload))
    best = trips.index(min(trips))  # the clock is read best where nobody waited
    return Probe(describe(network), host, statistics.median(trips) * 1e6, clocks[best])


def answer(transport: Transport, network: Network) -> None:
    """The other side."""
    while True:
        asked = _next(transport)
        if asked.header.kind is Kind.HELLO:
            break
        transport.send(SERVER, Header(kind=Kind.METER), WALL_NS.pack(time.time_ns()))
    description = json.dumps(describe(network)._asdict()).encode()
    transport.send(SERVER, Header(kind=Kind.HELLO), description)


def _next(transport: Transport) -> Message:
    messages = transport.wait(PATIENCE_S)
    if not messages:
        raise TimeoutError(f"no message in {PATIENCE_S:g} s")
    return messages[0]


def main() -> None:
    network = Network()
    if mpi.launched_ranks()[1] == 1:
        host = describe(network)
        print(MARK + to_json(Probe(host, host, 0.0, 0.0)), flush=True)
        return
    transport = mpi.join()
    if transport.rank:
        answer(transport, network)
    else:
        print(MARK + to_json(ask(transport, network)), flush=True)
    transport.close()


if __name__ == "__main__":
    main()
