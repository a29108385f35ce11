"""No game at all: the executors' own sensors see the world, and what is decided is done by their own actuators.

The server knows the sizes of what is seen and done, from the spec.json of the run that learnt it, and counts decisions:
an episode is `env.steps` of them. It never sees an observation, and of rewards, wins and the end of what is played it
learns nothing: rewards are NaN, wins unknown, every choice is available, everybody is active. So there is nothing to
learn from, and one environment, the world.
"""

from __future__ import annotations

from pathlib import Path

import numpy as np
from numpy.typing import NDArray

from sde_harl.envs.base import EnvConfig, EnvSpec
from sde_harl.envs.specs import from_json
from sde_harl.envs.vector.games import Game, GameView, Outcome, SerialVector
from sde_harl.errors import UserError


class World(Game):
    """Counts the decisions of an episode."""

    def __init__(self, spec: EnvSpec) -> None:
        self.spec = spec

    def reset(self, seed: int, view: GameView) -> None:
        self._made = 0

    def step(self, actions: NDArray[np.generic], view: GameView) -> Outcome:
        self._made += 1
        return Outcome(np.nan, terminated=False, truncated=self._made == self.spec.episode_limit)

    def close(self) -> None:
        """Nothing."""


def make(env_config: EnvConfig, num_envs: int, seed: int, first_env: int) -> SerialVector:
    """Raises UserError for a spec that can't be read, or that tells no length of episodes where `env.steps` is 0."""
    spec = _read(Path(env_config.spec))
    steps = env_config.steps or spec.episode_limit
    if not steps:
        raise UserError(
            f"env.steps: expected 1 or more, for {env_config.spec} tells no episode_limit"
        )
    spec = spec._replace(
        name=f"devices/{spec.name.replace('/', '.')}", episode_limit=steps, has_win=False
    )
    return SerialVector([World(spec) for _ in range(num_envs)], seed, first_env)


def _read(path: Path) -> EnvSpec:
    try:
        return from_json(path.read_bytes())
    except OSError as error:
        raise UserError(f"env.spec: {path}: can't be read: {error.strerror}") from error
    except (ValueError, RecursionError) as error:
        raise UserError(
            f"env.spec: {path}: not a run's spec.json: {str(error).splitlines()[0]}"
        ) from error
