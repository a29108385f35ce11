"""Writes run.h5 from a queue in a thread of its own, so that the run never waits for the disk."""

from __future__ import annotations

import atexit
import json
import logging
import os
import queue
import threading
from collections.abc import Callable, Mapping
from pathlib import Path

import numpy.typing as npt

from sde_harl.errors import UserError
from sde_harl.record.columns import ColumnTypes
from sde_harl.record.schema import Trajectory
from sde_harl.record.segments import TRAJECTORIES
from sde_harl.record.store import LAZY_S, Close, Episode, Item, Store, TableRows
from sde_harl.record.trajectories import checked_copy

log = logging.getLogger(__name__)
QUEUE_ITEMS = 4096  # a disk slower than the run slows the run down instead of filling the memory
CLOSE_S = 60.0


class RunFile:
    """Writes run.h5. Calls copy what they are given and return at once; one thread writes.

    on_disk_full: with "stop", the call after a failed write raises UserError; with "continue",
    recording ends and the run goes on. rows_before: of a resumed run, how many rows of each table,
    and recorded episodes, come before this file. Raises UserError where the file can't be made.
    """

    def __init__(
        self,
        path: Path,
        meta: Mapping[str, str | int | float],
        on_disk_full: str,
        *,
        rows_before: Mapping[str, int] | None = None,
    ) -> None:
        self._rows = dict(rows_before or {})
        self._path = path
        self._stop = on_disk_full == "stop"
        self._failed: str | None = None
        self._types = ColumnTypes()
        self._closed = False
        self._queue: queue.Queue[Item] = queue.Queue(QUEUE_ITEMS)
        if self._rows:
            meta = {**meta, "before": json.dumps(self._rows)}
        self._store = _open_store(path, meta)
        # A daemon: Python waits for other threads before atexit's calls, here for ever.
        self._thread = threading.Thread(target=self._loop, name="run.h5", daemon=True)
        self._thread.start()
        # A writer that is still at work when Python ends crashes inside HDF5.
        atexit.register(self.close)

    @property
    def failed(self) -> str | None:
        """Says why recording ended early; None while all is well."""
        return self._failed

    def add(self, table: str, **columns: npt.ArrayLike) -> None:
        """Appends rows to a table: arrays of equal length, or scalars for one row.

        The first row names the columns of `training`; a slash in a name becomes a dot. A scalar
        that a later row lacks is NaN there. Raises ValueError as `ColumnTypes.arrays` does.
        """
        arrays = self._types.arrays(table, columns)
        rows = max(map(len, arrays.values()), default=0)
        if rows:
            self._put(TableRows(table=table, columns=arrays))
            self._rows[table] = self._rows.get(table, 0) + rows

    def rows(self) -> dict[str, int]:
        """Returns how many rows of each table the run has by now, and recorded episodes."""
        return dict(self._rows)

    def trajectory(self, trajectory: Trajectory) -> int:
        """Records one episode below /trajectories and returns its number.

        Raises ValueError for uneven lengths and for an agent whose name has a slash.
        """
        copy = checked_copy(trajectory)
        # Numbered here, not in the thread, so that the caller needn't wait for the number.
        number = self._rows.get(TRAJECTORIES, 0)
        self._rows[TRAJECTORIES] = number + 1
        self._put(Episode(number=number, trajectory=copy))
        return number

    def flush(self) -> Callable[[], None]:
        """Asks the thread to write everything given so far, without waiting for it.

        Returns a function that waits until it is on the disk, or until recording has failed.
        """
        # It follows the items in the queue, so when it is set, they are on the disk.
        done = threading.Event()
        self._put(done)

        def wait() -> None:
            done.wait()
            self._check()

        return wait

    def close(self) -> None:
        """Writes what is left and closes the file.

        Never raises, whatever the disk does; `failed` says if something is missing.
        """
        if self._closed:
            return
        self._closed = True
        atexit.unregister(self.close)  # it would keep this object in memory
        self._queue.put(Close())
        self._thread.join(CLOSE_S)
        if self._thread.is_alive():
            log.warning("%s: still not written after %.0f s, left open", self._path, CLOSE_S)

    def _put(self, item: Item) -> None:
        if self._closed:
            raise ValueError(f"{self._path} is closed")
        self._check()
        # Blocks where the queue is full: a slow disk must slow down the run (see QUEUE_ITEMS).
        self._queue.put(item)

    def _check(self) -> None:
        if self._failed is not None and self._stop:
            raise UserError(f"{self._path}: recording stopped: {self._failed}")

    def _loop(self) -> None:
        """Writes batches until the file is closed. Runs in the writer thread."""
        closing = False
        while not closing:
            batch = self._next_batch()
            closing = any(isinstance(item, Close) for item in batch)
            # After a failure the queue is still emptied: callers must not block on a full one.
            if self._failed is None:
                self._write(batch)
            for item in batch:
                if isinstance(item, threading.Event):
                    item.set()
        self._close_store()

    def _next_batch(self) -> list[Item]:
        """Returns everything in the queue; waits up to LAZY_S seconds for the first item.

        The batch may be empty: the store uses that moment to flush rows that have waited.
        """
        batch: list[Item] = []
        try:
            batch.append(self._queue.get(timeout=LAZY_S))
            while True:
                batch.append(self._queue.get_nowait())
        except queue.Empty:
            return batch

    def _write(self, batch: list[Item]) -> None:
        # Any failure ends recording, not the thread: callers of `flush` wait for the thread.
        try:
            self._store.take(batch)
        except Exception as error:
            self._fail(error)

    def _close_store(self) -> None:
        try:
            self._store.close()
        except Exception as error:
            self._fail(error)

    def _fail(self, error: Exception) -> None:
        # The first failure is the cause; later ones follow from it.
        if self._failed is not None:
            return
        self._failed = _first_line(error)
        log.warning(
            "%s: recording ended, the file keeps what was flushed before: %s",
            self._path,
            self._failed,
        )


def _open_store(path: Path, meta: Mapping[str, str | int | float]) -> Store:
    try:
        return Store(path, meta)
    # h5py reports what the disk says as either of the two.
    except (OSError, RuntimeError) as error:
        raise UserError(f"{path}: can't be made: {_first_line(error)}") from error


def _first_line(error: Exception) -> str:
    # h5py wraps an OSError of the disk in a long text of its own; errno has the short one.
    code = getattr(error, "errno", None)
    if code:
        return os.strerror(code)
    return str(error).partition("\n")[0] or type(error).__name__
