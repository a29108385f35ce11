"""A game of known roles: what an agent's moves do depends on its kind alone."""

from __future__ import annotations

import numpy as np
from numpy.typing import NDArray

from sde_harl.envs.base import EnvSpec
from sde_harl.envs.vector.games import Game, ObservationBuffers, Outcome, SerialVector

TURNS = (0.0, 0.5, -0.9)
"""Radians between where an agent steers and where it goes, by kind."""
MOVES = np.array([[0, 0], [1, 0], [-1, 0], [0, 1], [0, -1]], np.float64)
LIMIT = 10


class Kinds(Game):
    """Agents move in the plane and see their place, what it is near, and who they are.

    An observation is the place (2), three random numbers, the agent's number one-hot (N), and for
    every second agent one more number, which is always 1. Agents die at times, at random.
    """

    def __init__(self, kinds: tuple[int, ...]) -> None:
        n = len(kinds)
        angles = np.array([TURNS[kind] for kind in kinds])
        self._turn = np.array(
            [[np.cos(angles), -np.sin(angles)], [np.sin(angles), np.cos(angles)]]
        ).transpose(2, 0, 1)
        sizes = tuple(5 + n + agent % 2 for agent in range(n))
        names = tuple(f"agent_{agent}" for agent in range(n))
        types = tuple(f"kind {kind}" for kind in kinds)
        self.spec = EnvSpec(
            name="test/kinds",
            agents=names,
            obs_sizes=sizes,
            action_sizes=((len(MOVES),),) * n,
            state_size=1,
            episode_limit=LIMIT,
            continuous=False,
            unit_types=types,
            has_win=False,
        )

    def reset(self, seed: int, out: ObservationBuffers) -> None:
        self._rng = np.random.default_rng(seed)
        self._at = self._rng.normal(size=(len(self.spec.agents), 2))
        self._alive = np.ones(len(self._at), bool)
        self._ticks = 0
        self._observe(out)

    def step(self, actions: NDArray[np.generic], out: ObservationBuffers) -> Outcome:
        self._at += np.einsum("nij,nj->ni", self._turn, MOVES[actions[:, 0].astype(int)])
        self._at += 0.05 * self._rng.normal(size=self._at.shape)
        self._alive &= self._rng.random(len(self._at)) > 0.02
        self._ticks += 1
        self._observe(out)
        reward = float(self._rng.normal())
        return Outcome(reward=reward, terminated=False, truncated=self._ticks >= LIMIT)

    def close(self) -> None:
        """Does nothing: there is nothing to free."""

    def _observe(self, out: ObservationBuffers) -> None:
        n = len(self._at)
        out.obs[:, :2] = self._at
        out.obs[:, 2:5] = self._rng.normal(size=(n, 3))
        out.obs[:, 5 : 5 + n] = np.eye(n)
        out.obs[1::2, -1] = 1
        out.obs[~self._alive] = 0
        out.active[:] = self._alive


def kinds_vector(kinds: tuple[int, ...], seed: int, envs: int = 16) -> SerialVector:
    return SerialVector([Kinds(kinds) for _ in range(envs)], seed=seed, first_env=0)
