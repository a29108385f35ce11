"""Finds the run that `train.resume` means, and the newest checkpoint of it that is whole."""

from __future__ import annotations

from pathlib import Path
from typing import NamedTuple

from sde_harl.config.layers import is_same_run
from sde_harl.config.schema import Config
from sde_harl.envs.base import EnvSpec
from sde_harl.errors import UserError
from sde_harl.record.checkpoint import Checkpoint, load
from sde_harl.record.folder import runs_of
from sde_harl.slurm.allocation import restarts


class Resumed(NamedTuple):
    """A run that goes on."""

    folder: Path
    checkpoint: Checkpoint
    refused: tuple[str, ...]
    """A line for each newer checkpoint that can't be used."""

    @property
    def steps(self) -> int:
        """Returns the environment steps that the run had played."""
        return int(self.checkpoint.values["counters/steps"])

    def is_unfinished(self, config: Config) -> bool:
        """Returns whether anything is left to do: updates, or the last evaluation."""
        evaluated = int(self.checkpoint.values.get("counters/evaluated", self.steps))
        return min(self.steps, evaluated) < config.train.steps

    def lines(self) -> list[str]:
        """Returns what the user should know."""
        skipped = [f"{line}; the one before it is taken" for line in self.refused]
        return [*skipped, f"resumed at {self.steps:,} steps from {self.checkpoint.path}"]


def find_resumed(config: Config, spec: EnvSpec) -> Resumed | None:
    """Returns the run to go on with; None for a run that begins.

    Raises UserError where `train.resume` names a run that has no usable checkpoint.
    """
    asked = config.train.resume
    if asked == "none":
        return None
    if asked != "auto":
        return _newest(Path(asked))
    # A run that ended just before Slurm put its job back into the queue has nothing left to do.
    is_back = restarts() > 0
    for folder in _folders(config, spec):
        if not is_same_run(folder / "config.yaml", config, free=("resume", "steps")):
            continue
        try:
            found = _newest(folder)
        except UserError:
            continue  # a run that was killed before its first checkpoint
        if found.is_unfinished(config):
            return found
        if is_back and is_same_run(folder / "config.yaml", config):
            return found
    return None


def _folders(config: Config, spec: EnvSpec) -> list[Path]:
    """Returns the folders of earlier runs of this experiment and seed, the newest first."""
    env, task = spec.name.split("/", 1)
    return runs_of(
        Path(config.record.dir),
        env=env,
        task=task,
        algo=config.algo.name,
        exp=config.record.exp,
        seed=config.seed,
    )


def _newest(folder: Path) -> Resumed:
    """Returns the newest usable checkpoint of a run. Raises UserError where there is none."""
    files = [*(folder / "models").glob("*.pt")]
    refused: list[str] = []
    for path in sorted(files, key=lambda path: path.stat().st_mtime_ns, reverse=True):
        try:
            checkpoint = load(path)
        except UserError as error:
            refused.append(str(error))
            continue
        if not isinstance(checkpoint.values.get("counters/steps"), int):
            refused.append(f"{path}: not a checkpoint of a run: it doesn't tell the steps")
            continue
        return Resumed(folder=folder, checkpoint=checkpoint, refused=tuple(refused))
    reason = "; ".join(refused) or "there is no checkpoint in its folder models"
    raise UserError(f"train.resume: {folder} can't go on: {reason}")
