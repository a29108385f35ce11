"""All executors of a run, seen from rank 0.

    handshake -> publish -> one decision of each slot in turn -> report -> publish -> ...

A decision is `sense`, `latents`, `act` where policies are split, and `decide` where they run on the
devices. Between `sense` and `latents` of one slot the others go on, so that devices code one slot's
latents while another's environments step.

Knows frames and codecs, not learning. N agents, E environments of one slot, Z latent, D numbers of
an action.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Any

import numpy as np
from numpy.typing import NDArray

from sde_harl.codec.coder import EntropyCoder
from sde_harl.codec.tables import Tables
from sde_harl.link.faults import Fault
from sde_harl.link.transport import Traffic, Transport
from sde_harl.link.wire import Message
from sde_harl.policy.inference.acting import ActingPolicy
from sde_harl.protocol.actions import DeviceActions, ReceivedLatents
from sde_harl.protocol.hello import Hello
from sde_harl.protocol.requests import ActRequest
from sde_harl.protocol.session import SessionSpec
from sde_harl.server.assignment import assign_agents
from sde_harl.server.decision_log import DecisionLog
from sde_harl.server.fallback_actions import FallbackActions
from sde_harl.server.frame_sizes import answer_overhead, largest_received, largest_sent
from sde_harl.server.link_emulator import EmulatedLink, emulated_links
from sde_harl.server.pool_parts import connect, meet
from sde_harl.server.publisher import Model
from sde_harl.server.reports import PoolReport
from sde_harl.server.settings import PoolSettings
from sde_harl.server.slot import Slot, make_slots

NO_OLD_ACTIONS = -1
"""Age limit of actions: below every age, so no earlier actions replace missing ones."""


class ExecutorPool:
    """All executors of a run."""

    def __init__(self, transport: Transport, session: SessionSpec, settings: PoolSettings) -> None:
        """`session` describes all agents of the run (`SessionSpec.from_config`)."""
        self._transport = transport
        self._session = session
        self._settings = settings
        self._agents = len(session.shape.obs_sizes)
        self._executors = assign_agents(
            self._agents,
            len(transport.executors),
            settings.assign,
            learners=1 + len(transport.learners),
        )
        self.on_device = session.on_device is not None
        """True where policies run on the devices from end to end: then `decide`, else `sense`,
        `latents`, `act`."""
        # The shares that frames must have room for.
        self._largest_shares = self._executors
        if settings.redeals:
            # The last executor may have to hold all agents.
            self._largest_shares = {0: session.agents}
        self._max_sent = largest_sent(session, settings, self._largest_shares)
        self._slots = make_slots(session, settings, self._executors)
        # Emulated links come behind the real ones: they can only make latents later.
        self._links = emulated_links(session, settings)
        self._fallback: FallbackActions | None = None
        if session.fallback_head:
            self._fallback = FallbackActions(
                session,
                session.fallback_head,
                settings=settings,
                executors=self._executors,
            )
        self._log = DecisionLog(self._executors)
        self._parts = connect(
            transport,
            session,
            settings=settings,
            executors=self._executors,
            slots=self._slots,
        )

    @property
    def overhead(self) -> NDArray[np.int64]:
        """(N,) bytes of an agent's answer beside its payload: a frame's, or its share where one
        answers for several."""
        return answer_overhead(self._executors, as_one=self.on_device)

    @property
    def version(self) -> int:
        """Version of the published model."""
        return self._parts.receiver.version

    @property
    def hosts(self) -> dict[int, Hello]:
        """The executors' hosts, by rank."""
        return self._parts.receiver.hosts

    @property
    def absent(self) -> list[int]:
        """Ranks that don't answer."""
        return sorted(self._transport.absent)

    # ---- once, and at every new model

    def handshake(self) -> None:
        """Meets every executor and sends it its session.

        Raises UserError where one is missing or of another version.
        """
        meet(self._transport, self._parts, self._settings, max_sent=self._max_sent)
        self._make_room()

    def publish(
        self,
        version: int,
        weights: list[list[NDArray[np.float32]]],
        tables: list[Tables],
        acting: ActingPolicy | None = None,
    ) -> None:
        """Sends every executor its agents' local nets and coding tables (none for plain codecs).

        `weights[agent]`: that agent's arrays in wire order (policy/shapes.py). `acting`: rank 0's
        part, for executors that act for it. An executor that is absent gets them when it is back.
        """
        receiver = self._parts.receiver
        # First: from here on, answers that were made with an earlier version are refused.
        receiver.version = version
        if tables:
            receiver.codecs = [EntropyCoder(each, self._session.pack) for each in tables]
        publisher = self._parts.publisher
        publisher.publish(Model(version=version, weights=weights, tables=tables))
        if self._fallback:
            # Rank 0 acts for the devices by what they have, not by what is learnt meanwhile.
            self._fallback.load(publisher.flat_weights(range(self._agents)))

    # ---- a decision of one slot

    def forget(self, slot: int, environments: NDArray[np.integer[Any]] | None = None) -> None:
        """Begins episodes with a slot's next decision, in some environments (indices) or in all."""
        self._slots[slot].forget(environments)

    def sense(self, slot: int, step: int, obs: NDArray[Any]) -> None:
        """Hands observations (N, E, O) to the executors, in place of the devices' own sensors."""
        state = self._slots[slot]
        self._parts.questioner.ask(state, obs, step=step, version=self.version, request=None)

    def latents(self, slot: int) -> ReceivedLatents:
        """Waits for a slot's latents until the deadline; older ones may replace missing ones.

        They are valid until the slot's next `sense`. Raises UserError where an executor is lost and
        the run may not go on without it.
        """
        state = self._slots[slot]
        max_age = self._settings.max_age
        ages = self._parts.questioner.await_answers(state, "sent no latents", max_age)
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

    def fallback_actions(self, obs: NDArray[Any], available: NDArray[np.bool_]) -> NDArray[Any]:
        """Returns the actions (N, E, D) of all fallback heads on observations (N, E, O).

        available (N, E, A) bool. Agents with actuators of their own get the order to act by their
        heads.
        """
        assert self._fallback
        return self._fallback.act(obs, available)

    def act(self, slot: int, actions: NDArray[Any], *, policy_ns: int) -> None:
        """Answers with actions (N, E, D); `policy_ns` is the time that deciding them took."""
        state = self._slots[slot]
        self._parts.sender.act(state, actions, version=self.version)
        self._log.add(state, self.version, policy_ns)

    def decide(
        self, slot: int, step: int, obs: NDArray[Any], *, request: ActRequest
    ) -> DeviceActions:
        """Has policies on devices act on observations (N, E, O); `request` is to all N agents.

        Where no answer has come by the deadline, what the agent did is unknown: its actions are 0,
        their age is NO_LATENT. Raises UserError as `latents`.
        """
        state = self._slots[slot]
        self._parts.questioner.ask(state, obs, step=step, version=self.version, request=request)
        ages = self._parts.questioner.await_answers(state, "sent no actions", NO_OLD_ACTIONS)
        if ages is not None:
            state.count_ages(ages)
        # Rank 0 computes no policy here, so that takes no time.
        self._log.add(state, self.version, 0)
        assert state.device_actions
        return state.device_actions._replace(ages=ages)

    # ---- what it has cost

    def report(self) -> PoolReport:
        """Asks every executor for a report; returns everything since the last one."""
        # A report grows with the number of decisions that it is on.
        self._make_room()
        return self._parts.collector.collect(self._log)

    def traffic(self) -> Traffic:
        """Returns what this rank has sent and received."""
        return self._transport.traffic()

    def faults(self) -> list[Fault]:
        """Returns refused messages, and executors that left or came back, since the last call."""
        return self._transport.faults.drain()

    def note(self, kind: str, line: str) -> None:
        """Notes a fault of this rank's own: a short slug, and a sentence for the log."""
        self._transport.faults.note(0, kind, line)

    def _make_room(self) -> None:
        """Makes room for frames as large as an executor may send by now."""
        largest = largest_received(
            self._session, self._settings, self._largest_shares, decisions=len(self._log)
        )
        self._transport.set_frame_bytes(receive=largest, send=self._max_sent)

    def hear(self, elsewhere: Callable[[Message], None]) -> Callable[[Message], None]:
        """Has `elsewhere` take the messages of ranks that are no executors.

        Returns what takes those of executors, where another than this pool has polled them.
        """
        self._parts.receiver.elsewhere = elsewhere
        return self._parts.receiver.receive

    # ---- a resumed run

    def state_dict(self) -> dict[str, Any]:
        """Returns what decides how the run goes on.

        That is the model's version, the slots' last latents and the emulated links.
        """
        return {
            "version": self.version,
            "slots": [slot.state_dict() for slot in self._slots],
            "links": [link.state_dict() for link in self._links],
        }

    def load_state_dict(self, state: dict[str, Any]) -> None:
        """Goes on from a state. Call it before the first `publish`.

        Raises ValueError where its sizes are not those of this run.
        """
        _load_each("slots", self._slots, state["slots"])
        _load_each("emulated links", self._links, state["links"])
        self._parts.receiver.version = int(state["version"])


def _load_each(
    name: str, parts: Sequence[Slot | EmulatedLink], states: Sequence[dict[str, Any]]
) -> None:
    """Loads the state of each part. Raises ValueError where there are more or fewer states."""
    if len(states) != len(parts):
        raise ValueError(f"{len(states)} {name}, expected {len(parts)}")
    for part, state in zip(parts, states):
        part.load_state_dict(state)
