"""Rank 0's side of the wire: what the executors are told and what they answer. Knows frames and codecs, not learning.

N agents, E environments of one slot, Z latent.
"""

from __future__ import annotations

import logging
import math
import secrets
from collections.abc import Callable
from typing import NamedTuple

import numpy as np

from sde_harl import __version__
from sde_harl.codec import PLAIN, Codec
from sde_harl.codec.coder import EntropyCoder
from sde_harl.codec.plain import UNKNOWN_BITS
from sde_harl.codec.tables import Tables, to_bytes
from sde_harl.decisions import Choices, DecisionLog, Decisions, Slot
from sde_harl.errors import UserError
from sde_harl.executor import Welcome
from sde_harl.link.faults import Fault
from sde_harl.link.transport import Transport
from sde_harl.link.wire import (
    METER_BYTES,
    OVERHEAD,
    TIMING_BYTES,
    Kind,
    Message,
    Resources,
    WireError,
    parse_json,
    unpack_meter,
)
from sde_harl.meters.timing import now_ns
from sde_harl.outbox import Outbox, Plan
from sde_harl.policy.whole import Told

log = logging.getLogger(__name__)

# at hand: an Enum looks them up in Python
FEATURES, CHOICES = Kind.FEATURES, Kind.CHOICES


class Hello(NamedTuple):
    """What an executor said of itself."""

    host: str
    arch: str
    python: str
    numpy: str
    package: str
    cores: int
    pid: int
    energy: str
    gpu_energy: str


class Report(NamedTuple):
    """One executor's answer to METER."""

    resources: Resources
    timings: np.ndarray
    """(k, n, 3) uint32 ns for each half-step and agent of the executor: local net, encode, round trip."""


def deal(agents: int, executors: int, assign: dict[int, int]) -> list[tuple[int, ...]]:
    """Agents of each executor (index 0 is rank 1): pinned ones first, the others to whoever has fewest."""
    if executors > agents:
        most = f"use -np {agents + 1} or less"
        raise UserError(f"-np {executors + 1}: {agents} agents keep at most {agents} executors busy; {most}")
    hands: list[list[int]] = [[] for _ in range(executors)]
    for agent, rank in assign.items():
        if not 0 <= agent < agents or not 1 <= rank <= executors:
            legal = f"agents are 0..{agents - 1}, ranks 1..{executors}"
            raise UserError(f"placement.assign: agent {agent} on rank {rank}: {legal}")
        hands[rank - 1].append(agent)
    for agent in range(agents):
        if agent not in assign:
            min(hands, key=len).append(agent)
    if not all(hands):
        idle = [rank + 1 for rank, hand in enumerate(hands) if not hand]
        raise UserError(f"placement.assign: no agent is left for rank {idle[0]} of -np {executors + 1}")
    return [tuple(sorted(hand)) for hand in hands]


class Fleet:
    """All executors of a run, seen from rank 0."""

    def __init__(self, transport: Transport, plan: Plan) -> None:
        self._transport, self._plan = transport, plan
        self._agents = len(plan.shape.obs_sizes)
        self._latent_sizes = plan.shape.latent_sizes()
        self._executors = dict(enumerate(deal(self._agents, transport.size - 1, plan.assign), start=1))
        self._outbox = Outbox(transport, plan, self._executors)
        self.rank_of = np.zeros(self._agents, np.int32)
        for rank, agents in self._executors.items():
            self.rank_of[list(agents)] = rank
        plain = PLAIN.get(plan.codec)  # entropy coders come with their tables
        self._codecs: list[Codec] = [plain(size) for size in self._latent_sizes] if plain else []
        self._slots = [Slot(self._agents, plan.rows, plan.shape.latent_max()) for _ in range(plan.slots)]
        self._reports: dict[int, Report] = {}
        self._log = DecisionLog(self._agents)
        self.whole = plan.whole is not None
        """Whether policies run on the devices from end to end: then `decide`, else `sense`, `latents` and `act`."""
        self.version = 0
        self.hosts: dict[int, Hello] = {}

    def handshake(self) -> None:
        """Meet every executor and tell it what to be. Raises UserError where one is missing or of another version."""
        self._wait(lambda: len(self.hosts) == len(self._executors), lambda: "did not say hello", self._missing_hello)
        self._transport.run_id = secrets.randbits(32)
        for rank, agents in self._executors.items():
            plan = self._plan
            coded = (agents, plan.shape_of(agents), plan.codec, plan.pack)
            what = (*coded, self._outbox.largest(), plan.whole, plan.idle_s)
            self._transport.send(rank, Kind.WELCOME, Welcome(self._transport.run_id, *what).to_json())
        self._make_room()

    def publish(self, version: int, weights: list[list[np.ndarray]], tables: list[Tables]) -> None:
        """Send every executor its agents' local nets and tables; `tables` is empty for plain codecs.

        `weights[agent]`: that agent's arrays in wire order (policy/local.py).
        """
        self.version = version
        for rank, agents in self._executors.items():
            flat = np.concatenate([np.stack(arrays).ravel() for arrays in zip(*(weights[agent] for agent in agents))])
            self._transport.send(rank, Kind.WEIGHTS, flat.tobytes(), version=version)
            for agent in agents if tables else ():
                self._transport.send(rank, Kind.TABLES, to_bytes(tables[agent]), agent=agent, version=version)
        if tables:
            self._codecs = [EntropyCoder(each, self._plan.pack) for each in tables]

    def sense(self, slot: int, step: int, obs: np.ndarray) -> None:
        """Hand observations (N, E, O) to the executors: the channel that stands for the devices' own sensors."""
        self._slots[slot].begin(step, obs.shape[1])
        self._outbox.sense(slot, step, self.version, obs, None)

    def latents(self, slot: int) -> np.ndarray:
        """Decoded latents (N, E, Z) of what was sensed, once all agents' have come; valid until the next sense."""
        state = self._slots[slot]
        self._await_agents(state, "sent no latents")
        return state.latents[:, : state.rows]

    def decide(self, slot: int, step: int, obs: np.ndarray, told: Told) -> Choices:
        """Have whole policies act on observations (N, E, O)."""
        assert self._plan.whole
        state, rows = self._slots[slot], obs.shape[1]
        state.begin(step, rows)
        shape = (self._agents, rows, self._plan.action_size)
        dtype = np.float32 if self._plan.continuous else np.int32
        memory = np.zeros((self._agents, rows, self._plan.whole.memory if told.recall else 0), np.float32)
        choices = Choices(told.available, np.zeros(shape, dtype), np.zeros(shape, np.float32), memory)
        state.choices = choices
        self._outbox.sense(slot, step, self.version, obs, told)
        self._await_agents(state, "sent no choices")
        self._log.add(state, self.version, 0)
        return choices

    def act(self, slot: int, actions: np.ndarray, policy_ns: int) -> None:
        """Answer with actions (N, E, D); `policy_ns` is what deciding them took."""
        state = self._slots[slot]
        self._outbox.act(slot, state.step, self.version, actions)
        self._log.add(state, self.version, policy_ns)

    def report(self) -> tuple[Decisions, dict[int, Resources]]:
        """Everything since the last report: decisions (K, N) and each executor's resources."""
        self._reports.clear()
        self._make_room()
        for rank in self._executors:
            self._transport.send(rank, Kind.METER, b"")
        self._wait(
            lambda: len(self._reports) == len(self._executors),
            lambda: "did not report its resources",
            lambda: sorted(set(self._executors) - set(self._reports)),
        )
        device = np.zeros((self._log.count, self._agents, 3), np.uint32)
        for rank, report in self._reports.items():
            if len(report.timings) == self._log.count:  # another count means rejected frames: their times stay unknown
                device[:, list(self._executors[rank])] = report.timings
        return self._log.take(device), {rank: each.resources for rank, each in self._reports.items()}

    def faults(self) -> list[Fault]:
        """Messages refused since the last call."""
        return self._transport.faults.drain()

    def _make_room(self) -> None:
        """Take frames as large as an executor may send by now: latents, choices, or the times since the last report.

        Symbols that all need the escape code stay under 16 bytes each.
        """
        plan, most = self._plan, max(len(agents) for agents in self._executors.values())
        memory = plan.whole.memory if plan.whole else 0
        latents, choices = 16 * plan.shape.latent_max() + 64, 8 * plan.action_size + 4 * memory
        report = METER_BYTES + TIMING_BYTES * self._log.count * most
        largest = OVERHEAD + max(1 << 16, plan.rows * latents, plan.rows * choices, report)
        self._transport.set_frame_bytes(receive=largest, send=self._outbox.largest())

    def _missing_hello(self) -> list[int]:
        return sorted(set(self._executors) - set(self.hosts))

    def _wait(self, done: Callable[[], bool], what: Callable[[], str], missing: Callable[[], list[int]]) -> None:
        deadline = now_ns() + int(self._plan.patience_s * 1e9)
        while not done():
            left = (deadline - now_ns()) * 1e-9
            for message in self._transport.wait(min(left, 1.0)):
                self._receive(message)
            if left <= 0 and not done():
                rank = missing()[0]
                host = self.hosts[rank].host if rank in self.hosts else "unknown host"
                patience = f"link.patience_s = {self._plan.patience_s:g} s"
                raise UserError(f"executor {rank} ({host}) {what()} within {patience}")

    def _await_agents(self, state: Slot, what: str) -> None:
        self._wait(
            lambda: not state.missing,
            lambda: f"{what} for step {state.step}",
            lambda: state.missing_ranks(self.rank_of),
        )

    def _receive(self, message: Message) -> None:
        """Act on one frame of an executor; whatever is not right about it is counted and dropped."""
        kind = message.header.kind
        try:
            if kind is FEATURES:
                self._features(message)
            elif kind is CHOICES:
                self._chosen(message)
            elif kind is Kind.METER:
                self._meter(message)
            elif kind is Kind.HELLO:
                self._hello(message)
            else:
                raise WireError("kind")
        except WireError as error:
            self._reject(message, error.reason)
        except ValueError as error:
            self._reject(message, "decode")
            log.debug("rank %d: %s", message.source, error)

    def _reject(self, message: Message, reason: str) -> None:
        header = message.header
        self._transport.faults.count(message.source, reason, step=header.step, agent=header.agent)

    def _features(self, message: Message) -> None:
        state, agent, rows, payload = self._awaited(message)
        if state.choices:
            raise WireError("kind")
        started = now_ns()
        bits = self._codecs[agent].decode(payload, state.latents[agent, :rows, : self._latent_sizes[agent]])
        state.arrived(agent, len(payload), bits, now_ns() - started)

    def _chosen(self, message: Message) -> None:
        state, agent, rows, payload = self._awaited(message)
        if not state.choices:
            raise WireError("kind")
        started = now_ns()
        available, actions, log_probs, memory = (each[agent] for each in state.choices)
        if len(payload) != 2 * actions.nbytes + memory.nbytes:
            raise WireError("length")
        chosen: np.ndarray = np.ndarray(actions.shape, actions.dtype, payload)
        their_log_probs: np.ndarray = np.ndarray(actions.shape, np.float32, payload, actions.nbytes)
        their_memory: np.ndarray = np.ndarray(memory.shape, np.float32, payload, 2 * actions.nbytes)
        if not (self._allowed(chosen, available) and math.isfinite(their_log_probs.sum())):
            raise WireError("action")
        if not (np.abs(their_memory) < 1.001).all():  # a GRU's lies between an earlier one and a tanh
            raise WireError("memory")
        actions[:], log_probs[:], memory[:] = chosen, their_log_probs, their_memory
        state.arrived(agent, len(payload), UNKNOWN_BITS, now_ns() - started)

    def _allowed(self, chosen: np.ndarray, available: np.ndarray) -> bool:
        """Whether actions (E, D) are finite, or choices in their branches that are available (E, A)."""
        if self._plan.continuous:
            return bool(np.isfinite(chosen).all())
        assert self._plan.whole
        rows, at = np.arange(len(chosen)), 0
        for column, size in zip(chosen.T.view(np.uint32), self._plan.whole.branches):  # unsigned, so that -1 is huge
            if column.max() >= size or not available[rows, column + at].all():
                return False
            at += size
        return True

    def _awaited(self, message: Message) -> tuple[Slot, int, int, memoryview]:
        """The slot, agent, rows and payload of an answer that a slot waits for. Raises WireError for any other."""
        source, (_, agent, _, step, slot, rows, version), payload = message
        if slot >= len(self._slots) or agent not in self._executors[source]:
            raise WireError("agent")
        state = self._slots[slot]
        if version != self.version:
            raise WireError("version")
        if step != state.step or rows != state.rows or agent not in state.missing:
            raise WireError("step")
        return state, agent, rows, payload

    def _meter(self, message: Message) -> None:
        resources, timings = unpack_meter(message.payload)
        agents = len(self._executors[message.source])
        if len(timings) % agents:
            raise WireError("meter")
        self._reports[message.source] = Report(resources, timings.reshape(-1, agents, 3))

    def _hello(self, message: Message) -> None:
        fields = parse_json(message.payload)
        numbers = ("cores", "pid")
        if set(fields) != set(Hello._fields) or any(
            type(value) is not (int if key in numbers else str) for key, value in fields.items()
        ):
            raise WireError("hello")
        hello = Hello(**fields)
        if hello.package != __version__:
            theirs = f"executor {message.source} ({hello.host[:64]}) has sde_harl {hello.package[:32]}"
            raise UserError(f"{theirs}, the server {__version__}")
        self.hosts[message.source] = hello
