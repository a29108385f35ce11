"""The HDF5 side of run.h5: its groups and tables, used by one thread.

Tables are groups with one one-dimensional dataset a column. A process killed between two column headers leaves columns
of unequal length, so a reader takes the shortest. The chunk cache is off: rows go straight to their place in an
allocated chunk, and a flush in the steady state changes nothing but each column's length. Groups are built without a
name, flushed, and linked afterwards. disk.py orders what a flush writes. libver "latest" is not used: its files don't
open again after a kill unless SWMR is on.
"""

from __future__ import annotations

import errno
import os
import threading
import time
from collections.abc import Mapping
from pathlib import Path
from typing import NamedTuple

import h5py
import numpy as np

from sde_harl.record.disk import OrderedFile
from sde_harl.record.schema import STEP, TABLES, Array, Column, Trajectory

PROMPT = ("episodes", "evaluations")  # flushed with the batch that brought them
LAZY_S = 1.0  # the other tables wait this long at most
CHUNK_ROWS = 4096
CHUNK_ROWS_OF = {"decisions": 16384}


class TableRows(NamedTuple):
    table: str
    columns: dict[str, Array]


class Episode(NamedTuple):
    number: int
    trajectory: Trajectory


class Close(NamedTuple):
    """The last item of the queue."""


Item = TableRows | Episode | threading.Event | Close


class _Table:
    """The columns of one table on disk."""

    def __init__(self, group: h5py.Group, columns: Mapping[str, Column], chunk: int) -> None:
        self.rows = 0
        self.chunk = chunk
        self._columns: dict[str, h5py.h5d.DatasetID] = {}
        for name, column in columns.items():
            # fill_time never: otherwise HDF5 writes each new chunk twice, once as zeros, through a cache
            dataset = group.create_dataset(
                name, (0,), column.dtype, maxshape=(None,), chunks=(chunk,), fill_time="never"
            )
            dataset.attrs["unit"] = column.unit
            dataset.attrs["description"] = column.description
            self._columns[name] = dataset.id

    def append(self, arrays: Mapping[str, Array], start: int, stop: int) -> None:
        """Write rows start..stop of the arrays behind the last row; they stay inside one chunk."""
        count = stop - start
        memory = h5py.h5s.create_simple((count,))
        for name, dataset in self._columns.items():
            dataset.set_extent((self.rows + count,))
            place = dataset.get_space()
            place.select_hyperslab((self.rows,), (count,))
            dataset.write(memory, place, arrays[name][start:stop])
        self.rows += count


class Store:
    """The file itself; used by one thread at a time."""

    def __init__(self, path: Path, meta: Mapping[str, str | int | float]) -> None:
        if path.exists():
            raise FileExistsError(errno.EEXIST, os.strerror(errno.EEXIST), str(path))
        part = path.with_name(path.name + ".part")  # it has its name from the moment it can be read
        self._disk = OrderedFile(part)
        self._file = h5py.File(self._disk, "w", rdcc_nbytes=0, meta_block_size=1 << 16)
        self._tables: dict[str, _Table] = {}
        self._pending: dict[str, list[dict[str, Array]]] = {}
        self._flushed = time.monotonic()
        group = self._file.create_group("meta")
        for key, value in meta.items():
            group.attrs[key] = value
        self._trajectories = self._file.create_group("trajectories")
        for name, columns in TABLES.items():
            group = self._file.create_group(name)
            if columns:
                self._tables[name] = _Table(group, columns, CHUNK_ROWS_OF.get(name, CHUNK_ROWS))
        self._flush()
        part.rename(path)

    def _flush(self) -> None:
        self._file.flush()
        if self._disk.error is not None:
            raise self._disk.error

    def take(self, batch: list[Item]) -> None:
        """Write a batch: episodes at once with a flush behind them, other rows within LAZY_S seconds."""
        episodes = [item for item in batch if isinstance(item, Episode)]
        for item in batch:
            if isinstance(item, TableRows):
                self._pending.setdefault(item.table, []).append(item.columns)
        asked = any(isinstance(item, (threading.Event, Close)) for item in batch)
        everything = asked or time.monotonic() - self._flushed >= LAZY_S
        tables = [name for name in self._pending if everything or name in PROMPT]
        for name in tables:
            self._write(name)
        if tables:
            self._flush()
        if episodes:
            self._write_trajectories(episodes)
        if everything:
            self._flushed = time.monotonic()

    def _write(self, name: str) -> None:
        parts = self._pending.pop(name)
        arrays = {key: np.concatenate([part[key] for part in parts]) for key in parts[0]}
        if name not in self._tables:
            self._create(name, list(arrays))
        table, total, start = self._tables[name], len(next(iter(arrays.values()))), 0
        while start < total:
            if start and table.rows % table.chunk == 0:
                self._flush()
            stop = min(total, start + table.chunk - table.rows % table.chunk)
            table.append(arrays, start, stop)
            start = stop

    def _create(self, name: str, names: list[str]) -> None:
        columns = {key: STEP if key == "step" else Column("f8", "1", key) for key in names}
        self._tables[name] = _Table(self._file[name], columns, CHUNK_ROWS)

    def _write_trajectories(self, episodes: list[Episode]) -> None:
        groups = [self._nameless(episode) for episode in episodes]
        self._flush()
        for episode, group in zip(episodes, groups, strict=True):
            self._trajectories[f"episode_{episode.number}"] = group
        self._flush()

    def _nameless(self, episode: Episode) -> h5py.Group:
        trajectory, group = episode.trajectory, self._file.create_group(None)
        group.attrs["id"] = episode.number
        group.attrs["seed"] = trajectory.seed
        group.attrs["total_steps"] = len(trajectory.rewards)
        for name in ("observations", "actions"):
            agents = group.create_group(name)
            for agent, values in getattr(trajectory, name).items():
                agents.create_dataset(agent, data=values)
        for name in ("rewards", "terminations", "truncations"):
            group.create_dataset(name, data=getattr(trajectory, name))
        group.create_group("infos")
        return group

    def close(self) -> None:
        """Close the file; raises what the disk said, if it failed."""
        self._file.close()
        self._disk.close()
        if self._disk.error is not None:
            raise self._disk.error
