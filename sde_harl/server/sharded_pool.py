"""All executors of a run whose environments they play themselves (placement `envs`).

Evaluations are played at rank 0, whose own executor is in the same process, as in `local`.

N agents.
"""

from __future__ import annotations

from collections.abc import Callable
from math import prod

import numpy as np
from numpy.typing import NDArray

from sde_harl.buffers.played import NO_STEPS, SlotShape, largest_played
from sde_harl.buffers.rollout import Rollout
from sde_harl.codec.tables import Tables
from sde_harl.envs.vector.history import MOST_STEPS
from sde_harl.link.faults import Fault
from sde_harl.link.transport import Traffic, Transport
from sde_harl.link.wire import Message
from sde_harl.policy.inference.acting import ActingPolicy
from sde_harl.policy.shapes import ServerShape, server_parameter_shapes
from sde_harl.protocol.hello import Hello
from sde_harl.protocol.session import SessionSpec, ShardSpec
from sde_harl.server.decision_log import DecisionLog, Decisions
from sde_harl.server.executor_pool import ExecutorPool
from sde_harl.server.frame_sizes import NUMBER_BYTES, largest_received, largest_sent
from sde_harl.server.hands import Hands
from sde_harl.server.pool_parts import connect, meet
from sde_harl.server.publisher import Model, Sent
from sde_harl.server.reports import PoolReport
from sde_harl.server.settings import PoolSettings
from sde_harl.server.shard_check import ShardCheck
from sde_harl.server.shards import Shards


class ShardedPool(ExecutorPool):
    """The executors that play, and the one at rank 0 that evaluations are played with."""

    def __init__(
        self,
        transport: Transport,
        session: SessionSpec,
        settings: PoolSettings,
        *,
        shape: ServerShape,
        plays: ShardSpec,
        own: Transport,
        state_bytes: int,
    ) -> None:
        """`transport` leads to the executors that play, `own` to the one in this process.

        `shape` is rank 0's part of the policies; `plays` is dealt to the executors; `state_bytes`:
        most bytes of the states that they are sent to begin with.
        """
        # Idle power is measured once a process, not again for the executor inside it.
        super().__init__(own, session._replace(idle_s=0.0), settings)
        self._players = transport
        # Whoever is lost leaves it, and its slots are dealt to the others.
        self._everyone = dict.fromkeys(transport.executors, session.agents)
        hands = Hands(settings.slots, self._everyone, learners=1 + len(transport.learners))
        self._remote = connect(
            transport,
            session,
            settings=settings,
            executors=self._everyone,
            slots=[],
            plays={
                hand.rank: plays._replace(first_slot=hand.first, slots=len(hand.slots))
                for hand in hands
            },
            dealer=hands,
        )
        slot_shape = _slot_shape(session, settings, shape)
        acting = NUMBER_BYTES * sum(map(prod, server_parameter_shapes(shape)))
        self._most_sent = (
            largest_sent(session, settings, self._everyone)
            + acting
            + state_bytes
            + _most_told(slot_shape, settings)
        )
        self.shards = Shards(
            transport,
            self._remote,
            settings=settings,
            hands=hands,
            shape=slot_shape,
            check=ShardCheck(shape.behind.branches, settings.continuous),
        )
        self._decisions: list[Decisions] = []

    @property
    def hosts(self) -> dict[int, Hello]:
        return self._remote.receiver.hosts

    @property
    def absent(self) -> list[int]:
        return sorted(self._players.absent)

    def handshake(self) -> None:
        meet(self._players, self._remote, self._settings, max_sent=self._most_sent)
        self._players.set_frame_bytes(receive=self._most_received(), send=self._most_sent)
        super().handshake()

    def start(self, rollout: Rollout) -> None:
        """Makes room for what executors send of such rollouts. Raises UserError as `Shards`."""
        receive = max(self._most_received(), self.shards.start(rollout))
        self._players.set_frame_bytes(receive=receive, send=self._most_sent)

    def _most_received(self) -> int:
        return largest_received(self._session, self._settings, self._everyone, decisions=0)

    def publish(
        self,
        version: int,
        weights: list[list[NDArray[np.float32]]],
        tables: list[Tables],
        acting: ActingPolicy | None = None,
    ) -> None:
        assert acting
        super().publish(version, weights, tables)
        flat = np.concatenate([each.ravel() for each in acting.arrays()])
        self._remote.publisher.publish(
            Model(version=version, weights=weights, tables=tables, acting=flat)
        )

    def hear(self, elsewhere: Callable[[Message], None]) -> Callable[[Message], None]:
        self._remote.receiver.elsewhere = elsewhere
        return self._remote.receiver.receive

    @property
    def published(self) -> Sent:
        """Returns the model that was published last, as executors were sent it."""
        return self._remote.publisher.sent

    def played(self, decisions: Decisions) -> None:
        """Takes what the decisions of a rollout took, for the next report."""
        self._decisions.append(decisions)

    def report(self) -> PoolReport:
        own = super().report()
        played = self._decisions
        self._decisions = []
        decisions = Decisions.join([*played, own.decisions])
        # They play ahead: a report would wait for their games.
        if self.shards.played_by:
            return PoolReport(decisions=decisions, resources={})
        # The executors' own log is empty: what their decisions took came with their shards.
        usage = self._remote.collector.collect(DecisionLog(self._executors))
        return PoolReport(decisions=decisions, resources=usage.resources)

    def traffic(self) -> Traffic:
        return self._players.traffic()

    def faults(self) -> list[Fault]:
        return [*self._players.faults.drain(), *super().faults()]


def _slot_shape(session: SessionSpec, settings: PoolSettings, shape: ServerShape) -> SlotShape:
    memory = shape.behind.memory
    if session.on_device:
        memory = 0  # it is the devices', and they keep it
    return SlotShape(
        envs=settings.rows,
        agents=len(session.agents),
        dimensions=settings.action_size,
        continuous=settings.continuous,
        memory=memory,
    )


def _most_told(shape: SlotShape, settings: PoolSettings) -> int:
    """Returns the bytes of the states that executors of a run that begins are told at most."""
    told = largest_played(shape, slots=settings.slots, most=0, steps=NO_STEPS)
    if settings.redeals:
        # Of lost executors they get slot by slot, in the middle of episodes.
        told += largest_played(shape, slots=1, most=0, steps=MOST_STEPS)
    return told
