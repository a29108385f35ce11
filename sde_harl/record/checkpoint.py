"""Checkpoints: the states of a run's parts on disk, safe to load from a stranger.

A state is what a `state_dict` returns: a mapping of names to tensors, numbers, strings or further
states. The file holds one flat mapping, in which names that lie inside each other are joined by
slashes, as in `policy/nets.0.weight`.

The file's format is that of the library safetensors: a header of names, types and shapes, which
must add up to the file's size, and then the tensors' bytes. Nothing in it can be executed, nothing
is compressed, and no tensor overlaps another, so a small file never asks for much memory. The
header's metadata hold the numbers and strings as JSON, and a SHA-256 of all contents.
"""

from __future__ import annotations

import hashlib
import json
import math
import os
import stat
from collections.abc import Mapping
from pathlib import Path
from typing import Any, NamedTuple

import torch
from safetensors import SafetensorError, safe_open
from safetensors.torch import save as to_safetensors

from sde_harl.errors import UserError
from sde_harl.meters.memory import host_bytes
from sde_harl.outside.text import strict_json

Value = torch.Tensor | str | int | float
State = Mapping[str, Any]
"""Names -> `Value`, or a further `State`."""

DTYPES = (torch.float32, torch.float64, torch.int32, torch.int64, torch.uint8, torch.bool)
"""The types of tensors that our parts have."""

FORMAT = "sde_harl checkpoint 1"
METADATA = ("format", "values", "sha256")
KINDS_OF_FILES = {
    b"PK\x03\x04": "it is torch.save's format, which earlier versions wrote",
    b"\x80": "it is a pickle, which could run a stranger's code",
}
"""By their first bytes, files that a user may take for a checkpoint."""


class Checkpoint(NamedTuple):
    """Holds the values of a checkpoint's file."""

    path: Path
    values: dict[str, Value]
    """By their full names. Tensors lie in the file, which is mapped; `take` copies them."""

    def holds(self, part: str) -> bool:
        """Returns True where the file has anything of a part."""
        return any(name.startswith(f"{part}/") for name in self.values)

    def take(self, part: str, like: State, spare: str = "") -> dict[str, Any]:
        """Returns the state of a part, which has the names, types and shapes of `like`.

        Names that contain `spare` may be more than `like` has; these are left out. Raises
        UserError, naming the file and the key, where anything else is missing, of another type or
        shape, or more.
        """
        expected = flatten({part: like})
        found = {
            name: value
            for name, value in self.values.items()
            if name.startswith(f"{part}/") and (name in expected or not spare or spare not in name)
        }
        self._compare(found, expected)
        # In the order of `expected`: a file sorts its names.
        return _nest({name[len(part) + 1 :]: _own(found[name]) for name in expected})

    def nested(self, part: str) -> dict[str, Any]:
        """Returns the state of a part whose shapes vary; whoever takes it checks it."""
        return _nest(
            {
                name[len(part) + 1 :]: _own(value)
                for name, value in self.values.items()
                if name.startswith(f"{part}/")
            }
        )

    def _compare(self, found: Mapping[str, Value], expected: Mapping[str, Value]) -> None:
        for name, value in expected.items():
            if name not in found:
                raise UserError(f"{self.path}: {name} is missing")
            theirs = _describe(found[name])
            ours = _describe(value)
            if theirs != ours:
                raise UserError(f"{self.path}: {name} is {theirs} where {ours} is needed")
        for name in found:
            if name not in expected:
                raise UserError(f"{self.path}: {name} has no place in this policy")


def save(path: Path, state: State) -> None:
    """Writes a checkpoint, all of the file or nothing.

    Raises UserError, naming the file, where it can't be written, and where a number in the state
    isn't finite: the file that was there before stays. Raises TypeError for a state that holds
    anything but tensors, numbers and strings.
    """
    flat = {name: _own(value) for name, value in flatten(state).items()}
    # Nets that hold NaN have learnt nothing that is worth the good ones of before.
    bad = _not_finite(flat)
    if bad:
        raise UserError(f"{path}: not saved: {bad} isn't finite; an earlier file stays as it was")
    content = _to_bytes(flat)
    # Renamed when it is complete: a kill must not leave half a file under this name.
    part = path.with_name(f"{path.name}.part")
    try:
        with part.open("wb") as file:
            file.write(content)
            file.flush()
            os.fsync(file.fileno())
        os.replace(part, path)
    except OSError as error:
        part.unlink(missing_ok=True)
        raise UserError(f"{path}: can't save the checkpoint: {error.strerror}") from error


def load(path: Path) -> Checkpoint:
    """Reads a checkpoint; no code in it is run.

    The tensors stay in the file until they are taken. Raises UserError, naming the file, for
    anything but a file that `save` has written and nobody has changed.
    """
    _check_file(path)
    try:
        values = _read(path)
    # ValueError: the metadata. RuntimeError: torch can't map the file.
    except (SafetensorError, OSError, RuntimeError, ValueError) as error:
        raise _refused(path, _first_line(error)) from error
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


def _to_bytes(flat: Mapping[str, Value]) -> bytes:
    tensors = {name: value for name, value in flat.items() if isinstance(value, torch.Tensor)}
    others = {name: value for name, value in flat.items() if name not in tensors}
    values = json.dumps(others)
    metadata = {"format": FORMAT, "values": values, "sha256": _digest(tensors, values)}
    return to_safetensors(tensors, metadata)


def _check_file(path: Path) -> None:
    """Raises UserError for what is no file of ours at first sight."""
    try:
        about = path.stat()
        # Asked first: to open a pipe would wait for its writer.
        if not stat.S_ISREG(about.st_mode):
            raise _refused(path, "it is no regular file")
        with path.open("rb") as file:
            beginning = file.read(9)
    except (OSError, ValueError) as error:  # ValueError: a null character in the name
        reason = getattr(error, "strerror", None) or error
        raise UserError(f"{path}: can't read the checkpoint: {reason}") from error
    # A file of ours begins with 8 bytes for the length of its header, which is JSON. One length in
    # 32 has a pickle's first byte.
    is_ours = beginning[8:] == b"{"
    for magic, kind in KINDS_OF_FILES.items():
        if beginning.startswith(magic) and not is_ours:
            raise _refused(path, kind)
    # Space that was never written takes no place on a disk, so a file can be as large as it likes.
    if about.st_size > host_bytes():
        raise _refused(path, f"{about.st_size:,} bytes don't fit into this host's memory")


def _read(path: Path) -> dict[str, Value]:
    """Returns all values. Raises ValueError, or an error of safetensors, where one is not ours."""
    # Opening checks that the header's shapes and types add up to the file's size.
    with safe_open(path, "pt") as file:
        metadata = file.metadata() or {}
        if metadata.keys() != set(METADATA) or metadata["format"] != FORMAT:
            raise ValueError(f"its header doesn't say {FORMAT!r}")
        tensors = {name: file.get_tensor(name) for name in file.keys()}  # noqa: SIM118
    if metadata["sha256"] != _digest(tensors, metadata["values"]):
        raise ValueError("its contents are not those of its SHA-256")
    others = strict_json(metadata["values"])
    if not isinstance(others, dict) or others.keys() & tensors.keys():
        raise ValueError("its numbers and strings are no map of names")
    values: dict[str, Value] = {**others, **tensors}
    odd = next((name for name, value in values.items() if not _is_plain(value)), None)
    if odd is not None:
        raise ValueError(f"{odd[:80]!r} is of a type that no part of a run has")
    bad = _not_finite(values)
    if bad:
        raise ValueError(f"{bad[:80]!r} isn't finite")
    return values


def _digest(tensors: Mapping[str, torch.Tensor], values: str) -> str:
    """Returns the SHA-256 of everything in a file: names, types, shapes, bytes, and the rest."""
    digest = hashlib.sha256(values.encode())
    for name in sorted(tensors):
        tensor = tensors[name]
        # Lengths are told by the type and the shape, so that no two contents give the same bytes.
        digest.update(f"\0{name}\0{tensor.dtype}{tuple(tensor.shape)}\0".encode())
        digest.update(tensor.reshape(-1).view(torch.uint8).numpy().data)
    return digest.hexdigest()


def _not_finite(flat: Mapping[str, Value]) -> str:
    """Returns the name of the first value that is NaN or infinite; empty where there is none."""
    for name, value in flat.items():
        if isinstance(value, torch.Tensor) and not bool(torch.isfinite(value).all()):
            return name
        if isinstance(value, float) and not math.isfinite(value):
            return name
    return ""


def _is_plain(value: object) -> bool:
    if isinstance(value, torch.Tensor):
        return value.layout == torch.strided and value.dtype in DTYPES
    if isinstance(value, int):
        return abs(value) < 1 << 63  # a record has no room for more
    return isinstance(value, (str, int, float))


def _own(value: Value) -> Value:
    """Returns a copy that shares memory with no live part, no file and no other tensor."""
    if isinstance(value, torch.Tensor):
        return value.detach().cpu().clone(memory_format=torch.contiguous_format)
    return value


def _describe(value: Value) -> str:
    """Returns type and shape: a number must not pass for a tensor, nor a float for an int."""
    if isinstance(value, torch.Tensor):
        return f"{str(value.dtype).removeprefix('torch.')} {tuple(value.shape)}"
    return type(value).__name__


def _refused(path: Path, why: str) -> UserError:
    return UserError(f"not a checkpoint of ours: {path}: {why}")


def _first_line(error: Exception) -> str:
    return str(error).partition("\n")[0] or type(error).__name__
