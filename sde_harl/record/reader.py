"""Reading a run's own record back: what it was, and the rows of a table. h5py and numpy alone."""

from __future__ import annotations

from pathlib import Path

import h5py
import numpy as np

from sde_harl.errors import UserError


def read_table(path: Path, name: str) -> dict[str, np.ndarray]:
    """A table's columns, all of one length; empty where it has no rows. Raises UserError where run.h5 can't be read.

    A killed writer leaves columns of unequal length: rows that some column lacks are left out.
    """
    with _Reading(path) as file:
        group = file.get(name)
        columns = (
            {key: np.asarray(data[:]) for key, data in group.items()}
            if isinstance(group, h5py.Group)
            else {}
        )
    rows = min((len(values) for values in columns.values()), default=0)
    return {key: values[:rows] for key, values in columns.items()} if rows else {}


def read_meta(path: Path) -> dict[str, str]:
    """The attributes of /meta as text. Raises UserError where the file is no run's."""
    with _Reading(path) as file:
        group = file.get("meta")
        if not isinstance(group, h5py.Group):
            raise UserError(f"{path}: not a run's record: it has no /meta")
        return {key: str(value) for key, value in group.attrs.items()}


class _Reading:
    """An open run.h5, without a lock: a run that still writes may be looked at."""

    def __init__(self, path: Path) -> None:
        self._path = path

    def __enter__(self) -> h5py.File:
        try:
            self._file = h5py.File(self._path, "r", locking=False)
        except OSError as error:
            raise self._unreadable(error) from error
        return self._file

    def __exit__(self, kind: object, error: BaseException | None, trace: object) -> None:
        self._file.close()
        if isinstance(error, (OSError, RuntimeError, KeyError)):
            raise self._unreadable(error) from error

    def _unreadable(self, error: Exception) -> UserError:
        if not self._path.exists():
            return UserError(f"{self._path}: no such file")
        return UserError(
            f"{self._path}: no run's record, or a damaged one: {str(error).partition(chr(10))[0]}"
        )
