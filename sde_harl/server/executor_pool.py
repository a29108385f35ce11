"""Rank 0's side of the wire: what the executors are told, and how long their answers are waited for.

Knows frames and codecs, not learning. N agents, E environments of one slot, Z latent.
"""

from __future__ import annotations

import logging
import secrets
from collections.abc import Callable, Iterable, Sequence
from typing import NamedTuple

import numpy as np

from sde_harl.codec.coder import EntropyCoder
from sde_harl.codec.registry import PLAIN
from sde_harl.codec.tables import Tables, to_bytes
from sde_harl.config.schema import LinkProfile
from sde_harl.errors import UserError
from sde_harl.link.faults import FLOOD, Fault
from sde_harl.link.transport import Traffic, Transport
from sde_harl.link.wire import METER_BYTES, OVERHEAD, TIMING_BYTES, Kind, Resources, pack_tables
from sde_harl.meters.timing import now_ns
from sde_harl.policy.inference.fallback_head import FallbackPolicy, fallback_orders
from sde_harl.policy.inference.on_device import ActRequest
from sde_harl.protocol.session import SessionSpec
from sde_harl.server.decision_log import (
    NO_LATENT,
    DecisionLog,
    Decisions,
    DeviceActions,
    ReceivedLatents,
    Slot,
)
from sde_harl.server.link_emulator import EmulatedLink
from sde_harl.server.membership import REPORT, Membership, Question
from sde_harl.server.receiver import Hello, Receiver
from sde_harl.server.sender import Sender, SessionPlan

log = logging.getLogger(__name__)

POLL_S = 0.1  # MPI tells of a dead process between two waits
REPORT_S = 1.0  # with a deadline, nobody waits longer for what an executor has measured


NO_OLD_LATENTS = -1  # an age that nothing has


class Model(NamedTuple):
    """What was published last."""

    version: int
    weights: list[list[np.ndarray]]
    tables: list[Tables]


class Choice(NamedTuple):
    """What whole policies did."""

    choices: DeviceActions
    ages: np.ndarray | None
    """(N, E), as in `ReceivedLatents`: NONE where it is unknown."""


def deal(agents: int, executors: int, assign: dict[int, int]) -> list[tuple[int, ...]]:
    """Agents of each executor (index 0 is rank 1): pinned ones first, the others to whoever has fewest."""
    if executors > agents:
        most = f"use -np {agents + 1} or less"
        raise UserError(
            f"-np {executors + 1}: {agents} agents keep at most {agents} executors busy; {most}"
        )
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
        raise UserError(
            f"placement.assign: no agent is left for rank {idle[0]} of -np {executors + 1}"
        )
    return [tuple(sorted(hand)) for hand in hands]


class ExecutorPool:
    """All executors of a run, seen from rank 0."""

    def __init__(self, transport: Transport, plan: SessionPlan) -> None:
        self._transport, self._plan = transport, plan
        self._agents = len(plan.shape.obs_sizes)
        self._executors = dict(
            enumerate(deal(self._agents, transport.size - 1, plan.assign), start=1)
        )
        self._sender = Sender(transport, plan, self._executors)
        self.rank_of = np.zeros(self._agents, np.int32)
        for rank, agents in self._executors.items():
            self.rank_of[list(agents)] = rank
        self._slots = [
            Slot(self._agents, plan.rows, plan.shape.latent_max()) for _ in range(plan.slots)
        ]
        self._membership = Membership(
            self._executors, transport.absent, int(plan.failure_timeout_s * 1e9)
        )
        self._links = self._emulated() if plan.profile != LinkProfile() else []
        self._receiver = Receiver(transport, plan, self._executors, self._slots, self._membership)
        plain = PLAIN.get(plan.codec)  # entropy coders come with their tables
        if plain:
            self._receiver.codecs = [plain(size) for size in plan.shape.latent_sizes()]
        self._log = DecisionLog(self._agents)
        self._model = Model(0, [], [])
        self._fallback: FallbackPolicy | None = None
        self._behind: set[int] = set()  # ranks that have an older model
        self.whole = plan.whole is not None
        """Whether policies run on the devices from end to end: then `decide`, else `sense`, `latents` and `act`."""
        self.overhead = np.full(self._agents, OVERHEAD)
        """(N,) bytes beside the payload of an agent's answer: a frame's, or where it answers with others, its share."""
        for agents in self._executors.values() if self.whole else ():
            self.overhead[list(agents)] = np.diff(
                np.arange(len(agents) + 1) * OVERHEAD // len(agents)
            )

    @property
    def version(self) -> int:
        """Of the published model."""
        return self._receiver.version

    @property
    def hosts(self) -> dict[int, Hello]:
        """What executors have said of themselves, by rank."""
        return self._receiver.hosts

    @property
    def absent(self) -> list[int]:
        """Ranks that don't answer."""
        return sorted(self._transport.absent)

    def _emulated(self) -> list[EmulatedLink]:
        """A link for each slot."""
        plan = self._plan
        sizes = (self._agents, plan.rows, plan.shape.latent_max())
        return [
            EmulatedLink(
                plan.profile,
                1e3 * plan.deadline_s,
                plan.max_age,
                sizes,
                seed=plan.seed,
                first_environment=slot * plan.rows,
            )
            for slot in range(plan.slots)
        ]

    def handshake(self) -> None:
        """Meet every executor and tell it what to be. Raises UserError where one is missing or of another version."""
        deadline = now_ns() + int(self._plan.failure_timeout_s * 1e9)
        if not self._wait(lambda: len(self.hosts) == len(self._executors), deadline):
            missing = set(self._executors) - set(self.hosts)
            self._transport.absent |= missing
            raise self._gone(min(missing), "did not say hello")
        self._transport.run_id = secrets.randbits(32)
        for rank, agents in self._executors.items():
            plan = self._plan
            coded = (agents, plan.shape_of(agents), plan.codec, plan.pack)
            what = (
                *coded,
                self._sender.largest(),
                plan.whole,
                plan.idle_s,
                plan.actions_of(agents),
                plan.torch_device,
            )
            welcome = SessionSpec(self._transport.run_id, *what, plan.fallback_head)
            self._transport.send(rank, Kind.WELCOME, welcome.to_json())
        self._make_room()

    def publish(self, version: int, weights: list[list[np.ndarray]], tables: list[Tables]) -> None:
        """Send every executor its agents' local nets and tables; `tables` is empty for plain codecs.

        `weights[agent]`: that agent's arrays in wire order (policy/local.py, then whole.py or exit.py). Who is absent
        gets them when it is back. An executor gets equal tables once.
        """
        self._receiver.version = version
        self._model = Model(version, weights, tables)
        if tables:
            self._receiver.codecs = [EntropyCoder(each, self._plan.pack) for each in tables]
        if self._plan.fallback_head:
            self._fallback = FallbackPolicy(
                shape=self._plan.shape,
                fallback=self._plan.fallback_head,
                weights=self._flat(range(self._agents)),
            )
        self._behind = set(self._executors) & self._transport.absent
        for rank in set(self._executors) - self._behind:
            self._hand_over(rank)

    def _hand_over(self, rank: int) -> None:
        """The model, to one executor."""
        agents, model, send = self._executors[rank], self._model, self._transport.send
        send(rank, Kind.WEIGHTS, self._flat(agents).tobytes(), version=model.version)
        sharing: dict[bytes, list[int]] = {}
        for agent in agents if model.tables else ():
            sharing.setdefault(to_bytes(model.tables[agent]), []).append(agent)
        for coded, users in sharing.items():
            send(rank, Kind.TABLES, pack_tables(users, coded), version=model.version)

    def _flat(self, agents: Iterable[int]) -> np.ndarray:
        """The weights of some agents as they travel."""
        parts = zip(*(self._model.weights[each] for each in agents))
        flat: np.ndarray = np.concatenate([np.stack(arrays).ravel() for arrays in parts])
        return flat

    def forget(self, slot: int, environments: np.ndarray | None = None) -> None:
        """Episodes begin with a slot's next decision, in some environments (indices) or in all."""
        self._slots[slot].forget(environments)

    def sense(self, slot: int, step: int, obs: np.ndarray) -> None:
        """Hand observations (N, E, O) to the executors: the channel that stands for the devices' own sensors."""
        self._ask(slot, step, obs, None)

    def latents(self, slot: int) -> ReceivedLatents:
        """What of the sensed has come by the deadline, and what stands for the rest; valid until the next sense.

        Raises UserError where an executor is lost and the run may not go on without it.
        """
        state = self._slots[slot]
        ages = self._await_answers(state, "sent no latents", self._plan.max_age)
        latents = ReceivedLatents(state.latents[:, : state.rows], ages)
        if self._links:
            latents = self._links[slot].pass_on(latents, state.number, state.began)
        if latents.ages is None:
            return latents
        exits = self._fallback_mask(latents.ages)
        state.count(latents.ages, exits)
        return latents._replace(exits=exits)

    def fallback_actions(self, obs: np.ndarray, available: np.ndarray) -> np.ndarray:
        """Actions (N, E, D) of all exit heads on observations (N, E, O), by the weights that the devices have.

        Rank 0 stands for the devices where it plays the world. Those with actuators of their own are told `OWN`.
        """
        assert self._fallback
        if self._plan.actions:
            return fallback_orders((*obs.shape[:2], self._plan.action_size), self._plan.continuous)
        return self._fallback.act(
            self._fallback.local(np.ascontiguousarray(obs, np.float32)), available
        )

    def _fallback_mask(self, ages: np.ndarray) -> np.ndarray | None:
        """(N, E) bool, where exit heads act: not an absent executor's, of which nobody knows whether it still does."""
        if not self._fallback:
            return None
        exits: np.ndarray = (ages == NO_LATENT) & ~np.isin(self.rank_of, self.absent)[:, None]
        return exits

    def decide(self, slot: int, step: int, obs: np.ndarray, told: ActRequest) -> Choice:
        """Have whole policies act on observations (N, E, O).

        Where no answer has come by the deadline, nobody knows what the agent did.
        """
        assert self._plan.whole
        state, rows = self._slots[slot], obs.shape[1]
        shape = (self._agents, rows, self._plan.action_size)
        dtype = np.float32 if self._plan.continuous else np.int32
        memory = np.zeros(
            (self._agents, rows, self._plan.whole.memory if told.recall else 0), np.float32
        )
        choices = DeviceActions(
            told.available, np.zeros(shape, dtype), np.zeros(shape, np.float32), memory
        )
        state.choices = choices
        self._ask(slot, step, obs, told)
        ages = self._await_answers(state, "sent no choices", NO_OLD_LATENTS)
        if ages is not None:
            state.count(ages)
        self._log.add(state, self.version, 0)
        return Choice(choices, ages)

    def act(self, slot: int, actions: np.ndarray, policy_ns: int) -> None:
        """Answer with actions (N, E, D); `policy_ns` is what deciding them took."""
        state = self._slots[slot]
        self._sender.act(slot, state.number, self.version, actions)
        self._log.add(state, self.version, policy_ns)

    def report(self) -> tuple[Decisions, dict[int, Resources]]:
        """Everything since the last report: decisions (K, N) and the resources of each executor that is there."""
        receiver = self._receiver
        receiver.reports.clear()
        receiver.report_number += 1
        self._make_room()
        asked, since = set(self._executors) - self._transport.absent, now_ns()
        for rank in asked:
            self._transport.send(rank, Kind.METER, b"", step=receiver.report_number)
        wait_s = (
            max(self._plan.deadline_s, REPORT_S)
            if self._plan.deadline_s
            else self._plan.failure_timeout_s
        )
        done = lambda: len(receiver.reports) == len(asked - self._transport.absent)  # noqa: E731
        if not self._wait(done, since + int(wait_s * 1e9)):
            question = Question(REPORT, receiver.report_number, 0)
            self._missed(
                {rank: [question] for rank in asked - set(receiver.reports)},
                since,
                "did not report",
            )
        device = np.zeros((self._log.count, self._agents, 3), np.uint32)
        for rank, report in receiver.reports.items():
            rows = self._log.asked(rank)
            if (
                len(report.timings) == rows.sum()
            ):  # another count means answers that never came: times stay unknown
                device[np.ix_(np.flatnonzero(rows), np.array(self._executors[rank]))] = (
                    report.timings
                )
        return self._log.take(device), {
            rank: each.resources for rank, each in receiver.reports.items()
        }

    def traffic(self) -> Traffic:
        """What this rank has sent and received."""
        return self._transport.traffic()

    def faults(self) -> list[Fault]:
        """Messages refused, and executors that left or came back, since the last call."""
        return self._transport.faults.drain()

    def _ask(self, slot: int, step: int, obs: np.ndarray, told: ActRequest | None) -> None:
        state = self._slots[slot]
        state.begin(step, obs.shape[1])
        left_out = self._sender.sense(slot, state.number, self.version, obs, told)
        if left_out:
            self._leave_out(state, left_out)
            busy = {rank: self._questions(state, self._executors[rank]) for rank in left_out}
            busy = {rank: each for rank, each in busy.items() if rank not in self._transport.absent}
            self._missed(busy, state.asked_ns, "took no observations")

    def _await_answers(self, state: Slot, what: str, max_age: int) -> np.ndarray | None:
        """Wait for a slot's answers until the deadline; ages (N, E), or None where all have come."""
        alone = len(state.left_out) == len(
            self._executors
        )  # nobody was asked, but one may come back
        if state.missing or alone:
            done = lambda: not (state.missing or alone and len(self.absent) == len(self._executors))  # noqa: E731
            self._wait(done, state.asked_ns + int(self._plan.wait_s * 1e9))
        if not state.missing and not state.left_out:
            return None
        missing, state.missing = state.missing, set()
        late = {
            rank: [each for each in agents if each in missing]
            for rank, agents in self._executors.items()
        }
        late = {rank: agents for rank, agents in late.items() if agents}
        questions = {rank: self._questions(state, agents) for rank, agents in late.items()}
        self._missed(questions, state.asked_ns, f"{what} for step {state.step}")
        left_out = [agent for rank in state.left_out for agent in self._executors[rank]]
        return state.substitute([*missing, *left_out], max_age)

    def _questions(self, state: Slot, agents: Sequence[int]) -> list[Question]:
        """To an executor about all its agents that have not answered; whole policies answer as one, by the first."""
        slot = self._slots.index(state)
        return [
            Question(slot, state.number, agent) for agent in (agents[:1] if self.whole else agents)
        ]

    def _leave_out(self, state: Slot, ranks: Iterable[int]) -> None:
        state.leave_out([*ranks], [agent for rank in ranks for agent in self._executors[rank]])

    def _missed(self, questions: dict[int, list[Question]], since_ns: int, what: str) -> None:
        """Note what was not answered in time. Raises UserError where that ends the run."""
        now = now_ns()
        for rank, each in questions.items():
            if self._membership.missed(rank, each, now, since_ns):
                self._event(rank, "absent", f"{what}; its agents do without it until it answers")
        for rank in self._membership.impatient(now):
            if not self._plan.go_on:
                self._transport.absent.add(rank)
                raise self._gone(rank, what)

    def _event(self, rank: int, kind: str, told: str) -> None:
        self._transport.faults.note(
            rank, kind, f"executor {rank} ({self._host(rank)}): {kind}: {told}"
        )

    def _gone(self, rank: int, what: str) -> UserError:
        patience = f"link.failure_timeout_s = {self._plan.failure_timeout_s:g} s"
        return UserError(f"executor {rank} ({self._host(rank)}) {what} within {patience}")

    def _host(self, rank: int) -> str:
        return self.hosts[rank].host if rank in self.hosts else "unknown host"

    def _wait(self, done: Callable[[], bool], until_ns: int) -> bool:
        """Take in what comes until `done`; False if it isn't when the time is over, which is looked at last of all."""
        while not done():
            left = (until_ns - now_ns()) * 1e-9
            for message in self._transport.wait(min(left, POLL_S)):
                self._receiver.receive(message)
            if self._receiver.returned:
                self._take_back()
            if self._receiver.parted or not self._transport.lost <= self._membership.lost:
                self._lose()
            flood = self._transport.faults.flood
            if flood and not self._plan.go_on:
                wrong = f"{FLOOD:,} of its messages were wrong, the last: {flood.reason}"
                raise UserError(f"executor {flood.rank} ({self._host(flood.rank)}): {wrong}")
            if left <= 0:
                return done()
        return True

    def _take_back(self) -> None:
        """Executors that were absent have answered all they owed."""
        for rank in self._receiver.returned:
            self._event(rank, "back", "answers again")
            if rank in self._behind:
                self._behind.discard(rank)
                self._hand_over(rank)
        self._receiver.returned.clear()

    def _lose(self) -> None:
        """Processes have ended, as MPI tells, or executors have said that they can't go on.

        Raises UserError where the run may not go on without them.
        """
        transport, parted = self._transport, self._receiver.parted
        new = (transport.lost | parted.keys()) - self._membership.lost
        for rank in new:
            why = parted.get(rank, "its process has ended")
            if not self._plan.go_on:
                raise UserError(f"executor {rank} ({self._host(rank)}): {why}")
            self._event(rank, "lost", f"{why}; its agents do without it")
        self._membership.lost |= new
        transport.absent |= new
        transport.parted |= parted.keys()
        parted.clear()
        if len(self._membership.lost) == len(self._executors):
            raise UserError("no executor is left")
        for state in self._slots:
            if state.missing:
                self._leave_out(state, new)

    def _make_room(self) -> None:
        """Take frames as large as an executor may send by now: latents, choices, or the times since the last report.

        Symbols that all need the escape code stay under 16 bytes each.
        """
        plan, most = self._plan, max(len(agents) for agents in self._executors.values())
        memory = plan.whole.memory if plan.whole else 0
        latents, choices = 16 * plan.shape.latent_max() + 64, 8 * plan.action_size + 4 * memory
        report = METER_BYTES + TIMING_BYTES * self._log.count * most
        largest = OVERHEAD + max(1 << 16, plan.rows * latents, plan.rows * most * choices, report)
        self._transport.set_frame_bytes(receive=largest, send=self._sender.largest())
