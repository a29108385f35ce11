"""Stores a replay beside a run's checkpoints, and brings it back.

The folder holds the arrays as they are, one file each, of which only what is new is written. A
checkpoint tells up to which entry its run had come. The files may be one rollout ahead of it, where
an update was interrupted: that rollout is played again, the same, and written over itself. Files
that are of another moment, such as those of a later checkpoint, are refused; so are those of a run
that was killed while it wrote several rollouts over old ones.

Nothing in the files can be executed; sizes and values are checked before they are used.

E environments, R rows.
"""

from __future__ import annotations

import json
from collections.abc import Iterator
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
from numpy.typing import NDArray

from sde_harl.buffers.replay import Replay
from sde_harl.envs.base import EnvSpec
from sde_harl.errors import UserError
from sde_harl.outside.text import read_text, strict_json

ABOUT = "about.json"
MOST_BYTES = 1 << 24
"""Size of the largest description: two numbers for each of 65,536 environments, and to spare."""
CHUNK = 1 << 16
"""Rows that are read and checked at a time."""


class Place(NamedTuple):
    """How far the files are."""

    before: list[int]
    """(E,) entries of each stream before the last rollout."""
    after: list[int]
    """(E,) entries of each stream."""


class ReplayFile:
    """The files of one replay."""

    def __init__(self, replay: Replay, spec: EnvSpec) -> None:
        self._replay = replay
        self._spec = spec
        # (E,) entries that the files have; None before they are made.
        self._written: NDArray[np.int64] | None = None

    def store(self, folder: Path) -> None:
        """Writes what is new. Raises UserError where the disk refuses it."""
        replay = self._replay
        try:
            folder.mkdir(exist_ok=True)
            if self._replaces_old_rows():
                # Killed in the middle, the files would be of no moment at all.
                (folder / ABOUT).unlink(missing_ok=True)
            first = replay.place.after - replay.length
            if self._written is not None:
                first = np.maximum(first, self._written)
            first = np.maximum(first, 0)
            for name, array in replay.raw().items():
                # What was written before may have turned out to be of a void episode, or of one
                # that was broken off.
                whole = name in ("learnable", "ended")
                _write(folder / name, array, None if whole else self._spans(first))
            place = Place(replay.place.before.tolist(), replay.place.after.tolist())
            part = folder / f"{ABOUT}.part"
            part.write_text(json.dumps({"layout": replay.layout(), **place._asdict()}))
            part.replace(folder / ABOUT)
        except OSError as error:
            raise UserError(f"{folder}: can't store the replay: {error.strerror}") from error
        self._written = replay.place.after.copy()

    def _replaces_old_rows(self) -> bool:
        """Returns True if `store` overwrites what the checkpoint before it needs.

        One rollout is played again after that checkpoint, and written over itself; more are not.
        """
        place = self._replay.place
        if self._written is None or (place.after <= self._replay.length).all():
            return False
        return bool((self._written < place.before).any())

    def restore(self, folder: Path) -> None:
        """Brings the replay back; its own counters say from which moment.

        Raises UserError where the files are damaged, or of another moment or run.
        """
        replay = self._replay
        wanted = replay.place.after.tolist()
        try:
            place = self._place(folder / ABOUT)
            if wanted not in place:
                raise ValueError("it is of another moment than the checkpoint")
            for name, array in replay.raw().items():
                self._read(folder / name, array)
        except OSError as error:
            raise UserError(f"{folder}: can't read the replay: {error.strerror}") from error
        except ValueError as error:
            raise UserError(f"{folder}: not the replay of this run: {error}") from error
        self._written = replay.place.after.copy()

    def _spans(self, first: NDArray[np.int64]) -> list[slice]:
        """Returns the rows of each stream from number `first` (E,) on, one or two slices each."""
        length = self._replay.length
        spans = []
        for e, (start, stop) in enumerate(zip(first, self._replay.place.after)):
            own = e * length
            until_end = min(stop - start, length - start % length)
            spans.append(slice(own + start % length, own + start % length + until_end))
            spans.append(slice(own, own + stop - start - until_end))
        return [each for each in spans if each.stop > each.start]

    def _place(self, path: Path) -> Place:
        about = strict_json(read_text(path, MOST_BYTES))
        if not isinstance(about, dict) or set(about) != {"layout", "before", "after"}:
            raise ValueError(f"{path.name} has other keys")
        if about["layout"] != self._replay.layout():
            raise ValueError("its arrays are of other sizes or types")
        return Place(before=about["before"], after=about["after"])

    def _read(self, path: Path, array: NDArray[Any]) -> None:
        """Reads a file into an array (R, ...) by chunks. Raises ValueError for wrong values."""
        if path.stat().st_size != array.nbytes:
            raise ValueError(f"{path.name} is of another size")
        with path.open("rb") as file:
            for start in range(0, len(array), CHUNK):
                part = array[start : start + CHUNK]
                read = np.fromfile(file, array.dtype, part.size).reshape(part.shape)
                for name, values in _fields(path.name, read):
                    if not self._possible(name, values):
                        raise ValueError(f"{name} holds a number that it can't")
                part[:] = read

    def _possible(self, name: str, values: NDArray[Any]) -> bool:
        if values.dtype == bool:
            return bool((values.view(np.uint8) <= 1).all())
        if values.dtype.kind == "f":
            return bool(np.isfinite(values).all())
        if name == "actions":
            return bool((values.astype(np.uint32) < np.array(self._spec.branches)).all())
        return True


def _fields(name: str, values: NDArray[Any]) -> Iterator[tuple[str, NDArray[Any]]]:
    """Yields a file's array, or the arrays of the fields that lie together in it."""
    if values.dtype.names is None:
        yield name, values
        return
    for field in values.dtype.names:
        yield field, values[field]


def _write(path: Path, array: NDArray[Any], spans: list[slice] | None) -> None:
    """Writes some rows of an array in their places of a file, or all of them."""
    path.touch()
    with path.open("r+b") as file:
        # Not mapped into memory: a full disk would end the process instead of an error.
        file.truncate(array.nbytes)
        row = array.nbytes // len(array)
        for span in spans if spans is not None else [slice(0, len(array))]:
            file.seek(span.start * row)
            file.write(np.ascontiguousarray(array[span]).tobytes())
