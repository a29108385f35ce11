"""Writes the groups and tables of run.h5 with h5py. One thread uses it.

A table is a group with one one-dimensional dataset for each column. A process killed between two
column headers leaves columns of unequal length, so a reader takes the shortest.

What survives kill -9: everything up to the last flush, and rows of later batches as far as their
columns are complete. disk.py orders the writes of a flush.

libver="latest" is not used: files that it writes don't open again after a kill unless SWMR is on,
and SWMR allows no new groups.
"""

from __future__ import annotations

import errno
import os
import threading
import time
from collections.abc import Iterable, Mapping
from pathlib import Path
from typing import NamedTuple

import h5py
import numpy as np

from sde_harl.record.disk import OrderedFile
from sde_harl.record.schema import (
    SCALAR,
    SCHEMA_VERSION,
    STEP,
    TABLES,
    Array,
    Column,
    Trajectory,
)
from sde_harl.record.seal import SEAL_BYTES, seal
from sde_harl.record.trajectories import write_unlinked

# A kill should not lose an episode, so these tables are flushed with the batch that brought rows.
PROMPT = ("episodes", "evaluations")
LAZY_S = 1.0  # the longest time that rows of the other tables wait for a flush
CHUNK_ROWS = 4096
CHUNK_ROWS_OF = {"decisions": 16384}
NO_CACHE = 0  # bytes
METADATA_BLOCK_BYTES = 1 << 16


class TableRows(NamedTuple):
    """Rows to append to one table."""

    table: str
    columns: dict[str, Array]  # each (K,)


class Episode(NamedTuple):
    """A recorded episode and its number in the file."""

    number: int
    trajectory: Trajectory


class Close(NamedTuple):
    """Asks the writer thread to write everything and end; always the last item."""


# An Event asks for a flush, and is set by the writer thread when the flush is done.
Item = TableRows | Episode | threading.Event | Close


class _Table:
    """Appends rows to the columns of one table."""

    def __init__(self, group: h5py.Group, columns: Mapping[str, Column], chunk: int) -> None:
        self.rows = 0
        self._chunk = chunk
        self._columns: dict[str, h5py.h5d.DatasetID] = {}
        for name, column in columns.items():
            dataset = _make_dataset(group, name, dtype=column.dtype, chunk=chunk)
            dataset.attrs["unit"] = column.unit
            dataset.attrs["description"] = column.description
            self._columns[name] = dataset.id

    def room(self) -> int:
        """Returns how many rows fit into the last chunk; a full chunk has the next one's room."""
        return self._chunk - self.rows % self._chunk

    def begins_chunk(self) -> bool:
        return self.rows % self._chunk == 0

    def append(self, arrays: Mapping[str, Array], rows: slice) -> None:
        """Writes these rows of the arrays behind the table's last row; they must fit `room`."""
        count = rows.stop - rows.start
        memory = h5py.h5s.create_simple((count,))
        # h5py's low-level calls: `dataset[a:b] = values` is slower for a few rows.
        for name, dataset in self._columns.items():
            dataset.set_extent((self.rows + count,))
            place = dataset.get_space()
            place.select_hyperslab((self.rows,), (count,))
            dataset.write(memory, place, arrays[name][rows])
        self.rows += count


def _make_dataset(group: h5py.Group, name: str, *, dtype: str, chunk: int) -> h5py.Dataset:
    return group.create_dataset(
        name,
        shape=(0,),
        dtype=dtype,
        maxshape=(None,),
        chunks=(chunk,),
        # Otherwise HDF5 writes each new chunk twice, once as zeros, through a cache.
        fill_time="never",
    )


class Store:
    """Holds the open file. Only one thread may use it at a time."""

    def __init__(self, path: Path, meta: Mapping[str, str | int | float]) -> None:
        """Makes the file with all its groups. Raises FileExistsError where `path` exists."""
        if path.exists():
            raise FileExistsError(errno.EEXIST, os.strerror(errno.EEXIST), str(path))
        # The file gets its name only when it can be read.
        part = path.with_name(path.name + ".part")
        self._path = path
        self._disk = OrderedFile(part, superblock=SEAL_BYTES)
        # Without a chunk cache, rows go straight to their place in an allocated chunk, and a flush
        # usually changes nothing but the length of each column.
        self._file = h5py.File(
            self._disk,
            "w",
            userblock_size=SEAL_BYTES,
            rdcc_nbytes=NO_CACHE,
            meta_block_size=METADATA_BLOCK_BYTES,
        )
        self._tables: dict[str, _Table] = {}
        self._pending: dict[str, list[dict[str, Array]]] = {}
        self._flushed = time.monotonic()
        self._make_groups(meta)
        self._flush()
        part.rename(path)

    def _make_groups(self, meta: Mapping[str, str | int | float]) -> None:
        group = self._file.create_group("meta")
        group.attrs["schema"] = SCHEMA_VERSION
        for key, value in meta.items():
            group.attrs[key] = value
        self._trajectories = self._file.create_group("trajectories")
        # All of them now, so that a reader finds every table even if a run ends early.
        for name, columns in TABLES.items():
            group = self._file.create_group(name)
            if columns:
                chunk = CHUNK_ROWS_OF.get(name, CHUNK_ROWS)
                self._tables[name] = _Table(group, columns, chunk)

    def _flush(self) -> None:
        self._file.flush()
        if self._disk.error is not None:
            raise self._disk.error

    def take(self, batch: Iterable[Item]) -> None:
        """Writes a batch.

        Episodes are written at once and flushed, and so are the tables in PROMPT. Rows of the other
        tables wait until LAZY_S seconds have passed, or until a flush or the end is asked for.
        Raises OSError for what the disk said.
        """
        episodes = []
        write_all = time.monotonic() - self._flushed >= LAZY_S
        for item in batch:
            if isinstance(item, TableRows):
                self._pending.setdefault(item.table, []).append(item.columns)
            elif isinstance(item, Episode):
                episodes.append(item)
            else:
                write_all = True
        self._write_tables(write_all)
        if episodes:
            self._write_trajectories(episodes)
        if write_all:
            self._flushed = time.monotonic()

    def _write_tables(self, write_all: bool) -> None:
        names = [name for name in self._pending if write_all or name in PROMPT]
        for name in names:
            self._write_rows(name)
        if names:
            self._flush()

    def _write_rows(self, name: str) -> None:
        # One write for all that has waited: HDF5's cost is for each call, hardly for each row.
        parts = self._pending.pop(name)
        arrays = {key: np.concatenate([part[key] for part in parts]) for key in parts[0]}
        if name not in self._tables:
            self._make_table(name, list(arrays))
        self._append(self._tables[name], arrays)

    def _append(self, table: _Table, arrays: Mapping[str, Array]) -> None:
        """Appends arrays (K,) to a table, one chunk after the other."""
        total = len(next(iter(arrays.values())))
        start = 0
        while start < total:
            # Flushed before the next chunk begins: a kill can then damage no chunk but the last,
            # and a reader still has those before it.
            if start and table.begins_chunk():
                self._flush()
            stop = min(total, start + table.room())
            table.append(arrays, slice(start, stop))
            start = stop

    def _make_table(self, name: str, column_names: list[str]) -> None:
        """Makes a table whose columns are named by its first row."""
        columns = {key: SCALAR._replace(description=key) for key in column_names}
        if "step" in columns:
            columns["step"] = STEP
        self._tables[name] = _Table(self._file[name], columns, CHUNK_ROWS)

    def _write_trajectories(self, episodes: list[Episode]) -> None:
        """Links the groups only after a flush: a killed process leaves no half-written episode."""
        groups = [write_unlinked(self._file, each.number, each.trajectory) for each in episodes]
        self._flush()
        for episode, group in zip(episodes, groups, strict=True):
            self._trajectories[f"episode_{episode.number}"] = group
        self._flush()

    def close(self) -> None:
        """Closes and seals the file. Raises OSError for what the disk said, if it failed."""
        self._file.close()
        self._disk.close()
        if self._disk.error is not None:
            raise self._disk.error
        seal(self._path)
