"""Robots of a world of their own: a parallel environment of PettingZoo's, in the executor's process.

Its agents are this executor's sensors and actuators, as a robot's would be; the server knows nothing of the world. It
lives in one process, so all agents must be at one executor (mpirun -np 2, or no mpirun):

    SDE_HARL_WORLD=mpe2.simple_spread_v3:parallel_env \
        python -m sde_harl.run ... executor.sensor=sde_harl.examples.pettingzoo_robot:Robot

The world's episodes begin with the seeds 0, 1, 2, ... and their returns are printed here: the server never learns them.
"""

from __future__ import annotations

import itertools
import os
from collections.abc import Iterator
from functools import lru_cache

import numpy as np

from sde_harl.config.schema import EnvConfig
from sde_harl.envs.pettingzoo import make_game
from sde_harl.envs.vector.games import Game, ObservationBuffers

WORLD = "SDE_HARL_WORLD"
"""The variable that names the function that makes the environment, as env.factory does."""


class World:
    """Steps when all its N agents have acted, and begins anew where an episode ends."""

    def __init__(self, game: Game, seeds: Iterator[int]) -> None:
        self._game, self._seeds, self.spec = game, seeds, game.spec
        n = len(self.spec.agents)
        self._out = ObservationBuffers(
            obs=np.zeros((n, max(self.spec.obs_sizes)), self.spec.obs_dtype),
            state=np.zeros(self.spec.state_size),
            available_actions=self.spec.choices(),
            active=np.ones(n, bool),
        )
        self._actions = np.zeros(
            (n, len(self.spec.branches)), np.float32 if self.spec.continuous else np.int32
        )
        self._acted: set[int] = set()
        self.returns: list[float] = []
        self._begin()

    def seen(self, agent: int) -> np.ndarray:
        """(O,) what an agent sees."""
        if agent in self._acted:
            raise RuntimeError("some agents of this world are at another executor: use -np 2")
        return self._out.obs[agent, : self.spec.obs_sizes[agent]]

    def act(self, agent: int, action: np.ndarray) -> None:
        """An agent's (D,) action; the last agent's moves the world on."""
        self._actions[agent, : len(action)] = action
        self._acted.add(agent)
        if len(self._acted) == len(self.spec.agents):
            self._acted.clear()
            self._step()

    def close(self) -> None:
        self._game.close()

    def _begin(self) -> None:
        self._game.reset(next(self._seeds), self._out)
        self._return = 0.0

    def _step(self) -> None:
        outcome = self._game.step(self._actions, self._out)
        self._return += outcome.reward
        if outcome.terminated or outcome.truncated:
            self.returns.append(self._return)
            print(
                f"episode {len(self.returns)} of the world: return {self._return:.2f}", flush=True
            )
            self._begin()


@lru_cache(maxsize=None)
def world() -> World:
    """This process's."""
    return World(make_game(EnvConfig("pettingzoo", factory=os.environ[WORLD])), itertools.count())


class Robot:
    """One agent of the world."""

    def __init__(self, agent: int) -> None:
        self._agent, self._world = agent, world()

    def read(self) -> np.ndarray:
        return self._world.seen(self._agent)

    def act(self, action: np.ndarray) -> None:
        self._world.act(self._agent, action)

    def close(self) -> None:
        self._world.close()
