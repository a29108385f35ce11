"""Environment without a game: executors sense the world and act in it by themselves.

The observations come from the executors' own sensors, and their own actuators carry out what is
decided. The server knows only how many numbers an observation and an action have, from the
spec.json of the run that trained the policies, and counts decisions: an episode is `env.steps` of
them. It sees no observation, and learns nothing of rewards, wins or the end of what goes on there.
So rewards are NaN, wins unknown, every choice is available and every agent active. Nothing can be
learnt from this, and more than one environment makes no sense: it is the world.
"""

from __future__ import annotations

from pathlib import Path

import numpy as np
from numpy.typing import NDArray

from sde_harl.envs.base import EnvSpec
from sde_harl.envs.settings import EnvConfig
from sde_harl.envs.specs import MOST_BYTES, from_json
from sde_harl.envs.vector.games import Game, ObservationBuffers, Outcome, SerialVector
from sde_harl.errors import UserError
from sde_harl.outside.text import read_text


class World(Game):
    """Counts the decisions of an episode, and writes no observations."""

    has_rewards = False

    def __init__(self, spec: EnvSpec) -> None:
        self.spec = spec
        self._decisions = 0

    def reset(self, seed: int, out: ObservationBuffers) -> None:
        self._decisions = 0

    def step(self, actions: NDArray[np.generic], out: ObservationBuffers) -> Outcome:
        self._decisions += 1
        is_last = self._decisions == self.spec.episode_limit
        return Outcome(reward=np.nan, terminated=False, truncated=is_last)

    def close(self) -> None:
        """Does nothing: there is nothing to free."""


# `make`, not `make_game`, although these are single games: `env.workers` must not apply to them.
def make(env_config: EnvConfig, *, num_envs: int, seed: int, first_env: int) -> SerialVector:
    """Makes the vector; see `registry.make`.

    Raises UserError for a spec that can't be read, and for one that tells no length of episodes
    where `env.steps` is 0.
    """
    spec = _read(Path(env_config.spec))
    steps = env_config.steps or spec.episode_limit
    if not steps:
        raise UserError(
            f"env.steps: expected 1 or more, for {env_config.spec} tells no episode_limit"
        )
    trained_on = spec.name.replace("/", ".")
    spec = spec._replace(name=f"devices/{trained_on}", episode_limit=steps, has_win=False)
    return SerialVector([World(spec) for _ in range(num_envs)], seed=seed, first_env=first_env)


def _read(path: Path) -> EnvSpec:
    try:
        return from_json(read_text(path, MOST_BYTES))
    except OSError as error:
        raise UserError(f"env.spec: {path}: can't be read: {error.strerror}") from error
    except (ValueError, RecursionError) as error:  # RecursionError: thousands of nested brackets
        reason = str(error).splitlines()[0]
        raise UserError(f"env.spec: {path}: not a run's spec.json: {reason}") from error
