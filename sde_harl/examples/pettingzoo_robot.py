r"""Sensors that live in a world of their own: a PettingZoo environment in the executor's process.

The environment's agents are this executor's sensors and actuators, as a robot's would be; the
server knows nothing of the world. It lives in one process, so all agents must be at one executor
(mpirun -np 2, or no mpirun):

    SDE_HARL_WORLD=mpe2.simple_spread_v3:parallel_env \
        python -m sde_harl.run ... executor.sensor=sde_harl.examples.pettingzoo_robot:Robot

The world's episodes begin with the seeds 0, 1, 2, ... Their returns are printed here, because the
server never learns them.
"""

from __future__ import annotations

import itertools
import os
from collections.abc import Iterator
from functools import lru_cache
from typing import Any

import numpy as np
from numpy.typing import NDArray

from sde_harl.config.schema import EnvConfig
from sde_harl.envs.base import EnvSpec
from sde_harl.envs.pettingzoo import make_game
from sde_harl.envs.vector.games import Game, ObservationBuffers

WORLD = "SDE_HARL_WORLD"
"""Variable that names the function which makes the environment, as env.factory does."""


class World:
    """Steps when all its N agents have acted, and begins anew where an episode ends."""

    def __init__(self, game: Game, seeds: Iterator[int]) -> None:
        """`seeds`: one for each episode."""
        self._game = game
        self._seeds = seeds
        self.spec = game.spec
        self._out = _buffers(self.spec)
        shape = (len(self.spec.agents), len(self.spec.branches))
        dtype = np.float32 if self.spec.continuous else np.int32
        self._actions: NDArray[Any] = np.zeros(shape, dtype)  # (N, D)
        self._acted: set[int] = set()
        self._return = 0.0
        self.returns: list[float] = []
        """The return of each episode that has ended."""
        self._begin()

    def observation(self, agent: int) -> NDArray[Any]:
        """Returns (O,) what an agent observes. Raises RuntimeError where agents are missing."""
        # Each decision is one read, then one act of every agent. If an agent reads again before the
        # world has moved on, the others will never act here.
        if agent in self._acted:
            raise RuntimeError("some agents of this world are at another executor: use -np 2")
        return self._out.obs[agent, : self.spec.obs_sizes[agent]]

    def act(self, agent: int, action: NDArray[Any]) -> None:
        """Takes an agent's (D,) action; the last agent's moves the world on."""
        self._actions[agent, : len(action)] = action
        self._acted.add(agent)
        if len(self._acted) == len(self.spec.agents):
            self._acted.clear()
            self._step()

    def close(self) -> None:
        """Closes the environment."""
        self._game.close()

    def _begin(self) -> None:
        self._game.reset(next(self._seeds), self._out)
        self._return = 0.0

    def _step(self) -> None:
        outcome = self._game.step(self._actions, self._out)
        self._return += outcome.reward
        if outcome.terminated or outcome.truncated:
            self.returns.append(self._return)
            # Flushed, so that mpirun passes the line on at once.
            print(
                f"episode {len(self.returns)} of the world: return {self._return:.2f}", flush=True
            )
            self._begin()


def _buffers(spec: EnvSpec) -> ObservationBuffers:
    """Returns arrays for what the environment shows its agents."""
    agents = len(spec.agents)
    return ObservationBuffers(
        obs=np.zeros((agents, max(spec.obs_sizes)), spec.obs_dtype),
        state=np.zeros(spec.state_size),
        available_actions=spec.choices(),
        active=np.ones(agents, bool),
    )


# Cached, because the executor makes one robot for each agent, and all of them share the world.
@lru_cache(maxsize=None)
def world() -> World:
    """Returns this process's world."""
    return World(
        make_game(EnvConfig(name="pettingzoo", factory=os.environ[WORLD])), itertools.count()
    )


class Robot:
    """One agent of the world, as a sensor of an executor (executor/sensors.py)."""

    def __init__(self, agent: int) -> None:
        self._agent = agent
        self._world = world()

    def read(self) -> NDArray[Any]:
        """Returns (O,) what the agent observes."""
        return self._world.observation(self._agent)

    def act(self, action: NDArray[Any]) -> None:
        """Does the agent's (D,) action."""
        self._world.act(self._agent, action)

    def close(self) -> None:
        """Closes the world, for all its agents."""
        self._world.close()
