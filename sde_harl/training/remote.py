"""Environments that executors play, seen from rank 0 (placement `envs`).

N agents, T time, E environments.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from typing import Any

import numpy as np
from numpy.typing import NDArray

from sde_harl.buffers.played import SlotState
from sde_harl.buffers.rollout import Rollout
from sde_harl.buffers.shard import join
from sde_harl.config.schema import Config
from sde_harl.envs.base import VectorEnv, loaded_episodes
from sde_harl.envs.vector.history import Past
from sde_harl.meters.timing import Stages
from sde_harl.policy.inference.acting import ActingPolicy
from sde_harl.server.shard import Shard, decisions_of
from sde_harl.server.sharded_pool import ShardedPool
from sde_harl.training.ahead import Ahead
from sde_harl.training.collector import check_slot_state
from sde_harl.training.environments import Environments
from sde_harl.training.episodes import Episodes

OF_SLOT = ("began", "memory")
"""The arrays of a slot's state that are the slot's own, and not its environments'."""


class RemoteEnvironments(Environments):
    """The environments of training as their executors told them last; evaluation's are made."""

    def __init__(self, config: Config) -> None:
        super().__init__(config)
        self._slots = config.train.slots
        self._rows = config.train.envs // config.train.slots
        self.states: list[SlotState] = [self._from_episode(0)] * self._slots
        """Of each slot, its environments and the slot itself."""
        self.is_repeatable = True
        """False where an executor could not bring interrupted episodes back."""

    @property
    def are_brought_back(self) -> bool:
        return self.is_repeatable

    def _make_training(self) -> list[VectorEnv]:
        if self._config.roles.source == "learnt":
            return super()._make_training()  # roles are learnt from random play at rank 0
        # One slot's, which says what all are like.
        return [self._make_slot(0)]

    def _from_episode(self, episode: int) -> SlotState:
        return {"episodes": np.full(self._rows, episode, np.int64)}

    def state_dict(self) -> dict[str, dict[str, NDArray[Any]]]:
        return {
            str(slot): {name: each for name, each in state.items() if name not in OF_SLOT}
            for slot, state in enumerate(self.states)
        }

    def load_state_dict(self, state: Mapping[str, Mapping[str, NDArray[Any]]]) -> None:
        if state.keys() != {str(slot) for slot in range(self._slots)}:
            raise ValueError(f"{len(state)} slots where {self._slots} are needed")
        for each in state.values():
            loaded_episodes(each, self._rows)
            if "lengths" in each:
                Past.checked(each, self.spec, self._rows)
        self.states = [state[str(slot)] for slot in range(self._slots)]

    def begin_at(self, episode: int) -> None:
        state = self._from_episode(episode)
        loaded_episodes(state, self._rows)
        self.states = [state] * self._slots


class RemoteCollector:
    """Fills rollouts with what executors play; `Collector` does so with slots at rank 0."""

    def __init__(
        self,
        pool: ShardedPool,
        environments: RemoteEnvironments,
        rollout: Rollout,
        *,
        stages: Stages,
        overlap: bool,
    ) -> None:
        """Makes room for what executors send. Raises UserError where it is too much.

        overlap: as in `train.overlap`.
        """
        pool.start(rollout)
        self.rollout = rollout
        self._pool = pool
        self._environments = environments
        self._stages = stages
        self._rows = rollout.rewards.shape[1] // len(environments.states)
        self._overlap = overlap
        self.ahead = Ahead(pool)
        """Decides which model plays."""
        self._lag = 0
        """By how many updates the model was older that has played than the one that learns."""

    def state_dict(self) -> dict[str, dict[str, NDArray[Any]]]:
        """Returns the state of each slot, by its number."""
        return {
            str(slot): self._of_slot(state) for slot, state in enumerate(self._environments.states)
        }

    def _of_slot(self, state: SlotState) -> dict[str, NDArray[Any]]:
        own = {name: state[name] for name in OF_SLOT if name in state}
        # Nothing has been played: all episodes begin.
        own.setdefault("began", np.ones(self._rows, np.bool_))
        # As in `local`, where nothing is remembered.
        if "memory" in own and not own["memory"].size:
            del own["memory"]
        return own

    def load_state_dict(self, state: Mapping[str, Mapping[str, NDArray[Any]]]) -> None:
        """Takes over what `state_dict` returned. Raises ValueError where it is of other slots."""
        states = self._environments.states
        if state.keys() != {str(slot) for slot in range(len(states))}:
            raise ValueError(f"{len(state)} slots where {len(states)} are needed")
        for each in state.values():
            check_slot_state(self.rollout, each, self._rows)
        self._environments.states = [{**own, **state[str(slot)]} for slot, own in enumerate(states)]

    def begin(self, first_step: int) -> None:
        """Has executors begin to play T steps of every environment, by what was published last."""
        self._pool.shards.play(self.ahead.take_model(), first_step, self._environments.states)

    def play_ahead(self, first_step: int, *, is_last: bool) -> dict[str, float]:
        """Has executors begin the next rollout before this one is learnt, if that is asked for.

        is_last: there is no next one. Returns scalars to log.
        """
        if not self._overlap:
            return {}
        lag = float(self._lag)
        if not is_last:
            self.begin(first_step)
        return {"lag": lag}

    def collect(self, policy: ActingPolicy, first_step: int) -> Iterator[Episodes]:
        """Has executors play T steps of every environment; yields the episodes that ended.

        They act by what was published last, of which `policy` is rank 0's part, or by what was
        published when they began.
        """
        shards = self._pool.shards
        with self._stages("environment"):
            if not shards.played_by:
                self.begin(first_step)
            assert shards.played_by
            version = shards.played_by.version
            arrived = shards.collect(self._join)
        self._lag = self._pool.version - version
        self._pool.played(
            decisions_of(arrived, first_step=first_step, version=version, rows=self._rows)
        )
        self._take_states(arrived)
        self._note_void()
        episodes = self._episodes(arrived)
        if len(episodes.seed):
            yield episodes

    def _join(self, shard: Shard) -> None:
        join(self.rollout, shard.arrays, shard.envs)

    def _take_states(self, shards: Sequence[Shard]) -> None:
        self._environments.states = [slot for shard in shards for slot in shard.played.slots]
        for shard in shards:
            anew = shard.is_first and not shard.played.is_brought_back
            self.rollout.anew[shard.envs] = anew
            if anew:
                self._pool.note(
                    "anew",
                    f"the environments of executor {shard.rank} don't repeat themselves:"
                    f" {shard.envs.stop - shard.envs.start} episodes under way are lost, and begin"
                    " anew",
                )
        self._environments.is_repeatable = all(shard.played.is_brought_back for shard in shards)

    def _note_void(self) -> None:
        rollout = self.rollout
        for _, e in np.argwhere(rollout.void & rollout.ended):
            self._pool.note("void", f"environment {e}: its game failed, and the episode is void")

    def _episodes(self, shards: Sequence[Shard]) -> Episodes:
        """Returns the episodes in the order in which they ended, environment by environment."""
        rollout = self.rollout
        ended = rollout.ended & ~rollout.void
        # Each shard has its own in this order, too.
        places = [
            np.argwhere(ended[:, shard.envs]) + np.array([0, shard.envs.start]) for shard in shards
        ]
        owner = np.concatenate(places)  # (k, 2): time and environment
        rows = np.concatenate([shard.played.episodes for shard in shards])
        order = np.lexsort((owner[:, 1], owner[:, 0]))
        rows = rows[order]
        return Episodes(
            environment=owner[order, 1],
            seed=rows["seed"].astype(np.int64),
            length=rows["length"].astype(np.int64),
            returns=rows["returns"].astype(np.float32),
            won=rows["won"].astype(np.int64),
        )
