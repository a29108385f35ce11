"""The record of a run: its folder, and run.h5 behind a queue and one writer thread."""

from __future__ import annotations

import atexit
import itertools
import logging
import os
import queue
import threading
from collections.abc import Callable, Mapping
from datetime import datetime
from pathlib import Path

import numpy as np
import numpy.typing as npt

from sde_harl.errors import UserError
from sde_harl.record.schema import TABLES, Array, Trajectory
from sde_harl.record.store import LAZY_S, Close, Episode, Item, Store, TableRows

log = logging.getLogger(__name__)
QUEUE_ITEMS = 4096  # a disk slower than the run slows the run down instead of filling the memory
CLOSE_S = 60.0


def run_folder(base: Path, env: str, task: str, algo: str, exp: str, seed: int) -> Path:
    """Make and return base/env/task/algo/exp/seed-<seed>-<time>, with -1, -2, ... behind it where that one exists.

    Raises UserError for a name that isn't one folder's, and where the folder can't be made.
    """
    for name in (env, task, algo, exp):
        if name in ("", ".", "..") or "/" in name:
            raise UserError(f"{name!r} can't be part of a results folder's name")
    parent = base / env / task / algo / exp
    stem = f"seed-{seed}-{datetime.now():%Y%m%d-%H%M%S}"
    for k in itertools.count():
        folder = parent / (f"{stem}-{k}" if k else stem)
        try:
            parent.mkdir(parents=True, exist_ok=True)
            folder.mkdir()
            return folder
        except FileExistsError as error:
            if not folder.exists():  # then a file stands where a parent should
                raise UserError(f"{parent}: {error.strerror}") from error
        except OSError as error:
            raise UserError(f"{folder}: results can't be written here: {error.strerror}") from error
    raise AssertionError("unreachable: the count is endless")


class RunFile:
    """Writes run.h5. Calls copy what they are given and return at once; one thread writes.

    on_disk_full: "stop": the call after a failed write raises UserError; "continue": recording ends, the run goes on.
    Raises UserError where the file can't be made.
    """

    def __init__(
        self, path: Path, meta: Mapping[str, str | int | float], on_disk_full: str
    ) -> None:
        if on_disk_full not in ("stop", "continue"):
            raise ValueError(f"on_disk_full: {on_disk_full!r} is neither stop nor continue")
        self._path, self._stop = path, on_disk_full == "stop"
        self._failed: str | None = None
        self._columns = {
            name: {key: c.dtype for key, c in columns.items()} for name, columns in TABLES.items()
        }
        self._episodes = 0
        self._closed = False
        self._queue: queue.Queue[Item] = queue.Queue(QUEUE_ITEMS)
        try:
            self._store = Store(path, meta)
        except (OSError, RuntimeError) as error:
            raise UserError(f"{path}: can't be made: {_first_line(error)}") from error
        self._thread = threading.Thread(target=self._loop, name="run.h5", daemon=True)
        self._thread.start()
        atexit.register(
            self.close
        )  # a writer that is still at work when Python ends crashes inside HDF5

    @property
    def failed(self) -> str | None:
        """Why recording ended early; None while all is well."""
        return self._failed

    def add(self, table: str, **columns: npt.ArrayLike) -> None:
        """Append rows: arrays of equal length, or scalars for one row.

        The first row names the columns of `training`; a slash in a name becomes a dot. A scalar that a later row lacks
        is NaN there.

        Raises ValueError for an unknown table, unknown or missing columns, uneven lengths, or a type that would lose
        its meaning (a fraction in a whole-number column).
        """
        if table not in TABLES:
            raise ValueError(f"no table {table!r}: one of {', '.join(TABLES)}")
        columns = {
            name.replace("/", "."): value for name, value in columns.items()
        }  # HDF5 would make a group of a/b
        types = self._columns[table] or {key: "i8" if key == "step" else "f8" for key in columns}
        if table == "training" and "step" in columns:
            columns = {**dict.fromkeys(types, np.nan), **columns}
        if columns.keys() != types.keys():
            raise ValueError(f"{table}: columns {sorted(columns)} are not {sorted(types)}")
        rows = {key: _column(f"{table}.{key}", value, types[key]) for key, value in columns.items()}
        lengths = {len(values) for values in rows.values()}
        if len(lengths) != 1:
            raise ValueError(f"{table}: columns of {sorted(lengths)} rows in one call")
        self._columns[table] = types
        if lengths != {0}:
            self._put(TableRows(table, rows))

    def trajectory(self, trajectory: Trajectory) -> int:
        """Record one episode below /trajectories and return its number k. Raises ValueError for uneven lengths and
        for agents' names with a slash."""
        if any("/" in agent for agent in (*trajectory.observations, *trajectory.actions)):
            raise ValueError("a slash in an agent's name")
        steps = len(trajectory.rewards)
        actions = trajectory.actions.values()
        whole = [*actions, trajectory.terminations, trajectory.truncations]
        if any(len(a) != steps for a in whole) or any(
            len(o) != steps + 1 for o in trajectory.observations.values()
        ):
            raise ValueError(
                f"a trajectory of {steps} rewards needs as many actions and one observation more"
            )
        copy = trajectory._replace(
            observations={agent: np.array(o) for agent, o in trajectory.observations.items()},
            actions={agent: np.array(a) for agent, a in trajectory.actions.items()},
            rewards=np.array(trajectory.rewards),
            terminations=np.array(trajectory.terminations),
            truncations=np.array(trajectory.truncations),
        )
        number = self._episodes
        self._episodes += 1
        self._put(Episode(number, copy))
        return number

    def flush(self) -> Callable[[], None]:
        """Bring everything given so far to the file; what this returns waits until it is there, or recording failed."""
        done = threading.Event()
        self._put(done)

        def wait() -> None:
            done.wait()
            self._check()

        return wait

    def close(self) -> None:
        """Write what is left and close. Never raises, whatever the disk does; `failed` says if something is missing."""
        if self._closed:
            return
        self._closed = True
        atexit.unregister(self.close)
        self._queue.put(Close())
        self._thread.join(CLOSE_S)
        if self._thread.is_alive():
            log.warning("%s: still not written after %.0f s, left open", self._path, CLOSE_S)

    def _put(self, item: Item) -> None:
        if self._closed:
            raise ValueError(f"{self._path} is closed")
        self._check()
        self._queue.put(item)

    def _check(self) -> None:
        if self._failed is not None and self._stop:
            raise UserError(f"{self._path}: recording stopped: {self._failed}")

    def _loop(self) -> None:
        open_ = True
        while open_:
            batch = self._drain()
            open_ = not any(isinstance(item, Close) for item in batch)
            if self._failed is None:
                self._write(batch)
            for item in batch:
                if isinstance(item, threading.Event):
                    item.set()
        try:
            self._store.close()
        except Exception as error:
            self._fail(error)

    def _drain(self) -> list[Item]:
        """Everything in the queue: at least one item, or none after LAZY_S seconds of silence."""
        batch: list[Item] = []
        try:
            batch.append(self._queue.get(timeout=LAZY_S))
            while True:
                batch.append(self._queue.get_nowait())
        except queue.Empty:
            return batch

    def _write(self, batch: list[Item]) -> None:
        """Any failure ends recording, not the thread: callers wait for it."""
        try:
            self._store.take(batch)
        except Exception as error:
            self._fail(error)

    def _fail(self, error: Exception) -> None:
        if self._failed is None:
            self._failed = _first_line(error)
            log.warning(
                "%s: recording ended, the file keeps what was flushed before: %s",
                self._path,
                self._failed,
            )


def _first_line(error: Exception) -> str:
    code = getattr(error, "errno", None)
    return os.strerror(code) if code else str(error).partition("\n")[0] or type(error).__name__


def _column(name: str, value: npt.ArrayLike, dtype: str) -> Array:
    """A copy of `value` as a 1-d array of `dtype`. Raises ValueError, naming the column, if it doesn't fit."""
    array = np.atleast_1d(np.asarray(value))
    if array.ndim != 1:
        raise ValueError(f"{name}: {array.ndim} dimensions where one is stored")
    if dtype.startswith("S"):
        return np.array([str(text).encode() for text in array], dtype=dtype)
    if not np.can_cast(array.dtype, dtype, casting="same_kind"):
        raise ValueError(f"{name}: {array.dtype} can't be stored as {dtype}")
    stored: Array = array.astype(dtype)  # a copy
    return stored
