"""Reads run.h5, complete or cut short by a kill. No other code opens the file to read it.

Importing this module needs nothing but h5py and numpy, so that a run can be looked at on a machine
that could not train.
"""

from __future__ import annotations

import json
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import h5py
import numpy as np

from sde_harl.errors import UserError
from sde_harl.record.schema import Array, Trajectory

Columns = dict[str, Array]
MetaValue = str | int | float

SWEEP_INDEX = "sweep.json"
"""The file in a sweep's folder that names its finished runs."""


@dataclass(frozen=True, kw_only=True)
class Run:
    """One run file.

    meta: the attributes of /meta. Lists and objects are stored as JSON text; `json_list` reads one.
    """

    path: Path
    meta: dict[str, MetaValue]

    def table(self, name: str) -> Columns:
        """Returns a table's columns, all of one length.

        The result is empty where the table is missing or has no rows. Raises UserError where the
        table is damaged.
        """
        # Opened for each table: a comparison of hundreds of runs would keep too many files open.
        with _open(self.path, f"/{name} is damaged") as file:
            columns = _read_columns(file.get(name))
        # A killed writer leaves columns of unequal length: rows that one lacks are left out.
        rows = min((len(values) for values in columns.values()), default=0)
        if rows == 0:
            return {}
        return {key: values[:rows] for key, values in columns.items()}

    def trajectory(self, number: int) -> Trajectory:
        """Returns a recorded episode. Raises UserError where the file doesn't hold all of it."""
        name = f"trajectories/episode_{number}"
        with _open(self.path, f"/{name} can't be read") as file:
            group = file[name]
            return Trajectory(
                observations={agent: data[:] for agent, data in group["observations"].items()},
                actions={agent: data[:] for agent, data in group["actions"].items()},
                rewards=group["rewards"][:],
                terminations=group["terminations"][:],
                truncations=group["truncations"][:],
                seed=int(group.attrs["seed"]),
            )

    def json_list(self, name: str) -> list[Any]:
        """Returns a /meta attribute that holds a JSON list; empty where the attribute is missing.

        Raises UserError where it holds something else.
        """
        try:
            value = json.loads(str(self.meta.get(name, "[]")))
        except ValueError as error:
            raise UserError(f"{self.path}: /meta {name} isn't JSON") from error
        if not isinstance(value, list):
            raise UserError(f"{self.path}: /meta {name} isn't a list")
        return value

    @property
    def env(self) -> str:
        return str(self.meta.get("env", "unknown"))

    @property
    def algo(self) -> str:
        return str(self.meta.get("algo", "unknown"))

    @property
    def codec(self) -> str:
        return str(self.meta.get("codec", "unknown"))

    @property
    def emulated(self) -> str:
        """Says which links and devices are emulated, and as what; empty where none is."""
        return str(self.meta.get("emulated", ""))

    @property
    def seed(self) -> str:
        return str(self.meta.get("seed", "?"))

    @property
    def exp(self) -> str:
        """Names the experiment, which is the folder that holds the run's folder."""
        parents = self.path.resolve().parents
        if len(parents) < 2:
            return ""
        return parents[1].name


def open_run(path: Path) -> Run:
    """Checks that the file is a run's and reads /meta. Raises UserError where it is not."""
    # h5py's own message for a missing file is long and full of its internals.
    if not path.exists():
        raise UserError(f"{path}: no such file")
    with _open(path, "damaged, or not an HDF5 file") as file:
        group = file.get("meta")
        if not isinstance(group, h5py.Group):
            raise UserError(f"{path}: not a run's record: it has no /meta")
        meta = {key: _plain(value) for key, value in group.attrs.items()}
    return Run(path=path, meta=meta)


def run_files(path: Path) -> list[Path]:
    """Returns the run files behind a path: the file itself, or a sweep folder's finished runs.

    Raises UserError for a folder that is not a sweep's.
    """
    if not path.is_dir():
        return [path]
    try:
        index = json.loads((path / SWEEP_INDEX).read_text(encoding="utf-8"))
        folders = dict(index["runs"]).values()
    except (OSError, ValueError, KeyError, TypeError) as error:
        raise UserError(
            f"{path}: neither a run.h5 nor the folder of a sweep: {SWEEP_INDEX} can't be read"
        ) from error
    return [path / str(folder) / "run.h5" for folder in folders]


@contextmanager
def _open(path: Path, problem: str) -> Iterator[h5py.File]:
    """Opens the file; turns h5py's errors into a UserError that names file and `problem`."""
    try:
        # No lock: a run that still writes may be looked at; each flush leaves a consistent file.
        with h5py.File(path, "r", locking=False) as file:
            yield file
    # Depending on what is damaged, h5py raises any of the three.
    except (OSError, RuntimeError, KeyError) as error:
        raise UserError(f"{path}: {problem}: {_first_line(error)}") from error


def _read_columns(group: object) -> Columns:
    if not isinstance(group, h5py.Group):
        return {}
    return {key: _read(data) for key, data in group.items() if isinstance(data, h5py.Dataset)}


def _read(data: h5py.Dataset) -> Array:
    """Returns the values; where the last chunk can't be read, those before it."""
    try:
        return np.asarray(data[:])
    except OSError:
        # A kill can leave a column whose length already counts a chunk that isn't on the disk.
        chunk = len(data)
        if data.chunks:
            chunk = data.chunks[0]
        readable = max(0, len(data) - 1) // chunk * chunk
        return np.asarray(data[:readable])


def _plain(value: object) -> MetaValue:
    """Returns an attribute as Python's own type; h5py gives numpy's."""
    if isinstance(value, bytes):
        return value.decode(errors="replace")
    if isinstance(value, np.generic):
        value = value.item()
    if isinstance(value, (str, int, float)):
        return value
    return str(value)


def _first_line(error: Exception) -> str:
    # str() of a KeyError is its message in quotes.
    return str(error).strip("'\"").partition("\n")[0]
