"""The environments of a run: made slot by slot, closed together."""

from __future__ import annotations

from sde_harl.config.schema import Config
from sde_harl.envs.base import VectorEnv
from sde_harl.envs.registry import make
from sde_harl.envs.specs import common_spec


class Environments:
    """Makes a run's environments and closes them at its end."""

    def __init__(self, config: Config) -> None:
        self._config = config
        self._open: list[VectorEnv] = []

    def make(self, first: int) -> list[VectorEnv]:
        """Returns one vector a slot, whose environments are numbered from `first` on.

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

    def close(self) -> None:
        """Frees what all environments hold, processes among it."""
        for env in self._open:
            env.close()
