"""The environments of an executor that plays some itself: all of a `local` run but the learning.

Sensors, codec and decisions are those of `local`: the same pool, placement and slots, with an
executor inside this process. It imports no torch. Whatever is computed for a slot depends on that
slot alone, so it makes no difference to any number who plays it.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from typing import Any

import numpy as np
from numpy.typing import NDArray

from sde_harl.buffers.layout import Field
from sde_harl.buffers.played import SlotShape, SlotState
from sde_harl.buffers.shard import shard_fields, write_in_place
from sde_harl.codec.tables import Tables
from sde_harl.config.schema import Config
from sde_harl.envs.base import VectorEnv
from sde_harl.envs.registry import make
from sde_harl.envs.specs import common_spec
from sde_harl.errors import UserError
from sde_harl.executor.in_process import loopback
from sde_harl.link.wire import WireError
from sde_harl.meters.timing import Stages
from sde_harl.placement.registry import find_placement
from sde_harl.policy.critic_input import make_critic_input
from sde_harl.policy.inference import _blocks
from sde_harl.policy.inference.acting import ActingPolicy
from sde_harl.policy.inference.local_nets import split
from sde_harl.policy.inference.unflatten import server_policy
from sde_harl.policy.shapes import LocalShape, device_parameter_shapes, server_shape
from sde_harl.protocol.session import SessionSpec, ShardSpec
from sde_harl.server.decision_log import Decisions
from sde_harl.server.executor_pool import ExecutorPool
from sde_harl.server.settings import PoolSettings
from sde_harl.training.collector import Collector
from sde_harl.training.env_slot import EnvSlot
from sde_harl.training.episodes import Episodes
from sde_harl.training.rollouts import make_rollout, make_slots


class ShardGames:
    """Plays the slots of one executor."""

    def __init__(self, config: Config, plays: ShardSpec, shape: LocalShape) -> None:
        """Makes the environments; `shape`: sizes of all agents' local nets, as rank 0 has them.

        Raises UserError where they can't be made, or are others than rank 0's, and WireError where
        the run has no such slots.
        """
        if not plays.slots or plays.first_slot + plays.slots > config.train.slots:
            raise WireError("slot")
        self._config = config
        rows = config.train.envs // config.train.slots
        self._vectors = _make_vectors(config, plays, rows)
        spec = common_spec([vector.spec for vector in self._vectors.values()])
        session = SessionSpec.from_config(config, spec, heads=plays.heads)
        if session.shape != shape:
            raise UserError(f"env.name: {spec.name} is another one at rank 0")
        # As torch does at rank 0, or numbers close to 0 would differ.
        _blocks.flush_denormals()
        self._server_shape = server_shape(spec=spec, policy=config.policy, heads=plays.heads)
        self._device_shapes = device_parameter_shapes(
            shape, on_device=session.on_device, fallback=session.fallback_head
        )
        # Idle power has been measured once for this process.
        session = session._replace(idle_s=0.0)
        self._pool = ExecutorPool(loopback(), session, PoolSettings.from_config(config, spec))
        self._pool.handshake()
        self._placement = find_placement(config.placement, config.policy)
        self._rollout = make_rollout(
            config,
            spec,
            make_critic_input(plays.critic, spec),
            shape=shape,
            envs=rows * plays.slots,
            replays=plays.replays,
        )
        memory = self._server_shape.behind.memory
        if session.on_device:
            memory = 0  # the executor inside keeps it
        self.slot_shape = SlotShape(
            envs=rows,
            agents=len(spec.agents),
            dimensions=len(spec.branches),
            continuous=spec.continuous,
            memory=memory,
        )
        self._env_slots: list[EnvSlot] = []
        self._collector: Collector
        self._acting: ActingPolicy
        self.version = 0
        """Of the model that was published last."""

    def fields(self) -> dict[str, Field]:
        """Describes the arrays of this executor's shard."""
        envs = self._rollout.rewards.shape[1]
        return shard_fields(self._rollout, envs=envs, slots=self.slots)

    @property
    def slots(self) -> int:
        """Returns the number of its slots."""
        return len(self._vectors)

    def write_to(self, arrays: Mapping[str, NDArray[Any]]) -> None:
        """Has the rollouts lie in these arrays of a shard."""
        write_in_place(self._rollout, arrays)

    def begin(self, states: Sequence[SlotState]) -> None:
        """Goes on with the episodes of these states.

        Raises ValueError where the states are of other environments.
        """
        for state, vector in zip(states, self._vectors.values()):
            vector.load_state_dict(state)
        self._env_slots = make_slots(
            self._vectors,
            placement=self._placement,
            pool=self._pool,
            stages=Stages(),
            note=_leave_to_rank_0,
        )
        for state, env_slot in zip(states, self._env_slots):
            if "began" in state:
                env_slot.load_state_dict({name: state[name] for name in self._own(state)})
        self._collector = Collector(self._env_slots, self._rollout, self._config.seed)

    def _own(self, state: SlotState) -> list[str]:
        """Returns the names of what a slot itself keeps of a state."""
        if state["memory"].size:
            return ["began", "memory"]
        return ["began"]

    def publish(
        self, version: int, flat: NDArray[np.float32], tables: Mapping[int, Tables]
    ) -> None:
        """Takes a model: all agents' local nets and behind them rank 0's part, and their tables.

        Raises ValueError where the vector's length or a value is not right.
        """
        size = sum(int(np.prod(each)) for each in self._device_shapes)
        local = split(self._device_shapes, flat[:size])
        self._acting = server_policy(self._server_shape, flat[size:])
        agents = range(self._server_shape.agents)
        weights = [[array[agent] for array in local] for agent in agents]
        self._pool.publish(version, weights, [tables[agent] for agent in agents if tables])
        self.version = version

    def play(self, first_step: int) -> Iterator[Episodes]:
        """Plays one rollout; yields after each step the episodes that ended."""
        return self._collector.steps(self._acting, first_step)

    def decisions(self) -> Decisions:
        """Returns the decisions since the last call."""
        return self._pool.report().decisions

    def states(self) -> list[SlotState]:
        """Returns where each slot stands."""
        return [
            {**vector.state_dict(), **env_slot.state_dict()}
            for vector, env_slot in zip(self._vectors.values(), self._env_slots)
        ]

    @property
    def are_brought_back(self) -> bool:
        """Returns False where interrupted episodes could not be brought back: they began anew."""
        return all(vector.is_brought_back for vector in self._vectors.values())

    def close(self) -> None:
        """Frees what the environments hold."""
        for vector in self._vectors.values():
            vector.close()


def _make_vectors(config: Config, plays: ShardSpec, rows: int) -> dict[int, VectorEnv]:
    """Returns the environments of each slot, `rows` in each."""
    return {
        slot: make(
            config.env,
            num_envs=rows,
            seed=config.seed,
            first_env=slot * rows,
            timeout_s=config.link.failure_timeout_s,
        )
        for slot in range(plays.first_slot, plays.first_slot + plays.slots)
    }


def _leave_to_rank_0(kind: str, line: str) -> None:
    """Notes nothing: the shard tells rank 0, whose log and record it belongs in."""
