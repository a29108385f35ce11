"""All executors of a run, seen from rank 0: ask them, wait for their answers until the deadline, answer back.

    handshake -> publish -> (sense -> latents -> act, or decide, for each slot in turn) -> report -> publish ...

Knows frames and codecs, not learning. N agents, E environments of one slot, Z latent, D numbers of an action.
"""

from __future__ import annotations

import secrets
from typing import Any

import numpy as np

from sde_harl.codec.coder import EntropyCoder
from sde_harl.codec.registry import PLAIN
from sde_harl.codec.tables import Tables
from sde_harl.config.schema import LinkProfile
from sde_harl.link.faults import Fault
from sde_harl.link.transport import Traffic, Transport
from sde_harl.meters.timing import now_ns
from sde_harl.protocol.actions import DeviceActions, ReceivedLatents
from sde_harl.protocol.hello import Hello
from sde_harl.protocol.requests import ActRequest
from sde_harl.protocol.session import SessionSpec
from sde_harl.server.answer_waiter import AnswerWaiter
from sde_harl.server.assignment import assign_agents
from sde_harl.server.decision_log import DecisionLog
from sde_harl.server.fallback_actions import FallbackActions
from sde_harl.server.frame_sizes import answer_overhead, largest_received, largest_sent
from sde_harl.server.link_emulator import EmulatedLink, emulated_links
from sde_harl.server.membership import Membership
from sde_harl.server.publisher import Model, Publisher
from sde_harl.server.questioner import Questioner
from sde_harl.server.receiver import Receiver
from sde_harl.server.report_collector import ReportCollector
from sde_harl.server.reports import PoolReport, Reports
from sde_harl.server.sender import Sender
from sde_harl.server.settings import PoolSettings
from sde_harl.server.slot import make_slots

NO_OLD_ACTIONS = -1
"""The largest age of actions that stand for missing ones; no age is as small, so none do."""


class ExecutorPool:
    """All executors of a run."""

    def __init__(self, transport: Transport, session: SessionSpec, settings: PoolSettings) -> None:
        """`session` describes all agents of the run (`SessionSpec.from_config`)."""
        self._transport = transport
        self._session = session
        self._settings = settings
        self._agents = len(session.shape.obs_sizes)
        self._executors = assign_agents(self._agents, transport.size - 1, settings.assign)
        self.rank_of = np.zeros(self._agents, np.int32)
        """(N,) executor of each agent."""
        for rank, agents in self._executors.items():
            self.rank_of[list(agents)] = rank
        self.on_device = session.on_device is not None
        """True where policies run on the devices from end to end: then `decide`, else `sense`, `latents`, `act`."""
        self.overhead = answer_overhead(self._executors, as_one=self.on_device)
        """(N,) bytes of an agent's answer beside its payload: a frame's, or its share where one answers for several."""
        self._slots = make_slots(session, settings, self._executors)
        self._links: list[EmulatedLink] = []
        if settings.profile != LinkProfile():
            self._links = emulated_links(session, settings)
        self._fallback: FallbackActions | None = None
        if session.fallback_head:
            self._fallback = FallbackActions(
                session, session.fallback_head, settings=settings, rank_of=self.rank_of
            )
        self._log = DecisionLog(self._agents)
        self._connect()

    def _connect(self) -> None:
        """Makes the parts that talk to the executors."""
        transport = self._transport
        settings = self._settings
        executors = self._executors
        membership = Membership(
            executors,
            absent=transport.absent,
            failure_timeout_ns=int(settings.failure_timeout_s * 1e9),
        )
        reports = Reports()
        self._sender = Sender(transport, self._session, settings=settings, executors=executors)
        self._receiver = Receiver(
            transport,
            self._session,
            executors=executors,
            slots=self._slots,
            membership=membership,
            reports=reports,
        )
        plain = PLAIN.get(self._session.codec)
        if plain:  # entropy coders come with their tables, see `publish`
            self._receiver.codecs = [plain(size) for size in self._session.shape.latent_sizes()]
        self._publisher = Publisher(transport, self._session, executors)
        self._waiter = AnswerWaiter(
            transport,
            settings,
            membership=membership,
            receiver=self._receiver,
            publisher=self._publisher,
            slots=self._slots,
        )
        self._questioner = Questioner(
            transport, settings, executors=executors, sender=self._sender, waiter=self._waiter
        )
        self._collector = ReportCollector(
            transport, settings, executors=executors, reports=reports, waiter=self._waiter
        )

    @property
    def version(self) -> int:
        """Version of the published model."""
        return self._receiver.version

    @property
    def hosts(self) -> dict[int, Hello]:
        """What executors have said of themselves, by rank."""
        return self._receiver.hosts

    @property
    def absent(self) -> list[int]:
        """Ranks that don't answer."""
        return sorted(self._transport.absent)

    # ---- once, and at every new model

    def handshake(self) -> None:
        """Meets every executor and tells it what to be. Raises UserError where one is missing or of another version."""
        deadline_ns = now_ns() + int(self._settings.failure_timeout_s * 1e9)
        if not self._waiter.wait(lambda: len(self.hosts) == len(self._executors), deadline_ns):
            missing = set(self._executors) - set(self.hosts)
            self._transport.absent |= missing
            raise self._waiter.give_up(min(missing), "did not say hello")
        # Frames of another run that still hang about in the network are refused by this number.
        self._transport.run_id = secrets.randbits(32)
        self._publisher.welcome(self._transport.run_id, self._largest_sent())
        self._make_room()

    def publish(self, version: int, weights: list[list[np.ndarray]], tables: list[Tables]) -> None:
        """Sends every executor its agents' local nets and tables; `tables` is empty for plain codecs.

        `weights[agent]`: that agent's arrays in wire order (policy/shapes.py). An executor that is absent gets them
        when it is back.
        """
        self._receiver.version = version
        if tables:
            self._receiver.codecs = [EntropyCoder(each, self._session.pack) for each in tables]
        self._publisher.publish(Model(version=version, weights=weights, tables=tables))
        if self._fallback:
            self._fallback.load(self._publisher.flat_weights(range(self._agents)))

    # ---- a decision of one slot

    def forget(self, slot: int, environments: np.ndarray | None = None) -> None:
        """Begins episodes with a slot's next decision, in some environments (indices) or in all."""
        self._slots[slot].forget(environments)

    def sense(self, slot: int, step: int, obs: np.ndarray) -> None:
        """Hands observations (N, E, O) to the executors, in place of the devices' own sensors."""
        self._questioner.ask(self._slots[slot], obs, step=step, version=self.version, request=None)

    def latents(self, slot: int) -> ReceivedLatents:
        """Waits for a slot's latents until the deadline; older ones stand for the missing, as far as they may.

        They are valid until the slot's next `sense`. Raises UserError where an executor is lost and the run may not
        go on without it.
        """
        state = self._slots[slot]
        max_age = self._settings.max_age
        ages = self._questioner.await_answers(state, "sent no latents", max_age)
        latents = ReceivedLatents(values=state.latents[:, : state.rows], ages=ages)
        if self._links:
            latents = self._links[slot].pass_on(latents, state.number, state.began)
        if latents.ages is None:
            return latents
        fallback = None
        if self._fallback:
            fallback = self._fallback.mask(latents.ages, self.absent)
        state.count_ages(latents.ages, fallback)
        return latents._replace(fallback=fallback)

    def fallback_actions(self, obs: np.ndarray, available: np.ndarray) -> np.ndarray:
        """Returns the actions (N, E, D) of all fallback heads on observations (N, E, O), by the devices' weights.

        available (N, E, A) bool. Agents with actuators of their own get the order to act by their heads.
        """
        assert self._fallback
        return self._fallback.act(obs, available)

    def act(self, slot: int, actions: np.ndarray, *, policy_ns: int) -> None:
        """Answers with actions (N, E, D); `policy_ns` is the time that deciding them took."""
        state = self._slots[slot]
        self._sender.act(state, actions, version=self.version)
        self._log.add(state, self.version, policy_ns)

    def decide(
        self, slot: int, step: int, obs: np.ndarray, *, request: ActRequest
    ) -> DeviceActions:
        """Has policies on devices act on observations (N, E, O); `request` is to all N agents.

        Where no answer has come by the deadline, nobody knows what the agent did: its actions are 0, their age is
        NO_LATENT. Raises UserError as `latents`.
        """
        state = self._slots[slot]
        memory = 0
        if request.send_memory and self._session.on_device:
            memory = self._session.on_device.memory
        state.device_actions = DeviceActions.empty(
            request.available,
            self._settings.action_size,
            dtype=self._settings.action_dtype,
            memory=memory,
        )
        self._questioner.ask(state, obs, step=step, version=self.version, request=request)
        ages = self._questioner.await_answers(state, "sent no actions", NO_OLD_ACTIONS)
        if ages is not None:
            state.count_ages(ages)
        self._log.add(state, self.version, 0)
        return state.device_actions._replace(ages=ages)

    # ---- what it has cost

    def report(self) -> PoolReport:
        """Asks every executor for a report; returns everything since the last one."""
        # A report grows with the number of decisions that it is on.
        self._make_room()
        return self._collector.collect(self._log)

    def traffic(self) -> Traffic:
        """Returns what this rank has sent and received."""
        return self._transport.traffic()

    def faults(self) -> list[Fault]:
        """Returns the messages refused, and the executors that left or came back, since the last call."""
        return self._transport.faults.drain()

    def _largest_sent(self) -> int:
        return largest_sent(self._session, self._settings, self._executors)

    def _make_room(self) -> None:
        """Takes frames as large as an executor may send by now: a report grows with the decisions that it is on."""
        largest = largest_received(
            self._session,
            self._settings,
            most_agents=max(map(len, self._executors.values())),
            decisions=len(self._log),
        )
        self._transport.set_frame_bytes(receive=largest, send=self._largest_sent())

    # ---- a resumed run

    def state_dict(self) -> dict[str, Any]:
        """Returns what decides how the run goes on: the model's version, the slots' last latents, emulated links."""
        return {
            "version": self.version,
            "slots": [slot.state_dict() for slot in self._slots],
            "links": [link.state_dict() for link in self._links],
        }

    def load_state_dict(self, state: dict[str, Any]) -> None:
        """Goes on from a state; call it before the first `publish`. Raises ValueError where its sizes are others."""
        for name, parts in (("slots", self._slots), ("links", self._links)):
            if len(state[name]) != len(parts):
                raise ValueError(f"{len(state[name])} {name}, expected {len(parts)}")
        for slot, slot_state in zip(self._slots, state["slots"]):
            slot.load_state_dict(slot_state)
        for link, link_state in zip(self._links, state["links"]):
            link.load_state_dict(link_state)
        self._receiver.version = int(state["version"])
