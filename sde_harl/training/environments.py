"""The environments of a run: made slot by slot, closed together."""

from __future__ import annotations

from collections.abc import Mapping

import numpy as np
import torch

from sde_harl.config.schema import Config
from sde_harl.envs.base import VectorEnv
from sde_harl.envs.registry import make
from sde_harl.envs.specs import common_spec


class Environments:
    """Makes a run's environments and closes them at its end."""

    def __init__(self, config: Config) -> None:
        """Makes those of training; they are in `training`, one vector for each slot."""
        self._config = config
        self._open: list[VectorEnv] = []
        self.training = self.make(first=0)

    def make(self, first: int) -> list[VectorEnv]:
        """Returns one vector for each slot, whose environments are numbered from `first` on.

        An environment's number decides its random stream.
        """
        config = self._config
        rows = config.train.envs // config.train.slots
        made = [
            make(
                config.env,
                num_envs=rows,
                seed=config.seed,
                first_env=first + slot * rows,
                timeout_s=config.link.failure_timeout_s,
            )
            for slot in range(config.train.slots)
        ]
        # Kept for `close`: environments may hold processes, and evaluation's come later.
        self._open += made
        # Slots and evaluation make their own environments, which a factory may make differently.
        common_spec([env.spec for env in self._open])
        return made

    def state_dict(self) -> dict[str, dict[str, torch.Tensor]]:
        """Returns the state of each slot's environments of training."""
        return {
            str(slot): {name: torch.from_numpy(array) for name, array in env.state_dict().items()}
            for slot, env in enumerate(self.training)
        }

    def load_state_dict(self, state: Mapping[str, Mapping[str, torch.Tensor]]) -> None:
        """Has the next reset bring back the episodes that a `state_dict` was taken in.

        Raises ValueError where the state is of other environments.
        """
        if state.keys() != {str(slot) for slot in range(len(self.training))}:
            raise ValueError(f"{len(state)} slots where {len(self.training)} are needed")
        for slot, env in enumerate(self.training):
            env.load_state_dict({name: each.numpy() for name, each in state[str(slot)].items()})

    def begin_at(self, episode: int) -> None:
        """Has the next reset begin episode number `episode` in every environment of training."""
        for env in self.training:
            env.load_state_dict({"episodes": np.full(env.num_envs, episode, np.int64)})

    def close(self) -> None:
        """Frees what all environments hold, processes among it."""
        for env in self._open:
            env.close()
