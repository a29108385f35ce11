"""The ranks that learn with rank 0, seen from rank 0: who is there, and what they are asked.

    HELLO ->, <- LEARN (the configuration's digest), LEARN (its cores) ->, <- LEARN (an update) ...

What they learn from doesn't travel in frames (link/mpi_team.py).
"""

from __future__ import annotations

import secrets
from collections.abc import Callable

import numpy as np

from sde_harl.errors import UserError
from sde_harl.link.transport import Transport
from sde_harl.link.wire import Header, Kind, Message, WireError
from sde_harl.meters.cores import Seat
from sde_harl.meters.timing import now_ns
from sde_harl.protocol.hello import Hello
from sde_harl.server.receiver import read_reason

STARTING_S = 600.0
"""Time that a learner may take to import what it learns with, and to make its nets."""
POLL_S = 0.1
MOST_CORES = 1 << 13
CORE = np.dtype("<u2")
"""A core's number on the wire."""


class LearnerRanks:
    """Talks to the learners behind the executors."""

    def __init__(self, transport: Transport, failure_timeout_s: float) -> None:
        self.transport = transport
        self.starting_s = max(failure_timeout_s, STARTING_S)
        self.failure_timeout_s = failure_timeout_s
        self.others: Callable[[Message], None] | None = None
        """Takes what executors send, where they share the link."""
        self.hosts: dict[int, Hello] = {}
        self.cores: dict[int, frozenset[int]] = {}
        """By rank, of those that are ready: the cores that it may use."""
        self._parted: dict[int, str] = {}

    def call(self, config: str) -> None:
        """Tells all of them that they are to learn, by the configuration of this digest."""
        if self.transport.run_id is None:
            self.transport.run_id = secrets.randbits(32)
        self.ask(config.encode())

    def await_ready(self) -> None:
        """Waits until all are ready. Raises UserError where one can't be."""
        deadline_ns = now_ns() + int(self.starting_s * 1e9)
        while len(self.cores) < len(self.transport.learners):
            for message in self.transport.wait(POLL_S):
                self._take(message)
            self._check()
            if now_ns() > deadline_ns:
                missing = min({*self.transport.learners} - {*self.cores})
                raise self.fail(f"{self._name(missing)} was not ready in {self.starting_s:g} s")

    def seats(self) -> list[Seat]:
        """Returns where those that are ready run, in the order of their ranks."""
        return [
            Seat(rank=rank, host=self.hosts[rank].host, cores=self.cores[rank])
            for rank in self.transport.learners
        ]

    def ask(self, payload: bytes = b"") -> None:
        """Sends all of them a LEARN."""
        self.transport.send_all(self.transport.learners, Header(kind=Kind.LEARN), payload)

    def look(self) -> None:
        """Takes in what has come. Raises UserError where a learner will not go on."""
        for message in self.transport.poll():
            self._take(message)
        self._check()

    def fail(self, what: str) -> UserError:
        """Returns the error of a run that can't go on without all of its learners."""
        # The others wait for a sum that will never be: they can't leave MPI, but are ended.
        self.transport.absent |= {*self.transport.learners}
        return UserError(what)

    def receive(self, message: Message) -> None:
        """Takes the message of a rank that is no executor. Raises WireError for a wrong one."""
        rank = message.source
        kind = message.header.kind
        if rank not in self.transport.learners:
            raise WireError("agent")
        if kind is Kind.HELLO and rank not in self.hosts:
            hello = Hello.from_json(message.payload)
            hello.check_version(rank)
            self.hosts[rank] = hello
        elif kind is Kind.LEARN and rank not in self.cores:
            self.cores[rank] = _read_cores(message.payload)
        elif kind is Kind.BYE:
            self._parted[rank] = read_reason(message.payload)
        else:
            raise WireError("kind")

    def _take(self, message: Message) -> None:
        if self.others and message.source in self.transport.executors:
            self.others(message)
            return
        try:
            self.receive(message)
        except WireError as error:
            self.transport.faults.count(message.source, error.reason)

    def _check(self) -> None:
        for rank, reason in self._parted.items():
            raise self.fail(f"{self._name(rank)}: {reason}")
        lost = self.transport.lost | self.transport.stuck
        for rank in lost & {*self.transport.learners}:
            raise self.fail(f"{self._name(rank)}: its process has ended")

    def _name(self, rank: int) -> str:
        host = "unknown host"
        if rank in self.hosts:
            host = self.hosts[rank].host
        return f"learner {rank} ({host})"


def pack_cores(cores: frozenset[int]) -> bytes:
    """Returns the payload that says which cores a learner may use."""
    return np.array(sorted(cores), CORE).tobytes()


def _read_cores(payload: memoryview) -> frozenset[int]:
    if not 0 < len(payload) <= MOST_CORES * CORE.itemsize or len(payload) % CORE.itemsize:
        raise WireError("length")
    return frozenset(np.frombuffer(payload, CORE).tolist())
