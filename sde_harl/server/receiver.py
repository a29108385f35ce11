"""What executors send: every field is checked before anything is done; what is not right is counted and dropped.

N agents, n of one executor, E environments of one slot, Z latent, A choices, D numbers of an action, H memory.
"""

from __future__ import annotations

import logging
import math
from collections.abc import Mapping
from math import prod
from typing import NamedTuple

import numpy as np

from sde_harl import __version__
from sde_harl.codec.plain import UNKNOWN_BITS
from sde_harl.codec.registry import Codec
from sde_harl.errors import UserError
from sde_harl.link.transport import Transport
from sde_harl.link.wire import Kind, Message, Resources, WireError, parse_json, unpack_meter
from sde_harl.meters.timing import now_ns
from sde_harl.server.decision_log import DeviceActions, Slot
from sde_harl.server.membership import REPORT, Membership, Question
from sde_harl.server.sender import SessionPlan

log = logging.getLogger(__name__)

# at hand: an Enum looks them up in Python
LATENTS, DEVICE_ACTIONS = Kind.LATENTS, Kind.DEVICE_ACTIONS
FLOAT_BYTES = 4
"""Of a number of an action (int32 or float32), a log-probability or a memory."""
LONGEST_WORD = 256
"""Characters of anything that a HELLO tells."""
LONGEST_REASON = 1024
"""Bytes that are shown of a BYE."""


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


class Receiver:
    """Takes what executors send into slots, reports and hosts."""

    def __init__(
        self,
        transport: Transport,
        plan: SessionPlan,
        executors: Mapping[int, tuple[int, ...]],
        slots: list[Slot],
        membership: Membership,
    ) -> None:
        """`executors`: agents by rank."""
        self._transport, self._plan, self._executors = transport, plan, executors
        self._slots, self._membership = slots, membership
        self._latent_sizes = plan.shape.latent_sizes()
        self._rows_of = {rank: np.array(agents) for rank, agents in executors.items()}
        branches = plan.whole.branches if plan.whole else ()
        self._branches, self._branches_at = (
            np.array(branches, np.uint32),
            np.cumsum((0, *branches))[:-1],
        )
        """(D,) choices in each branch, and where they begin among the A."""
        self.codecs: list[Codec] = []
        """Each agent's, of version `version`."""
        self.version = 0
        self.report_number = 0
        """Of the reports that are waited for."""
        self.reports: dict[int, Report] = {}
        self.hosts: dict[int, Hello] = {}
        self.returned: list[int] = []
        """Ranks that were absent and have answered all they owed; the reader's to empty."""
        self.parted: dict[int, str] = {}
        """Ranks that have said they can't go on, and why; the reader's to empty."""

    def receive(self, message: Message) -> None:
        """Act on one frame of an executor. Raises UserError where it has another version of the package."""
        kind = message.header.kind
        try:
            if kind is LATENTS:
                self._features(message)
            elif kind is DEVICE_ACTIONS:
                self._chosen(message)
            elif kind is Kind.METER:
                self._meter(message)
            elif kind is Kind.HELLO:
                self._hello(message)
            elif kind is Kind.BYE:
                self._part(message)
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
        state, agent, payload, late = self._answer(message)
        if state.choices:
            raise WireError("kind")
        if late:
            self._refresh(state, agent, message)
            return
        started = now_ns()
        bits = self.codecs[agent].decode(
            payload, state.latents[agent, : state.rows, : self._latent_sizes[agent]]
        )
        state.arrived(agent, len(payload), bits, now_ns() - started)
        if message.source in self._membership.debtors:
            self._settle(message)

    def _refresh(self, state: Slot, agent: int, message: Message) -> None:
        """Late latents are still the last ones of their agent, if it has none younger and they can be decoded."""
        header, payload, number = message.header, message.payload, None
        if (
            header.version == self.version
            and header.environments == state.rows
            and header.step > state.came[agent]
        ):
            self.codecs[agent].decode(
                payload, state.latents[agent, : state.rows, : self._latent_sizes[agent]]
            )
            number = header.step
        state.arrived_late(agent, len(payload), number)
        self._settle(message)

    def _chosen(self, message: Message) -> None:
        """An executor's answer for all its agents, of which the header names the first: all of it is right, or none."""
        state, first, payload, late = self._answer(message)
        agents = self._executors[message.source]
        share, rest = divmod(len(payload), len(agents))
        if not state.choices:
            raise WireError("kind")
        if first != agents[0]:
            raise WireError("agent")
        if rest:
            raise WireError("length")
        if late:  # what they did then, nobody has played
            for agent in agents:
                state.arrived_late(agent, share, None)
            self._settle(message)
            return
        started = now_ns()
        self._take(state.choices, self._rows_of[message.source], payload)
        taken_ns = now_ns() - started
        for agent in agents:
            state.arrived(agent, share, UNKNOWN_BITS, taken_ns)
        if message.source in self._membership.debtors:
            self._settle(message)

    def _take(self, choices: DeviceActions, agents: np.ndarray, payload: memoryview) -> None:
        """What `agents` (n,) did: actions (n, E, D), log-probabilities (n, E, D), memory (n, E, H)."""
        shape, remembered = (
            (len(agents), *each.shape[1:]) for each in (choices.actions, choices.memory)
        )
        size = FLOAT_BYTES * prod(shape)
        if len(payload) != 2 * size + FLOAT_BYTES * prod(remembered):
            raise WireError("length")
        actions: np.ndarray = np.ndarray(shape, choices.actions.dtype, payload)
        log_probs: np.ndarray = np.ndarray(shape, np.float32, payload, size)
        memory: np.ndarray = np.ndarray(remembered, np.float32, payload, 2 * size)
        if not (
            self._allowed(agents, actions, choices.available) and math.isfinite(log_probs.sum())
        ):
            raise WireError("action")
        if memory.size:
            if not (np.abs(memory) < 1.001).all():  # a GRU's lies between an earlier one and a tanh
                raise WireError("memory")
            choices.memory[agents] = memory
        choices.actions[agents], choices.log_probs[agents] = actions, log_probs

    def _allowed(self, agents: np.ndarray, actions: np.ndarray, available: np.ndarray) -> bool:
        """Whether actions (n, E, D) of the agents are finite, or available (N, E, A) choices in their branches."""
        if self._plan.continuous:
            return bool(np.isfinite(actions).all())
        if not (actions.view(np.uint32) < self._branches).all():  # unsigned, so that -1 is huge
            return False
        environments = np.arange(actions.shape[1])[:, None]
        return bool(
            available[agents[:, None, None], environments, actions + self._branches_at].all()
        )

    def _answer(self, message: Message) -> tuple[Slot, int, memoryview, bool]:
        """Slot, agent and payload of an answer, and whether the slot has gone on without it.

        Raises WireError where nobody asked, and where what is waited for is of another version.
        """
        source, (_, agent, _, number, slot, rows, version), payload = message
        if slot >= len(self._slots):
            raise WireError("agent")
        state = self._slots[slot]
        if number == state.number and agent in state.missing:
            if agent not in self._executors[source]:
                raise WireError("agent")
            if version != self.version:
                raise WireError("version")
            if rows != state.rows:
                raise WireError("step")
            return state, agent, payload, False
        if not self._membership.is_owed(source, Question(slot, number, agent)):
            raise WireError("agent" if agent not in self._executors[source] else "step")
        return state, agent, payload, True

    def _settle(self, message: Message) -> None:
        """An answer was right: what it shows of questions that were not answered."""
        header = message.header
        self._heard(message.source, Question(header.slot, header.step, header.agent))

    def _heard(self, rank: int, question: Question) -> None:
        if self._membership.heard(rank, question):
            self.returned.append(rank)

    def _meter(self, message: Message) -> None:
        source, number = message.source, message.header.step
        late = self._membership.is_owed(source, Question(REPORT, number, 0))
        if not late and number != self.report_number:
            raise WireError("step")
        resources, timings = unpack_meter(message.payload)
        agents = max(len(self._executors[source]), 1)
        if len(timings) % agents:
            raise WireError("meter")
        if not late:
            self.reports[source] = Report(resources, timings.reshape(-1, agents, 3))
        self._heard(source, Question(REPORT, number, 0))

    def _part(self, message: Message) -> None:
        reason = bytes(message.payload[:LONGEST_REASON]).decode("utf-8", "replace")
        self.parted[message.source] = reason if reason.isprintable() else ascii(reason)

    def _hello(self, message: Message) -> None:
        fields = parse_json(message.payload)
        numbers = ("cores", "pid")
        if message.source in self.hosts or set(fields) != set(Hello._fields):
            raise WireError("hello")
        for key, value in fields.items():
            if type(value) is not (int if key in numbers else str):
                raise WireError("hello")
            if isinstance(value, str) and not (
                value.isprintable() and len(value) <= LONGEST_WORD
            ):  # it is printed
                raise WireError("hello")
        hello = Hello(**fields)
        if hello.package != __version__:
            theirs = f"executor {message.source} ({hello.host}) has sde_harl {hello.package}"
            raise UserError(f"{theirs}, the server {__version__}")
        self.hosts[message.source] = hello
