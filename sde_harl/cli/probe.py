"""Describes one host and the link to it, for `sde-harl doctor`, which starts it by mpirun.

    mpirun -np 2 --host SERVER,HOST python -m sde_harl.cli.probe

Rank 0 pings the other rank, asks it to describe itself, and prints one line of JSON. Alone, it
describes its own host.
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
from sde_harl.link.transport import SERVER, Transport
from sde_harl.link.wire import Header, Kind, Message, parse_json
from sde_harl.meters.energy import Energy
from sde_harl.meters.network import Network
from sde_harl.protocol.hello import describe_host

OTHER = 1
MARK = "sde_harl.cli.probe "
"""Marks the line of JSON, because mpirun and the host's shell may print lines too."""
PINGS = 20
ANSWER_TIMEOUT_S = 20.0
WALL_NS = struct.Struct("<q")
# Names of virtual networks. MPI may pick one of them, over which no other host can be reached.
BRIDGES = ("docker", "virbr", "br-", "lxcbr", "cni", "flannel")
# mpirun passes --mca options on to its ranks as these variables.
CHOSEN = ("OMPI_MCA_btl_tcp_if_include", "OMPI_MCA_btl_tcp_if_exclude")


class Host(NamedTuple):
    """A host's description of itself."""

    host: str
    arch: str
    python: str
    numpy: str
    package: str
    mpi: str
    cores: int
    memory_bytes: int
    interfaces: list[str]
    """Network interfaces that carried traffic of MPI. Empty within one host."""
    bridges: list[str]
    """Networks of containers and virtual machines, which MPI may take for the real one."""
    chosen: bool
    """True if mpirun was told which interfaces to use."""
    coder: bool
    """True if its rANS coder makes the same bytes as the reference."""
    energy: str
    """The coverage of its energy sensor, or why it has none."""
    gpu_energy: str


class Probe(NamedTuple):
    """A host as seen from the server. For the server itself, the round trip is 0."""

    server: Host
    host: Host
    round_trip_us: float
    clock_s: float
    """Its clock minus the server's. The error is up to half the best round trip."""


def describe(network: Network) -> Host:
    """Returns the description of this host. Its interfaces are those that `network` saw in use."""
    greeting = describe_host(Energy())._asdict()
    del greeting["pid"]
    network.sample()
    bridges = [
        name
        for name, state in psutil.net_if_stats().items()
        if name.startswith(BRIDGES) and state.isup
    ]
    return Host(
        **greeting,
        mpi=mpi.library_version(),
        memory_bytes=psutil.virtual_memory().total,
        interfaces=[*network.interfaces],
        bridges=bridges,
        chosen=any(os.environ.get(name) for name in CHOSEN),
        coder=coder_agrees(),
    )


def to_json(probe: Probe) -> str:
    """Returns a probe as one line, which `from_json` reads."""
    fields = probe._asdict()
    fields["server"] = probe.server._asdict()
    fields["host"] = probe.host._asdict()
    return json.dumps(fields)


def from_json(text: str) -> Probe:
    """Reads what `to_json` wrote. Raises ValueError for anything else."""
    fields = parse_json(memoryview(text.encode()))
    if set(fields) != set(Probe._fields):
        raise ValueError("not a probe")
    if not all(type(fields[key]) is float for key in ("round_trip_us", "clock_s")):
        raise ValueError("not a probe")
    return Probe(
        server=host_from(fields["server"]),
        host=host_from(fields["host"]),
        round_trip_us=fields["round_trip_us"],
        clock_s=fields["clock_s"],
    )


def host_from(fields: Any) -> Host:
    """Reads a host. Raises ValueError where names or types of the fields are not a host's."""
    kinds = {"cores": int, "memory_bytes": int, "chosen": bool, "coder": bool}
    kinds.update(dict.fromkeys(("interfaces", "bridges"), list))
    if not isinstance(fields, dict) or set(fields) != set(Host._fields):
        raise ValueError("not a host")
    for key, value in fields.items():
        # Not isinstance: True is an int.
        if type(value) is not kinds.get(key, str):
            raise ValueError(f"{key} of a host is {value!r}")
        if isinstance(value, list) and not all(isinstance(each, str) for each in value):
            raise ValueError(f"{key} of a host is {value!r}")
    return Host(**fields)


def ask(transport: Transport, network: Network) -> Probe:
    """Pings the other rank, asks it to describe itself, and returns what was found out."""
    round_trips_s: list[float] = []
    clocks_s: list[float] = []
    for _ in range(PINGS):
        sent_s = time.perf_counter()
        sent_ns = time.time_ns()
        transport.send(OTHER, Header(kind=Kind.METER))
        reply = _next(transport)
        round_trips_s.append(time.perf_counter() - sent_s)
        [theirs_ns] = WALL_NS.unpack(reply.payload)
        # The other clock was read about halfway between sending and receiving.
        halfway_ns = (sent_ns + time.time_ns()) / 2
        clocks_s.append((theirs_ns - halfway_ns) * 1e-9)
    transport.send(OTHER, Header(kind=Kind.HELLO))
    host = host_from(parse_json(_next(transport).payload))
    # The shortest round trip leaves the least doubt about when the clock was read.
    best = round_trips_s.index(min(round_trips_s))
    return Probe(
        server=describe(network),
        host=host,
        round_trip_us=statistics.median(round_trips_s) * 1e6,
        clock_s=clocks_s[best],
    )


def answer(transport: Transport, network: Network) -> None:
    """Answers the pings of rank 0 with this host's clock, then its question with a description."""
    while _next(transport).header.kind is not Kind.HELLO:
        transport.send(SERVER, Header(kind=Kind.METER), WALL_NS.pack(time.time_ns()))
    description = json.dumps(describe(network)._asdict()).encode()
    transport.send(SERVER, Header(kind=Kind.HELLO), description)


def _next(transport: Transport) -> Message:
    messages = transport.wait(ANSWER_TIMEOUT_S)
    if not messages:
        raise TimeoutError(f"no message in {ANSWER_TIMEOUT_S:g} s")
    return messages[0]


def main() -> None:
    """Runs this rank's side of the probe."""
    network = Network()
    if mpi.launched_ranks()[1] == 1:
        host = describe(network)
        alone = Probe(server=host, host=host, round_trip_us=0.0, clock_s=0.0)
        print(MARK + to_json(alone), flush=True)
        return
    transport = mpi.join()
    if transport.rank:
        answer(transport, network)
    else:
        print(MARK + to_json(ask(transport, network)), flush=True)
    transport.close()


if __name__ == "__main__":
    main()
