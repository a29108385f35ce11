"""Checks what every transport must do: over the loopback and, as a program, over MPI.

As a program: mpirun -np N python tests/helpers/mpi_transport.py WHAT [MB], where WHAT is serve,
idle, abort, deaf, unheard or huge.
"""

from __future__ import annotations

import struct
import sys
import time

import numpy as np
import psutil
import pytest
from limits import hang_limit_s

from sde_harl.link import mpi_end
from sde_harl.link.mpi import join
from sde_harl.link.mpi_end import MpiEnd
from sde_harl.link.transport import Transport
from sde_harl.link.wire import OVERHEAD, Header, Kind, Message

RUN = 77
FRAME_BYTES = 65536
LARGE = 4 << 20
HUGE_GROWTH = 32 << 20
TIMEOUT_S = hang_limit_s()


class Echo:
    """The executor of these checks. It answers what it gets, and misbehaves when it is asked to."""

    def __init__(self, transport: Transport) -> None:
        self.transport = transport
        self.open = True
        transport.send(0, Header(kind=Kind.HELLO), b"{}")

    def step(self) -> None:
        for message in self.transport.poll():
            self.handle(message)

    def handle(self, message: Message) -> None:
        _, header, payload = message
        if header.kind is Kind.WELCOME:
            self.transport.run_id = header.run_id
            self.transport.set_frame_bytes(header.version, 2 * LARGE)
        elif header.kind is Kind.SENSOR:
            self.transport.send(0, header._replace(kind=Kind.LATENTS), bytes(payload))
        elif header.kind is Kind.TABLES:
            self.misbehave(header.step)
        elif header.kind is Kind.METER:
            self.transport.send(0, Header(kind=Kind.METER), struct.pack("<d", time.process_time()))
        elif header.kind is Kind.BYE:
            self.open = False

    def misbehave(self, size: int) -> None:
        """Sends a message of noise, one of another run, and one of `size` bytes."""
        self.transport._post(0, b"noise" * 20)
        self.transport.run_id = RUN + 1
        self.transport.send(0, Header(kind=Kind.LATENTS), b"of another run")
        self.transport.run_id = RUN
        self.transport.send(0, Header(kind=Kind.LATENTS), bytes(size - OVERHEAD))


def gather(server: Transport, count: int) -> list[tuple[int, Kind, int, bytes]]:
    """Returns source, kind, step and payload of the next `count` messages."""
    messages: list[tuple[int, Kind, int, bytes]] = []
    deadline = time.monotonic() + TIMEOUT_S
    while len(messages) < count:
        assert time.monotonic() < deadline, f"{len(messages)} of {count} messages came"
        messages += [
            (m.source, m.header.kind, m.header.step, bytes(m.payload)) for m in server.wait(1.0)
        ]
    return messages


def serve(server: Transport) -> None:
    """Runs the server's side of all checks."""
    peers = sorted(server.sent)
    server.run_id = RUN
    assert {(source, kind) for source, kind, _, _ in gather(server, len(peers))} == {
        (p, Kind.HELLO) for p in peers
    }
    for peer in peers:
        server.send(peer, Header(kind=Kind.WELCOME, version=FRAME_BYTES))
    for check in (check_fields, check_fan, check_order, check_large, check_refusals, check_quiet):
        check(server, peers)
    for peer in peers:
        server.send(peer, Header(kind=Kind.BYE))
    assert server.flush(TIMEOUT_S)


def check_fields(server: Transport, peers: list[int]) -> None:
    """Checks that every field and the payload come back as they went."""
    obs = np.arange(12, dtype=np.float32).reshape(3, 4)
    sent = Header(kind=Kind.SENSOR, step=2**32 - 1, slot=1, environments=3, version=9)
    for peer in peers:
        size = server.send(peer, sent._replace(agent=peer), obs.tobytes())
        assert size == OVERHEAD + obs.nbytes
    left = len(peers)
    while left:
        for source, header, payload in server.wait(TIMEOUT_S):
            assert header == sent._replace(kind=Kind.LATENTS, agent=source, run_id=RUN)
            assert np.array_equal(np.frombuffer(payload, np.float32).reshape(3, 4), obs)
            left -= 1


def check_fan(server: Transport, peers: list[int]) -> None:
    """Checks that frames which are written again bring each rank its own payload, every time."""
    fan = server.fan({peer: 4 + peer for peer in peers})
    for step in range(20):

        def write(peer: int, step: int = step) -> None:
            fan.frames[peer].payload[:] = bytes([step]) * (4 + peer)

        header = Header(kind=Kind.SENSOR, step=step, slot=1, environments=2, version=3)
        left_out = server.send_fan(fan, write, header=header, failure_timeout_s=TIMEOUT_S)
        assert left_out == []
        answers = {source: body for source, _, _, body in gather(server, len(peers))}
        assert answers == {peer: bytes([step]) * (4 + peer) for peer in peers}
    with pytest.raises(ValueError, match="room for"):
        server.fan({peers[0]: FRAME_BYTES})


def check_order(server: Transport, peers: list[int]) -> None:
    """Sends 1000 messages a peer without a look at the answers, which must come in order.

    Sizes differ so that short messages could overtake long ones.
    """
    count = 1000 if len(peers) <= 2 else 200
    before = {peer: server.received[peer] for peer in peers}
    for step in range(count):
        for peer in peers:
            server.send(
                peer,
                Header(kind=Kind.SENSOR, step=step),
                bytes(30000 if step % 7 == 0 else step % 50),
            )
    messages = gather(server, count * len(peers))
    for peer in peers:
        assert [step for source, _, step, _ in messages if source == peer] == list(range(count))
        assert all(
            len(body) == (30000 if step % 7 == 0 else step % 50) for _, _, step, body in messages
        )
        assert server.received[peer] - before[peer] == count


def check_large(server: Transport, peers: list[int]) -> None:
    """Sends frames of 4 MB, announced and followed at once by the first of them."""
    weights = np.random.default_rng(1).integers(0, 255, LARGE, dtype=np.uint8)
    with pytest.raises(ValueError, match="room for"):
        server.send(peers[0], Header(kind=Kind.SENSOR), weights.tobytes())
    for peer in peers:
        server.send(peer, Header(kind=Kind.WELCOME, version=LARGE + OVERHEAD))
    server.set_frame_bytes(LARGE + OVERHEAD, LARGE + OVERHEAD)
    for peer in peers:
        server.send(peer, Header(kind=Kind.SENSOR, step=1), weights.tobytes())
        server.send(peer, Header(kind=Kind.SENSOR, step=2), b"after")
    for source, _, step, body in gather(server, 2 * len(peers)):
        assert body == (weights.tobytes() if step == 1 else b"after"), source


def check_refusals(server: Transport, peers: list[int]) -> None:
    """Checks that damaged, foreign and overlong messages are counted, and that the next is read."""
    server.set_frame_bytes(FRAME_BYTES, FRAME_BYTES)
    for peer in peers:
        for size in (FRAME_BYTES + 1, LARGE):
            server.send(peer, Header(kind=Kind.TABLES, step=size))
        server.send(peer, Header(kind=Kind.SENSOR, step=3), b"still here")
    assert {body for _, _, _, body in gather(server, len(peers))} == {b"still here"}
    expected = {"magic": 2, "run": 2, "oversize": 2}
    assert server.faults.counts == {
        (peer, reason): n for peer in peers for reason, n in expected.items()
    }
    assert server.faults.total == len(server.faults.drain()) == 6 * len(peers)
    assert server.faults.drain() == []


def check_quiet(server: Transport, peers: list[int]) -> None:
    """Checks that nothing more comes."""
    assert server.wait(0.05) == []


def idle(server: Transport) -> None:
    """Prints rank 1's share of a core while a message comes every 50 ms, and while none comes."""
    server.run_id = RUN
    gather(server, 1)
    server.send(1, Header(kind=Kind.WELCOME, version=FRAME_BYTES))
    for pause_s, rounds in ((0.05, 40), (2.0, 1)):
        before, began = cpu_s(server), time.monotonic()
        for _ in range(rounds):
            time.sleep(pause_s)
            server.send(1, Header(kind=Kind.SENSOR), bytes(200))
            gather(server, 1)
        share = (cpu_s(server) - before) / (time.monotonic() - began)
        print(f"share {share:.4f}", flush=True)
    server.send(1, Header(kind=Kind.BYE))


def take_huge(server: Transport) -> None:
    """Checks that a message larger than any expected one takes no room; then reads the next."""
    server.run_id = RUN
    gather(server, 1)
    before = psutil.Process().memory_info().rss
    peak = before
    server.send(1, Header(kind=Kind.WELCOME, version=FRAME_BYTES))
    deadline = time.monotonic() + TIMEOUT_S
    messages: list[Message] = []
    while not messages:
        assert time.monotonic() < deadline
        messages = server.wait(0.01)
        peak = max(peak, psutil.Process().memory_info().rss)
    assert [bytes(message.payload) for message in messages] == [b"still here"]
    assert server.faults.counts == {(1, "oversize"): 1}
    assert peak - before < HUGE_GROWTH, f"{peak - before:,} bytes more"
    server.send(1, Header(kind=Kind.BYE))


def send_huge(transport: Transport, megabytes: int) -> None:
    """Sends a message of so many MB, from a buffer of one, then a right one."""
    assert isinstance(transport, MpiEnd)
    megabyte = 1 << 20
    repeated = transport._byte.Create_hvector(megabytes, megabyte, 0).Commit()
    sent = transport._comm.Isend([bytearray(megabyte), 1, repeated], 0)
    transport.send(0, Header(kind=Kind.LATENTS), b"still here")
    sent.Wait()


def send_to_the_deaf(server: Transport) -> None:
    """Checks that the others go on when a rank takes no messages, and that all end in the end."""
    mpi_end.SEND_TIMEOUT_S = 1.0
    server.run_id = RUN
    peers = sorted(server.sent)
    gather(server, len(peers))
    for peer in peers:
        server.send(peer, Header(kind=Kind.WELCOME, version=FRAME_BYTES))
    # Larger than what any MPI sends before the other side asks for it.
    for step in range(100):
        server.send(peers[0], Header(kind=Kind.SENSOR, step=step), bytes(60000))
    assert server.stuck == server.absent == {peers[0]}
    for peer in peers[1:]:
        server.send(peer, Header(kind=Kind.SENSOR), b"still here")
        server.send(peer, Header(kind=Kind.BYE))
    assert {body for _, _, _, body in gather(server, len(peers) - 1)} == {b"still here"}
    server.close(4)


def leave_unheard(server: Transport) -> None:
    """Says goodbye and listens no more."""
    server.run_id = RUN
    gather(server, 1)
    server.send(1, Header(kind=Kind.WELCOME, version=FRAME_BYTES))
    server.send(1, Header(kind=Kind.BYE))


def cpu_s(server: Transport) -> float:
    server.send(1, Header(kind=Kind.METER))
    return float(struct.unpack("<d", gather(server, 1)[0][3])[0])


def main(what: str) -> None:
    transport = join()
    if what == "abort" and transport.rank == transport.size - 1:
        transport.abort(3)
    if transport.rank == 0:
        parts = {"serve": serve, "idle": idle, "abort": serve, "huge": take_huge}
        parts |= {"deaf": send_to_the_deaf, "unheard": leave_unheard}
        parts[what](transport)
    else:
        echo = Echo(transport)
        if what == "deaf" and transport.rank == 1:
            time.sleep(TIMEOUT_S)
        while echo.open:
            for message in transport.wait(1.0):
                echo.handle(message)
                if what == "huge" and message.header.kind is Kind.WELCOME:
                    send_huge(transport, int(sys.argv[2]))
        if what == "unheard":
            # Larger than what any MPI sends before the other side asks for it.
            transport.send(0, Header(kind=Kind.LATENTS), bytes(60000))
    transport.close()
    if transport.rank == 0:
        print(f"{what} passed with {transport.size} ranks")


if __name__ == "__main__":
    main(sys.argv[1])
