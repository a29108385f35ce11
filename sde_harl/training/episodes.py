"""Episodes: a row for each that ended, and the recording of every step of some (/trajectories).

N agents, E environments of a slot, T steps of an episode, O observation, D numbers of an action.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Any, NamedTuple

import numpy as np
from numpy.typing import NDArray

from sde_harl.envs.base import EnvSpec, EnvStep
from sde_harl.record.schema import Trajectory


class Episodes(NamedTuple):
    """Episodes that ended, one row for each."""

    environment: NDArray[Any]
    """Numbered through all slots."""
    seed: NDArray[Any]
    length: NDArray[Any]
    returns: NDArray[Any]
    won: NDArray[Any]
    """-1 unknown, 0, 1."""

    @classmethod
    def join(cls, parts: Sequence[Episodes]) -> Episodes:
        """Returns all rows in one, no rows if there are no parts."""
        if not parts:
            return NO_EPISODES
        return cls(*(np.concatenate(column) for column in zip(*parts)))

    def select(self, rows: NDArray[Any]) -> Episodes:
        """Returns the rows of a mask."""
        return Episodes(*(column[rows] for column in self))


NO_EPISODES = Episodes(
    environment=np.zeros(0, np.int64),
    seed=np.zeros(0, np.int64),
    length=np.zeros(0, np.int64),
    returns=np.zeros(0, np.float32),
    won=np.zeros(0, np.int64),
)


class EpisodeRecorder:
    """Keeps what a slot plays, from a reset on, and hands on each episode when it is complete."""

    def __init__(self, spec: EnvSpec, envs: int, emit: Callable[[Trajectory], object]) -> None:
        self._spec = spec
        self._emit = emit
        self._obs: list[NDArray[Any]] = []  # (E, N, O) each
        self._actions: list[NDArray[Any]] = []  # (N, E, D) each
        self._rewards: list[NDArray[Any]] = []  # (E,) each
        self._starts = np.zeros(envs, np.int64)  # index of each environment's first step

    def decided(self, obs: NDArray[Any], actions: NDArray[Any]) -> None:
        """Keeps copies of observations (E, N, O) and of the actions (N, E, D) taken on them."""
        # Copies, because the environments and the policy write into the same arrays again.
        self._obs.append(obs.copy())
        self._actions.append(actions.copy())

    def advanced(self, step: EnvStep, seeds: NDArray[Any], wanted: NDArray[Any]) -> None:
        """Keeps what the actions led to and emits the episodes that ended where `wanted` (E,).

        `seeds` (E,) are those of the episodes that were played up to this step.
        """
        self._rewards.append(step.rewards.copy())
        for e in np.flatnonzero(step.terminated | step.truncated):
            if wanted[e] and not step.void[e]:
                self._emit(self._trajectory(int(e), step, int(seeds[e])))
            # Also where it wasn't wanted: the next episode begins here.
            self._starts[e] = len(self._rewards)

    def _trajectory(self, e: int, step: EnvStep, seed: int) -> Trajectory:
        """Returns the episode of environment `e` that ended with `step`."""
        span = slice(int(self._starts[e]), None)
        # step.obs belongs to the next episode already; final_obs is this one's last observation.
        obs = np.stack([each[e] for each in self._obs[span]] + [step.final_obs[e]])  # (T + 1, N, O)
        actions = np.stack([each[:, e] for each in self._actions[span]])  # (T, N, D)
        rewards = np.array([each[e] for each in self._rewards[span]])
        return Trajectory(
            observations=self._observations_by_agent(obs),
            actions=self._actions_by_agent(actions),
            rewards=rewards,
            terminations=_flags(len(rewards), step.terminated[e]),
            truncations=_flags(len(rewards), step.truncated[e]),
            seed=seed,
        )

    def _observations_by_agent(self, obs: NDArray[Any]) -> dict[str, NDArray[Any]]:
        """Returns each agent's own (T + 1, O_i), without the padding, from (T + 1, N, O)."""
        sizes = self._spec.obs_sizes
        return {agent: obs[:, i, : sizes[i]] for i, agent in enumerate(self._spec.agents)}

    def _actions_by_agent(self, actions: NDArray[Any]) -> dict[str, NDArray[Any]]:
        """Returns each agent's own actions from (T, N, D)."""
        agents = enumerate(self._spec.agents)
        return {agent: self._unpadded(actions[:, i], i) for i, agent in agents}

    def _unpadded(self, actions: NDArray[Any], agent: int) -> NDArray[Any]:
        """Returns an agent's own numbers of (T, D); (T,) where it makes one discrete choice."""
        sizes = self._spec.action_sizes[agent]
        if self._spec.continuous:
            return actions[:, : sizes[0]]
        if len(sizes) == 1:
            return actions[:, 0]
        return actions[:, : len(sizes)]


def _flags(steps: int, last: np.bool_) -> NDArray[np.bool_]:
    """Returns a flag (T,) for each step of an episode: False for all but the last one."""
    # Minari wants terminations and truncations of every step, though only the last can have one.
    flags = np.zeros(steps, np.bool_)
    flags[-1] = last
    return flags
