"""Reading run.h5, whole or cut short by a kill. Needs h5py and numpy alone."""

from __future__ import annotations

import json
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import h5py
import numpy as np
import numpy.typing as npt

Array = npt.NDArray[Any]
Columns = dict[str, Array]


class RunFileError(Exception):
    """A file that is no readable run; the message is one line that names it."""


@dataclass(frozen=True)
class Run:
    """One run file. meta: the attributes of /meta, JSON lists and objects as text; see `listed`."""

    path: Path
    meta: dict[str, Any]

    def table(self, name: str) -> Columns:
        """A table's columns, all of one length; empty where the table is missing or has no rows.

        A killed writer leaves columns of unequal length: rows that some column lacks are left out.
        """
        try:
            with _open(self.path) as file:
                group = file.get(name)
                members = group.items() if isinstance(group, h5py.Group) else ()
                columns = {
                    key: _column(data) for key, data in members if isinstance(data, h5py.Dataset)
                }
        except (OSError, RuntimeError, KeyError) as error:
            raise RunFileError(f"{self.path}: /{name} is damaged: {_first_line(error)}") from error
        rows = min((len(values) for values in columns.values()), default=0)
        return {key: values[:rows] for key, values in columns.items()} if rows else {}

    def listed(self, name: str) -> list[Any]:
        """A /meta attribute that is a JSON list; empty where it is missing. Raises RunFileError if it is no list."""
        try:
            value = json.loads(str(self.meta.get(name, "[]")))
        except ValueError as error:
            raise RunFileError(f"{self.path}: /meta {name} isn't JSON") from error
        if not isinstance(value, list):
            raise RunFileError(f"{self.path}: /meta {name} isn't a list")
        return value

    @property
    def env(self) -> str:
        return str(self.meta.get("env", "unknown"))

    @property
    def algo(self) -> str:
        return str(self.meta.get("algo", "unknown"))

    @property
    def emulated(self) -> str:
        """What links and devices are meant to be; empty: nothing is emulated."""
        return str(self.meta.get("emulated", ""))

    @property
    def seed(self) -> str:
        return str(self.meta.get("seed", "?"))

    @property
    def exp(self) -> str:
        """The experiment, which is the name of the folder that holds the run's."""
        parents = self.path.resolve().parents
        return parents[1].name if len(parents) > 1 else ""


def run_files(path: Path) -> list[Path]:
    """The files to open for what was named: a sweep's folder stands for its finished runs. Raises RunFileError."""
    if not path.is_dir():
        return [path]
    index = path / "sweep.json"
    try:
        runs = json.loads(index.read_text(encoding="utf-8"))["runs"]
        return [path / str(folder) / "run.h5" for folder in dict(runs).values()]
    except (OSError, ValueError, KeyError, TypeError) as error:
        raise RunFileError(
            f"{path}: neither a run.h5 nor the folder of a sweep: {index.name} can't be read"
        ) from error


def open_run(path: Path) -> Run:
    """Check that the file is a run's and read /meta. Raises RunFileError."""
    if not path.exists():
        raise RunFileError(f"{path}: no such file")
    try:
        with _open(path) as file:
            group = file.get("meta")
            if not isinstance(group, h5py.Group):
                raise RunFileError(f"{path}: not a run's record: it has no /meta")
            return Run(path, {key: _plain(value) for key, value in group.attrs.items()})
    except (OSError, RuntimeError, KeyError) as error:
        raise RunFileError(f"{path}: damaged, or not an HDF5 file: {_first_line(error)}") from error


def _open(path: Path) -> h5py.File:
    # No lock: a run that is still writing may be looked at; its file is whole after every flush.
    return h5py.File(path, "r", locking=False)


def _column(data: h5py.Dataset) -> Array:
    """The values; where the last chunk can't be read, those before it."""
    try:
        return np.asarray(data[:])
    except OSError:
        step = data.chunks[0] if data.chunks else len(data)
        whole = max(0, len(data) - 1) // step * step
        return np.asarray(data[:whole])


def _plain(value: Any) -> Any:
    return (
        value.decode(errors="replace")
        if isinstance(value, bytes)
        else getattr(value, "item", lambda: value)()
    )


def _first_line(error: Exception) -> str:
    return str(error).strip("'\"").partition("\n")[0]
