"""A game of known roles: what an agent's moves do depends on its kind alone."""

from __future__ import annotations

import numpy as np
from numpy.typing import NDArray

from sde_harl.envs.base import EnvSpec
from sde_harl.envs.vector.games import Game, GameView, Outcome, SerialVector

TURNS = (0.0, 0.5, -0.9)
"""Of kinds 0 to 2: the angle, in radians, between where an agent steers and where it goes."""
MOVES = np.array([[0, 0], [1, 0], [-1, 0], [0, 1], [0, -1]], np.float64)
LIMIT = 10


class Kinds(Game):
    """Agents move in the plane and see their place, what it is near, and who they are.

    An observation is place (2), three numbers that change at random, the agent's number one-hot (N), and, of every
    second agent, one number more that is always 1. Everybody dies at times, at random.
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
            "test/kinds", names, sizes, ((len(MOVES),),) * n, 1, LIMIT, False, types, False
        )

    def reset(self, seed: int, view: GameView) -> None:
        self._rng = np.random.default_rng(seed)
        self._at = self._rng.normal(size=(len(self.spec.agents), 2))
        self._alive = np.ones(len(self._at), bool)
        self._ticks = 0
        self._observe(view)

    def step(self, actions: NDArray[np.generic], view: GameView) -> Outcome:
        self._at += np.einsum("nij,nj->ni", self._turn, MOVES[actions[:, 0].astype(int)])
        self._at += 0.05 * self._rng.normal(size=self._at.shape)
        self._alive &= self._rng.random(len(self._at)) > 0.02
        self._ticks += 1
        self._observe(view)
        return Outcome(float(self._rng.normal()), False, self._ticks >= LIMIT)

    def close(self) -> None:
        """Nothing."""

    def _observe(self, view: GameView) -> None:
        n = len(self._at)
        view.obs[:, :2], view.obs[:, 2:5] = self._at, self._rng.normal(size=(n, 3))
        view.obs[:, 5 : 5 + n] = np.eye(n)
        view.obs[1::2, -1] = 1
        view.obs[~self._alive] = 0
        view.active[:] = self._alive


def kinds_vector(kinds: tuple[int, ...], seed: int, envs: int = 16) -> SerialVector:
    return SerialVector([Kinds(kinds) for _ in range(envs)], seed, 0)
