"""Saves a run's checkpoints: where they belong, or elsewhere if a disk refuses them."""

from __future__ import annotations

import tempfile
from pathlib import Path

from sde_harl.errors import UserError
from sde_harl.outside.process import interruption, tell_terminal
from sde_harl.record.folder import remove_old
from sde_harl.training.checkpoint import Checkpoints
from sde_harl.training.run_logger import RunLogger


class Saver:
    """Writes the state after the last complete update into the run's folder."""

    def __init__(self, checkpoints: Checkpoints, logger: RunLogger, *, keep: int) -> None:
        """`keep`: how many numbered checkpoints stay, 0 for all."""
        self._checkpoints = checkpoints
        self._logger = logger
        self._keep = keep
        self.unsaved: str | None = None
        """Says what could not be saved where it belongs; None while all could."""

    def save(self, name: str, *, must_save: bool) -> None:
        """Saves `models/<name>.pt`.

        A disk that refuses it is an error only where it `must_save`; else it is told. Where another
        process goes on with the run, nothing is saved.
        """
        if self._logger.is_superseded:
            return  # the run's checkpoints are another process's
        path = self._logger.folder / "models" / f"{name}.pt"
        try:
            # A checkpoint tells how far the record is, so that must be on the disk first.
            self._logger.flush()
            # Before the checkpoint, which counts on it.
            self._checkpoints.store_beside(path.parent)
            self._checkpoints.save(path)
        except UserError as error:
            self.unsaved = str(error)
            self._logger.note(self.unsaved)
            self._save_elsewhere(path)
            if must_save:
                raise
        else:
            remove_old(path.parent, self._keep)
            if name == "last":
                self._tell(f"saved {path}")

    def _save_elsewhere(self, path: Path) -> None:
        """Saves on another disk, if there is one, what could not be saved at `path`."""
        spare = Path(tempfile.gettempdir()) / f"{self._logger.folder.name}-{path.name}"
        try:
            self._checkpoints.save(spare)
        except UserError as error:
            self._logger.note(str(error))
        else:
            self._tell(f"saved {spare} instead")

    def _tell(self, saved: str) -> None:
        self._logger.note(saved)
        if interruption.requested:
            tell_terminal(saved)
