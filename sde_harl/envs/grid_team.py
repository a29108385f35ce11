"""Grid worlds by gymnasium's interface, with a list of an entry for each agent in place of a value.

Level-Based Foraging and RWARE have this interface in common. Their team's reward is the sum of the
agents', as in EPyMARL, and the state is all agents' observations. Both end an episode that is out
of time as if the game were over; here it is truncated.
"""

from __future__ import annotations

from abc import abstractmethod
from typing import Any, NamedTuple

import numpy as np
from numpy.typing import NDArray

from sde_harl.envs.base import EnvSpec
from sde_harl.envs.vector.games import Game, ObservationBuffers, Outcome


class Limits(NamedTuple):
    """A map as its benchmark describes it."""

    name: str
    """Name that results are filed under."""
    steps: int
    """Steps of an episode."""
    has_win: bool


class GridTeam(Game):
    """One grid world."""

    pictures_per_s = 5.0

    def __init__(self, env: Any, limits: Limits) -> None:
        self._env = env
        self._steps = 0
        agents = tuple(f"agent_{i}" for i in range(len(env.action_space)))
        sizes = tuple(int(space.shape[0]) for space in env.observation_space)
        self.spec = EnvSpec(
            name=limits.name,
            agents=agents,
            obs_sizes=sizes,
            action_sizes=tuple((int(space.n),) for space in env.action_space),
            state_size=sum(sizes),
            episode_limit=limits.steps,
            continuous=False,
            unit_types=("",) * len(agents),
            has_win=limits.has_win,
        )

    @abstractmethod
    def is_done(self) -> bool:
        """Returns True where the task is done, so that the episode ends before its time."""

    def reset(self, seed: int, out: ObservationBuffers) -> None:
        self._steps = 0
        obs, _ = self._env.reset(seed=seed)
        self._write(obs, out)

    def step(self, actions: NDArray[np.generic], out: ObservationBuffers) -> Outcome:
        obs, rewards, _, _, _ = self._env.step(actions[:, 0].tolist())
        self._steps += 1
        self._write(obs, out)
        is_done = self.is_done()
        return Outcome(
            reward=float(sum(rewards)),
            terminated=is_done,
            truncated=self._steps == self.spec.episode_limit,
            won=int(is_done) if self.spec.has_win else -1,
        )

    def close(self) -> None:
        self._env.close()

    def _write(self, obs: Any, out: ObservationBuffers) -> None:
        for row, seen in zip(out.obs, obs):
            row[: len(seen)] = seen
        np.concatenate(obs, out=out.state, casting="same_kind")
