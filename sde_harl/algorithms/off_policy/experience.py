"""The experience of a run: its replay, and whether that is enough to learn from."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import Any

import torch

from sde_harl.buffers.replay import Place, Replay, Sample
from sde_harl.buffers.replay_file import ReplayFile
from sde_harl.buffers.rollout import Rollout
from sde_harl.config.schema import Config
from sde_harl.envs.base import EnvSpec
from sde_harl.errors import UserError

FOLDER = "replay"
"""The replay's folder beside the checkpoints."""


class Experience:
    """The replay of a run, its files, and the run's steps."""

    steps: int
    """Environment steps that the run has had."""
    random_steps: int
    """The first of them, in which the agents act at random."""

    def __init__(self, spec: EnvSpec, config: Config, *, latent_size: int) -> None:
        """`latent_size`: numbers of the latents that are kept; 0 keeps none."""
        algo = config.algo
        self._algo = algo
        self.replay = Replay(
            spec,
            # A run that only plays fills none.
            capacity=algo.buffer_size if config.train.steps else 0,
            envs=config.train.envs,
            obs_dtype=algo.buffer_dtype,
            folder=None if algo.buffer_folder == "none" else Path(algo.buffer_folder),
            latent_size=latent_size,
        )
        self._file = ReplayFile(self.replay, spec)
        self.steps = 0
        # Steps that the replay has had: less than `steps` where it could not be brought back.
        self._replayed = 0
        # What another run has learnt is not thrown away for random play.
        self.random_steps = 0 if config.train.load != "none" else algo.warmup_steps

    @property
    def warming_up(self) -> bool:
        """Returns True while the agents act at random."""
        return self.steps < self.random_steps

    @property
    def suffices(self) -> bool:
        """Returns True if the replay has had the steps that learning begins after."""
        return self._replayed >= self._algo.warmup_steps

    def add(self, rollout: Rollout) -> None:
        """Appends a rollout."""
        self.replay.add(rollout)
        self.steps += rollout.rewards.size
        self._replayed += rollout.rewards.size

    def sample(self, generator: torch.Generator) -> Sample | None:
        """Returns random rows to learn from; None where there are none."""
        algo = self._algo
        return self.replay.sample(algo.batch_size, generator, steps=algo.n_step, gamma=algo.gamma)

    def store(self, folder: Path) -> None:
        """Stores the replay beside the checkpoints in `folder`.

        Raises UserError where the disk refuses it.
        """
        self._file.store(folder / FOLDER)

    def restore(self, folder: Path) -> str:
        """Brings the replay back; returns a line that says why it could not, or nothing."""
        try:
            self._file.restore(folder / FOLDER)
        except UserError as error:
            self.replay.clear()
            self._replayed = 0
            return f"{error}; it begins empty"
        return ""

    def state_dict(self) -> dict[str, Any]:
        """Returns how far the run is, without the replay's rows."""
        return {
            "steps": self.steps,
            "replayed": self._replayed,
            "replay": torch.from_numpy(self.replay.place.after),
        }

    def load_state_dict(self, state: Mapping[str, Any]) -> None:
        """Takes over what `state_dict` returned. Raises ValueError for what no replay can have."""
        self.steps = state["steps"]
        self._replayed = state["replayed"]
        after = state["replay"].numpy().copy()
        if (after < 0).any():
            raise ValueError("replay: expected numbers of 0 or more")
        self.replay.place = Place(before=after, after=after)
