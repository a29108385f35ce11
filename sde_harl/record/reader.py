"""Reads run.h5, complete or cut short by a kill. No other code opens the file to read it.

Importing this module needs nothing but h5py and numpy, so that a run can be looked at on a machine
that could not train.
"""

from __future__ import annotations

import os
from collections.abc import Collection, Iterable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any, NamedTuple

import h5py
import numpy as np

from sde_harl.errors import UserError
from sde_harl.outside.text import strict_json
from sde_harl.record.datasets import (
    array,
    attribute,
    check_texts,
    column,
    member,
    readable_rows,
    subgroup,
    values_of,
)
from sde_harl.record.finding import RUN_FILE
from sde_harl.record.meta_lists import ITEMS
from sde_harl.record.schema import (
    META,
    SCALAR,
    SCHEMA_VERSION,
    STEP,
    TABLES,
    Array,
    Column,
    Trajectory,
)
from sde_harl.record.seal import check_seal
from sde_harl.record.segments import TRAJECTORIES, checked_counts, joined, later_segments

if TYPE_CHECKING:
    import pandas

Columns = dict[str, Array]
MetaValue = str | int


class Segment(NamedTuple):
    """A further file of a run that was resumed."""

    path: Path
    rows_before: dict[str, int]
    """By table: the rows of earlier files that this one follows."""


@dataclass(frozen=True, kw_only=True)
class Run:
    """One run, of one file or, if it was resumed, of several.

    segments: the files that follow `path`, each with the rows of each table that come before it.
    meta: the attributes of /meta. Lists and objects are stored as JSON text; `json_list` reads one.
    """

    path: Path
    meta: dict[str, MetaValue]
    segments: tuple[Segment, ...] = ()

    def table(self, name: str) -> Columns:
        """Returns a table's columns as the schema has them, all of one length.

        The result is empty where the table is missing or has no rows. Raises UserError where it is
        damaged, and where a column is missing or isn't what the schema says.
        """
        columns = _table_of(self.path, name)
        for segment in self.segments:
            kept = segment.rows_before.get(name, 0)
            earlier = {key: values[:kept] for key, values in columns.items()}
            columns = joined(name, earlier, _table_of(segment.path, name))
        return columns

    def tail(self, name: str, rows: int, only: Collection[str] | None = None) -> Columns:
        """Returns the last rows of a table, of the last file that has any; empty where none has.

        It reads no others, and of the columns those in `only`, if that is given; so it can be
        asked every second about a run that goes on. An algorithm's scalar that the table lacks is
        left out. Raises UserError as `table` does, and where the writer was at work on that very
        place.
        """
        for path in reversed([self.path, *(segment.path for segment in self.segments)]):
            columns = _table_of(path, name, last=rows, only=only)
            if columns:
                return columns
        return {}

    def frame(self, name: str) -> pandas.DataFrame:
        """Returns a table as a pandas frame; `frame.attrs["units"]` has the unit of each column.

        Raises UserError as `table` does, for a table that no record has, and without pandas.
        """
        if name not in TABLES:
            raise UserError(f"{name!r}: no such table; there are: {', '.join(TABLES)}")
        try:
            import pandas
        except ImportError as error:
            raise UserError("frames need pandas: pip install 'sde_harl[pandas]'") from error
        columns = self.table(name)
        # Texts are bytes in the file.
        shown = {
            key: np.char.decode(values, errors="replace") if values.dtype.kind == "S" else values
            for key, values in columns.items()
        }
        frame = pandas.DataFrame(shown)
        frame.attrs["units"] = {key: each.unit for key, each in described(name, columns).items()}
        return frame

    def recorded_episodes(self) -> int:
        """Returns how many episodes /trajectories holds. Raises UserError where it is damaged."""
        last = self.path
        before = 0
        if self.segments:
            last = self.segments[-1].path
            before = self.segments[-1].rows_before.get(TRAJECTORIES, 0)
        with _open(last, "/trajectories is damaged") as file:
            return before + len(subgroup(file, TRAJECTORIES))

    def trajectory(self, number: int) -> Trajectory:
        """Returns a recorded episode. Raises UserError where the file doesn't hold all of it."""
        name = f"episode_{number}"
        files = [
            segment.path
            for segment in self.segments
            if segment.rows_before.get(TRAJECTORIES, 0) <= number
        ]
        with _open([self.path, *files][-1], f"/trajectories/{name} can't be read") as file:
            group = subgroup(subgroup(file, TRAJECTORIES), name)
            seed = attribute(group, "seed", int)
            if seed is None:
                raise ValueError("it has no seed")
            return Trajectory(
                observations=_arrays(subgroup(group, "observations")),
                actions=_arrays(subgroup(group, "actions")),
                rewards=array(group, "rewards"),
                terminations=array(group, "terminations"),
                truncations=array(group, "truncations"),
                seed=int(seed),
            )

    def json_list(self, name: str) -> list[Any]:
        """Returns a /meta attribute that holds a JSON list; empty where the attribute is missing.

        Raises UserError where it holds something else, or items that such a list never has.
        """
        try:
            value = strict_json(self.text(name, "[]"))
        except ValueError as error:
            raise UserError(f"{self.path}: /meta {name} isn't JSON: {error}") from error
        if not isinstance(value, list):
            raise UserError(f"{self.path}: /meta {name} isn't a list")
        if not all(map(ITEMS[name], value)):
            raise UserError(f"{self.path}: /meta {name} holds what no record of ours holds")
        return value

    def json_object(self, name: str) -> dict[str, Any]:
        """Returns a /meta attribute that holds a JSON object; empty where the attribute is missing.

        Raises UserError where it holds something else.
        """
        try:
            value = strict_json(self.text(name, "{}"))
        except ValueError as error:
            raise UserError(f"{self.path}: /meta {name} isn't JSON: {error}") from error
        if not isinstance(value, dict):
            raise UserError(f"{self.path}: /meta {name} isn't an object")
        return value

    def text(self, name: str, missing: str = "unknown") -> str:
        """Returns a /meta attribute as text."""
        return str(self.meta.get(name, missing))

    def number(self, name: str) -> int:
        """Returns a /meta attribute that is a whole number; 0 where it is missing."""
        return int(self.meta.get(name, 0))

    @property
    def env(self) -> str:
        return self.text("env")

    @property
    def algo(self) -> str:
        return self.text("algo")

    @property
    def codec(self) -> str:
        return self.text("codec")

    @property
    def emulated(self) -> str:
        """Says which links and devices are emulated, and as what; empty where none is."""
        return self.text("emulated", "")

    @property
    def seed(self) -> str:
        return self.text("seed", "?")

    @property
    def exp(self) -> str:
        """Names the experiment, which is the folder that holds the run's folder."""
        parents = self.path.resolve().parents
        if len(parents) < 2:
            return ""
        return parents[1].name


def open_run(given: str | os.PathLike[str]) -> Run:
    """Opens the record of a run, by its file or its folder, and reads /meta.

    Raises UserError where it is no run's record, or one of a later schema than is known here.
    """
    path = Path(given)
    if path.is_dir():
        path = path / RUN_FILE
    # h5py's own message for a missing file is long and full of its internals.
    if not path.exists():
        raise UserError(f"{path}: no such file")
    # Asked before it is opened: a pipe would wait for its writer.
    if not path.is_file():
        raise UserError(f"{path}: not a file")
    problem = "damaged, or not a run's record"
    try:
        check_seal(path)
        check_texts(path)
    except (OSError, ValueError) as error:  # ValueError: an empty file, too
        raise UserError(f"{path}: {problem}: {_first_line(error)}") from error
    with _open(path, problem) as file:
        group = subgroup(file, "meta")
        found = {name: attribute(group, name, kind) for name, kind in META.items()}
    meta = {name: value for name, value in found.items() if value is not None}
    # Records of earlier versions don't tell theirs.
    schema = int(meta.get("schema", SCHEMA_VERSION))
    if schema > SCHEMA_VERSION:
        raise UserError(
            f"/meta schema: expected {SCHEMA_VERSION} or less, got {schema} ({path}):"
            " a newer sde_harl wrote it, and can read it"
        )
    return Run(
        path=path,
        meta=meta,
        segments=tuple(map(_segment, later_segments(path))),
    )


def _segment(path: Path) -> Segment:
    run = open_run(path)
    try:
        return Segment(path=path, rows_before=checked_counts(strict_json(run.text("before", ""))))
    except ValueError as error:
        raise UserError(f"{path}: /meta before: {error}") from error


def _table_of(
    path: Path, name: str, last: int | None = None, only: Collection[str] | None = None
) -> Columns:
    """Returns a table's rows in one file: all, or about the `last` ones; its columns in `only`."""
    # Opened for each table: a comparison of hundreds of runs would keep too many files open.
    with _open(path, f"/{name} is damaged") as file:
        columns = _read_columns(file, name, last, only)
    # A killed writer leaves columns of unequal length: rows that one lacks are left out.
    rows = min((len(values) for values in columns.values()), default=0)
    if rows == 0:
        return {}
    return {key: values[:rows] for key, values in columns.items()}


@contextmanager
def _open(path: Path, problem: str) -> Iterator[h5py.File]:
    """Opens the file; turns whatever it raises into a UserError that names file and `problem`."""
    try:
        # No lock: a run that still writes may be looked at; each flush leaves a consistent file.
        with h5py.File(path, "r", locking=False) as file:
            yield file
    # All that happens inside is reading, and h5py raises nearly every kind of error for a damaged
    # file: a list of them would be short of one.
    except Exception as error:
        raise UserError(f"{path}: {problem}: {_first_line(error)}") from error


def _read_columns(
    file: h5py.File, name: str, last: int | None, only: Collection[str] | None
) -> Columns:
    group = member(file, name)
    if group is None:
        return {}
    if not isinstance(group, h5py.Group):
        raise ValueError("it is no table")
    expected = described(name, group)
    if only is not None:
        expected = {each: about for each, about in expected.items() if each in only}
    columns = {each: column(group, each, about) for each, about in expected.items()}
    rows = {each: readable_rows(data) for each, data in columns.items()}
    first = 0
    if last is not None:
        # One row for all columns: a writer at work leaves them of unequal lengths.
        first = max(0, min(rows.values(), default=0) - last)
    return {
        each: values_of(each, data, expected[each], first, rows[each])
        for each, data in columns.items()
    }


def described(table: str, names: Iterable[str]) -> dict[str, Column]:
    """Returns type, unit and meaning of a table's columns, by their names.

    An algorithm names its own scalars, so that `names` are asked for in `training` alone.
    """
    columns = TABLES[table] or {each: SCALAR for each in names}
    if "step" in columns:
        columns = {**columns, "step": STEP}
    return columns


def _arrays(group: h5py.Group) -> dict[str, Array]:
    return {name: array(group, name) for name in group}


def _first_line(error: Exception) -> str:
    # str() of a KeyError is its message in quotes.
    return str(error).strip("'\"").partition("\n")[0] or type(error).__name__
