"""Checkpoints: the states of a run's parts on disk, safe to load from a stranger.

A state is what a `state_dict` returns: a mapping of names to tensors, numbers, strings or further
states. The file holds one flat mapping, in which names that lie inside each other are joined by
slashes, as in `policy/nets.0.weight`.
"""

from __future__ import annotations

import os
import pickle
import zipfile
from collections.abc import Mapping
from pathlib import Path
from typing import Any, NamedTuple

import torch

from sde_harl.errors import UserError

Value = torch.Tensor | str | int | float
State = Mapping[str, Any]
"""Names -> `Value`, or a further `State`."""

DTYPES = (torch.float32, torch.float64, torch.int32, torch.int64, torch.uint8, torch.bool)
"""The types of tensors that our parts have."""


REFUSAL = "not a checkpoint, or one with more than tensors in it; refused"
# torch.load raises all of these for files that were cut short or are something else.
DAMAGED = (RuntimeError, EOFError, ValueError, KeyError, AttributeError, zipfile.BadZipFile)


class Checkpoint(NamedTuple):
    """Holds the values of a checkpoint's file."""

    path: Path
    values: dict[str, Value]
    """By their full names."""

    def holds(self, part: str) -> bool:
        """Returns True where the file has anything of a part."""
        return any(name.startswith(f"{part}/") for name in self.values)

    def take(self, part: str, like: State, spare: str = "") -> dict[str, Any]:
        """Returns the state of a part, which has the names and shapes of `like`.

        Names that contain `spare` may be more than `like` has; these are left out. Raises
        UserError, naming the file and the key, where anything else is missing, of another shape or
        more.
        """
        expected = flatten({part: like})
        found = {
            name: value
            for name, value in self.values.items()
            if name.startswith(f"{part}/") and (name in expected or not spare or spare not in name)
        }
        self._compare(found, expected)
        return _nest({name[len(part) + 1 :]: value for name, value in found.items()})

    def _compare(self, found: Mapping[str, Value], expected: Mapping[str, Value]) -> None:
        for name, value in expected.items():
            if name not in found:
                raise UserError(f"{self.path}: {name} is missing")
            # A number where a tensor is expected, or the other way round: `_shape` gives () for
            # a number and for a tensor without dimensions.
            if isinstance(found[name], torch.Tensor) != isinstance(value, torch.Tensor):
                raise UserError(f"{self.path}: {name!r} holds what no checkpoint of ours holds")
            theirs = _shape(found[name])
            ours = _shape(value)
            if theirs != ours:
                raise UserError(f"{self.path}: {name} is {theirs} where {ours} is needed")
        for name in found:
            if name not in expected:
                raise UserError(f"{self.path}: {name} has no place in this policy")


def save(path: Path, state: State) -> None:
    """Writes a checkpoint, all of the file or nothing.

    Raises UserError, naming the file, where it can't be written, and TypeError for a state that
    holds anything but tensors, numbers and strings.
    """
    flat = {name: _own(value) for name, value in flatten(state).items()}
    # Renamed when it is complete: a kill must not leave half a file under this name.
    part = path.with_name(f"{path.name}.part")
    try:
        with part.open("wb") as file:
            torch.save(flat, file)
            file.flush()
            os.fsync(file.fileno())
        os.replace(part, path)
    # torch's zip writer reports a full disk as RuntimeError.
    except (OSError, RuntimeError) as error:
        part.unlink(missing_ok=True)
        raise UserError(f"{path}: can't save the checkpoint: {_first_line(error)}") from error


def load(path: Path) -> Checkpoint:
    """Reads a checkpoint onto the CPU; no code in it is run.

    Raises UserError, naming the file, for anything but tensors, numbers and strings by name.
    """
    values: dict[str, Value] = {}
    for name, value in _read(path).items():
        if not isinstance(name, str) or not _is_plain(value):
            raise UserError(f"{path}: {name!r} holds what no checkpoint of ours holds")
        values[name] = value
    return Checkpoint(path, values)


def flatten(state: State) -> dict[str, Value]:
    """Returns the values of a state by their full names, as a file holds them."""
    flat: dict[str, Value] = {}
    for name, value in state.items():
        if isinstance(value, Mapping):
            flat |= {f"{name}/{below}": each for below, each in flatten(value).items()}
        elif _is_plain(value):
            flat[name] = value
        else:
            raise TypeError(f"{name}: a checkpoint can't hold a {type(value).__name__}")
    return flat


def _nest(flat: Mapping[str, Value]) -> dict[str, Any]:
    """Returns the state whose flat form is `flat`. A state without names has left no trace."""
    nested: dict[str, Any] = {}
    for name, value in flat.items():
        *above, last = name.split("/")
        place = nested
        for each in above:
            place = place.setdefault(each, {})
        place[last] = value
    return nested


def _read(path: Path) -> dict[Any, Any]:
    try:
        # weights_only: unpickling a stranger's objects would run the stranger's code.
        content = torch.load(path, map_location="cpu", weights_only=True)
    except OSError as error:
        raise UserError(f"{path}: can't read the checkpoint: {error.strerror or error}") from error
    except pickle.UnpicklingError as error:
        raise UserError(f"{path}: {REFUSAL}") from error
    except DAMAGED as error:
        raise UserError(f"{path}: damaged, or not a checkpoint: {_first_line(error)}") from error
    if not isinstance(content, dict):
        raise UserError(f"{path}: not a checkpoint of ours: it holds a {type(content).__name__}")
    return content


def _is_plain(value: object) -> bool:
    if isinstance(value, torch.Tensor):
        return value.layout == torch.strided and value.dtype in DTYPES
    return isinstance(value, (str, int, float))


def _own(value: Value) -> Value:
    """Returns a value without what else lies in a tensor's storage, which torch would save too."""
    if isinstance(value, torch.Tensor):
        return value.detach().cpu().clone()
    return value


def _shape(value: Value) -> tuple[int, ...]:
    if isinstance(value, torch.Tensor):
        return tuple(value.shape)
    return ()


def _first_line(error: Exception) -> str:
    return str(error).partition("\n")[0] or type(error).__name__
