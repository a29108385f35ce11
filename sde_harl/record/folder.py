"""Makes the folder of a run."""

from __future__ import annotations

import itertools
from datetime import datetime
from pathlib import Path

from sde_harl.errors import UserError


def make_run_folder(base: Path, *, env: str, task: str, algo: str, exp: str, seed: int) -> Path:
    """Makes and returns base/env/task/algo/exp/seed-<seed>-<time>.

    Where that folder exists, -1, -2, ... follow the time. Raises UserError for a name that isn't
    the name of one folder, and where the folder can't be made.
    """
    for name in (env, task, algo, exp):
        if name in ("", ".", "..") or "/" in name:
            raise UserError(f"{name!r} can't be part of a results folder's name")
    parent = base / env / task / algo / exp
    stem = f"seed-{seed}-{datetime.now():%Y%m%d-%H%M%S}"
    # Trying is the only test that holds when two runs start in the same second.
    for folder in _candidates(parent, stem):
        try:
            parent.mkdir(parents=True, exist_ok=True)
            folder.mkdir()
            return folder
        except FileExistsError as error:
            if not folder.exists():  # then a file stands where a parent should be
                raise UserError(f"{parent}: {error.strerror}") from error
        except OSError as error:
            raise UserError(f"{folder}: results can't be written here: {error.strerror}") from error
    raise AssertionError("unreachable: there is always another candidate")


def runs_of(base: Path, *, env: str, task: str, algo: str, exp: str, seed: int) -> list[Path]:
    """Returns the folders that `make_run_folder` made for these names, the newest first."""
    folders = [*(base / env / task / algo / exp).glob(f"seed-{seed}-*")]
    return sorted(folders, key=lambda folder: folder.stat().st_mtime_ns, reverse=True)


def remove_old(models: Path, keep: int) -> None:
    """Removes all numbered checkpoints but the newest `keep`; with 0 it removes none."""
    if not keep:
        return
    numbered = [path for path in models.glob("*.pt") if path.stem.isdecimal()]
    for path in sorted(numbered, key=lambda path: int(path.stem))[:-keep]:
        path.unlink(missing_ok=True)


def _candidates(parent: Path, stem: str) -> itertools.chain[Path]:
    numbered = (parent / f"{stem}-{number}" for number in itertools.count(1))
    return itertools.chain([parent / stem], numbered)
