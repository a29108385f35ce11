"""Keeps what a seat plays until its episodes end, and hands them on whole: what /trajectories is made of.

N agents, E environments of the seat, T steps of an episode, O observation.
"""

from __future__ import annotations

from collections.abc import Callable

import numpy as np

from sde_harl.envs.base import EnvSpec, EnvStep
from sde_harl.record.schema import Trajectory


class EpisodeRecorder:
    """Records one seat from a reset on."""

    def __init__(self, spec: EnvSpec, envs: int, emit: Callable[[Trajectory], object]) -> None:
        self._spec, self._emit = spec, emit
        self._obs: list[np.ndarray] = []  # (E, N, O) each
        self._actions: list[np.ndarray] = []  # (N, E, D) each
        self._rewards: list[np.ndarray] = []  # (E,) each
        self._starts = np.zeros(envs, np.int64)

    def decided(self, obs: np.ndarray, actions: np.ndarray) -> None:
        """Observations (E, N, O) and the actions (N, E, D) taken on them; both are copied."""
        self._obs.append(obs.copy())
        self._actions.append(actions.copy())

    def advanced(self, step: EnvStep, seeds: np.ndarray, wanted: np.ndarray) -> None:
        """What the actions led to; emits the ended episodes of `wanted` (E,). `seeds` (E,) are of those that ended."""
        self._rewards.append(step.rewards.copy())
        for e in np.flatnonzero(step.terminated | step.truncated):
            if wanted[e]:
                self._emit(self._trajectory(int(e), step, int(seeds[e])))
            self._starts[e] = len(self._rewards)

    def _trajectory(self, e: int, step: EnvStep, seed: int) -> Trajectory:
        span = slice(int(self._starts[e]), None)
        obs = np.stack([each[e] for each in self._obs[span]] + [step.final_obs[e]])  # (T + 1, N, O)
        actions = np.stack([each[:, e] for each in self._actions[span]])  # (T, N, D)
        rewards = np.array([each[e] for each in self._rewards[span]])
        ends = np.zeros((2, len(rewards)), bool)
        ends[:, -1] = step.terminated[e], step.truncated[e]
        agents = list(enumerate(self._spec.agents))
        return Trajectory(
            observations={agent: obs[:, i, : self._spec.obs_sizes[i]] for i, agent in agents},
            actions={
                agent: self._plain(actions[:, i], self._spec.action_sizes[i]) for i, agent in agents
            },
            rewards=rewards,
            terminations=ends[0],
            truncations=ends[1],
            seed=seed,
        )

    def _plain(self, actions: np.ndarray, sizes: tuple[int, ...]) -> np.ndarray:
        """An agent's actions (T, D) without padding: (T,) where a choice in one branch is all."""
        if self._spec.continuous:
            return actions[:, : sizes[0]]
        return actions[:, 0] if len(sizes) == 1 else actions[:, : len(sizes)]
