"""The environments of a run: made slot by slot, closed together."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import numpy as np
from numpy.typing import NDArray

from sde_harl.config.schema import Config
from sde_harl.envs.base import EnvSpec, VectorEnv
from sde_harl.envs.registry import make
from sde_harl.envs.specs import common_spec


class Environments:
    """Makes a run's environments and closes them at its end."""

    def __init__(self, config: Config) -> None:
        """Makes those of training; they are in `training`, one vector for each slot."""
        self._config = config
        self._open: list[VectorEnv] = []
        self.training = self._make_training()

    @property
    def spec(self) -> EnvSpec:
        """Returns what all environments have in common."""
        return self.training[0].spec

    @property
    def are_brought_back(self) -> bool:
        """Returns False where interrupted episodes could not be brought back: they began anew."""
        return all(env.is_brought_back for env in self.training)

    def _make_training(self) -> list[VectorEnv]:
        return self.make(first=0)

    def make(self, first: int) -> list[VectorEnv]:
        """Returns one vector for each slot, whose environments are numbered from `first` on.

        An environment's number decides its random stream.
        """
        config = self._config
        rows = config.train.envs // config.train.slots
        return [self._make_slot(first + slot * rows) for slot in range(config.train.slots)]

    def _make_slot(self, first: int) -> VectorEnv:
        """Returns the vector of one slot, whose environments are numbered from `first` on."""
        config = self._config
        vector = make(
            config.env,
            num_envs=config.train.envs // config.train.slots,
            seed=config.seed,
            first_env=first,
            timeout_s=config.link.failure_timeout_s,
        )
        # Kept for `close`: environments may hold processes, and evaluation's come later.
        self._open.append(vector)
        # Slots and evaluation make their own environments, which a factory may make differently.
        common_spec([env.spec for env in self._open])
        return vector

    def state_dict(self) -> dict[str, dict[str, NDArray[Any]]]:
        """Returns the state of each slot's environments of training."""
        return {str(slot): env.state_dict() for slot, env in enumerate(self.training)}

    def load_state_dict(self, state: Mapping[str, Mapping[str, NDArray[Any]]]) -> None:
        """Has the next reset bring back the episodes that a `state_dict` was taken in.

        Raises ValueError where the state is of other environments.
        """
        if state.keys() != {str(slot) for slot in range(len(self.training))}:
            raise ValueError(f"{len(state)} slots where {len(self.training)} are needed")
        for slot, env in enumerate(self.training):
            env.load_state_dict(state[str(slot)])

    def begin_at(self, episode: int) -> None:
        """Has the next reset begin episode number `episode` in every environment of training.

        Raises ValueError where no episode has such a number.
        """
        for env in self.training:
            env.load_state_dict({"episodes": np.full(env.num_envs, episode, np.int64)})

    def close(self) -> None:
        """Frees what all environments hold, processes among it."""
        for env in self._open:
            env.close()
