"""Rank 0's side of the wire: what the executors are told and what they answer. Knows frames and codecs, not learning.

N agents, E environments of one slot, Z latent.
"""

from __future__ import annotations

import logging
import secrets
from collections.abc import Callable
from math import prod
from typing import NamedTuple

import numpy as np

from sde_harl import __version__
from sde_harl.codec import PLAIN, Codec
from sde_harl.codec.coder import EntropyCoder
from sde_harl.codec.tables import Tables, largest_bytes, to_bytes
from sde_harl.decisions import DecisionLog, Decisions, Slot
from sde_harl.errors import UserError
from sde_harl.executor import Welcome
from sde_harl.link.faults import Fault
from sde_harl.link.transport import Fan, Transport
from sde_harl.link.wire import OVERHEAD, Kind, Message, Resources, WireError, parse_json, unpack_meter
from sde_harl.meters.timing import now_ns
from sde_harl.policy.local import LocalShape, parameter_shapes

log = logging.getLogger(__name__)

SENSOR, FEATURES, ACTIONS = Kind.SENSOR, Kind.FEATURES, Kind.ACTIONS  # at hand: an Enum looks them up in Python


Targets = tuple[Fan, dict[int, list[tuple[int, np.ndarray]]]]
"""Frames to all executors, and where in each the agents' (E, O_i) observations or (E, D) actions go."""
Fans = dict[tuple[int, int], Targets]
"""By slot and rows: a frame is written again only when the slot's last one has left."""


class Plan(NamedTuple):
    """What every executor is told alike."""

    shape: LocalShape
    """Of all N agents."""
    codec: str
    pack: int
    rows: int
    """Most environments in one message."""
    slots: int
    assign: dict[int, int]
    """Agent -> executor rank, where pinned by hand."""
    patience_s: float
    action_size: int = 1
    """D, numbers of an action."""
    continuous: bool = False
    """Actions are float32, else int32."""


class Hello(NamedTuple):
    """What an executor said of itself."""

    host: str
    arch: str
    python: str
    numpy: str
    package: str
    cores: int
    pid: int


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
        self._sensor_fans: Fans = {}
        self._action_fans: Fans = {}
        self.rank_of = np.zeros(self._agents, np.int32)
        for rank, agents in self._executors.items():
            self.rank_of[list(agents)] = rank
        plain = PLAIN.get(plan.codec)  # entropy coders come with their tables
        self._codecs: list[Codec] = [plain(size) for size in self._latent_sizes] if plain else []
        self._slots = [Slot(self._agents, plan.rows, plan.shape.latent_max()) for _ in range(plan.slots)]
        self._reports: dict[int, Report] = {}
        self._log = DecisionLog(self._agents)
        self.version = 0
        self.hosts: dict[int, Hello] = {}

    def handshake(self) -> None:
        """Meet every executor and tell it what to be. Raises UserError where one is missing or of another version."""
        self._wait(lambda: len(self.hosts) == len(self._executors), lambda: "did not say hello", self._missing_hello)
        self._transport.run_id = secrets.randbits(32)
        down = max(self._largest_down(agents) for agents in self._executors.values())
        for rank, agents in self._executors.items():
            plan = self._plan
            what = (agents, self._shape_of(agents), plan.codec, plan.pack, down)
            self._transport.send(rank, Kind.WELCOME, Welcome(self._transport.run_id, *what).to_json())
        self._transport.set_frame_bytes(receive=self._largest_up(), send=down)

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
        rows = obs.shape[1]
        self._slots[slot].begin(step, rows)
        fan, targets = self._sensor_fans.get((slot, rows)) or self._sensor_fan(slot, rows)

        def write(rank: int) -> None:
            for agent, target in targets[rank]:
                target[:] = obs[agent, :, : target.shape[1]]

        self._transport.send_fan(fan, write, SENSOR, step, slot, rows, self.version)

    def latents(self, slot: int) -> np.ndarray:
        """Decoded latents (N, E, Z) of what was sensed, once all agents' have come; valid until the next sense."""
        state = self._slots[slot]
        self._wait(
            lambda: not state.missing,
            lambda: f"sent no latents for step {state.step}",
            lambda: state.missing_ranks(self.rank_of),
        )
        return state.latents[:, : state.rows]

    def act(self, slot: int, actions: np.ndarray, policy_ns: int) -> None:
        """Answer with actions (N, E, D); `policy_ns` is what deciding them took."""
        state = self._slots[slot]
        fan, targets = self._action_fans.get((slot, state.rows)) or self._action_fan(slot, state.rows)

        def write(rank: int) -> None:
            for agent, target in targets[rank]:
                target[:] = actions[agent]

        self._transport.send_fan(fan, write, ACTIONS, state.step, slot, state.rows, self.version)
        self._log.add(state, self.version, policy_ns)

    def report(self) -> tuple[Decisions, dict[int, Resources]]:
        """Everything since the last report: decisions (K, N) and each executor's resources."""
        self._reports.clear()
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

    def _sensor_fan(self, slot: int, rows: int) -> Targets:
        made = self._sensor_fans[slot, rows] = self._make_fan(rows, self._plan.shape.obs_sizes, np.dtype("<f4"))
        return made

    def _action_fan(self, slot: int, rows: int) -> Targets:
        dtype = np.dtype("<f4" if self._plan.continuous else "<i4")
        made = self._action_fans[slot, rows] = self._make_fan(rows, (self._plan.action_size,) * self._agents, dtype)
        return made

    def _make_fan(self, rows: int, widths: tuple[int, ...], dtype: np.dtype) -> Targets:
        """Frames for (E, width) four-byte numbers of each agent."""
        sizes = {rank: 4 * rows * sum(widths[agent] for agent in agents) for rank, agents in self._executors.items()}
        fan = self._transport.fan(sizes)
        targets: dict[int, list[tuple[int, np.ndarray]]] = {rank: [] for rank in self._executors}
        for rank, agents in self._executors.items():
            at, payload = 0, fan.frames[rank].payload
            for agent in agents:
                targets[rank].append((agent, np.ndarray((rows, widths[agent]), dtype, payload, at)))
                at += 4 * rows * widths[agent]
        return fan, targets

    def _largest_up(self) -> int:
        """The largest frame an executor may send: symbols that all need the escape code stay under 16 bytes each."""
        return OVERHEAD + max(1 << 16, self._plan.rows * (16 * self._plan.shape.latent_max() + 64))

    def _largest_down(self, agents: tuple[int, ...]) -> int:
        """The largest frame that an executor of `agents` gets: observations, weights, tables, actions or a reason."""
        plan, shape = self._plan, self._shape_of(agents)
        observations = plan.rows * sum(shape.obs_sizes)
        weights = sum(prod(each) for each in parameter_shapes(shape))
        actions = plan.rows * len(agents) * plan.action_size
        return OVERHEAD + max(1 << 16, largest_bytes(shape.latent_max()), 4 * max(observations, weights, actions))

    def _shape_of(self, agents: tuple[int, ...]) -> LocalShape:
        return self._plan.shape._replace(obs_sizes=tuple(self._plan.shape.obs_sizes[agent] for agent in agents))

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

    def _receive(self, message: Message) -> None:
        """Act on one frame of an executor; whatever is not right about it is counted and dropped."""
        kind = message.header.kind
        try:
            if kind is FEATURES:
                self._features(message)
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
        source, (_, agent, _, step, slot, rows, version), payload = message
        if slot >= len(self._slots) or agent not in self._executors[source]:
            raise WireError("agent")
        state = self._slots[slot]
        if version != self.version:
            raise WireError("version")
        if step != state.step or rows != state.rows or agent not in state.missing:
            raise WireError("step")
        started = now_ns()
        bits = self._codecs[agent].decode(payload, state.latents[agent, :rows, : self._latent_sizes[agent]])
        state.arrived(agent, len(payload), bits, now_ns() - started)

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
