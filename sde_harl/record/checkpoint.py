"""Checkpoints: named tensors and a few plain values, safe to load from a stranger."""

from __future__ import annotations

import os
import pickle
import zipfile
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import torch

from sde_harl.errors import UserError

Meta = str | int | float
TENSOR, META = "tensor/", "meta/"
DTYPES = (torch.float32, torch.float64, torch.int32, torch.int64, torch.uint8, torch.bool)


def save(path: Path, tensors: Mapping[str, torch.Tensor], meta: Mapping[str, Meta]) -> None:
    """Write a checkpoint whole or not at all. Raises UserError, naming the file, where it can't be written."""
    # clone: a view would drag the whole of its storage into the file
    flat: dict[str, Any] = {
        TENSOR + name: tensor.detach().cpu().clone() for name, tensor in tensors.items()
    }
    flat.update({META + name: value for name, value in meta.items()})
    part = path.with_name(f"{path.name}.part")
    try:
        with part.open("wb") as file:
            torch.save(flat, file)
            file.flush()
            os.fsync(file.fileno())
        os.replace(part, path)
    except (
        OSError,
        RuntimeError,
    ) as error:  # torch's zip writer reports a full disk as RuntimeError
        part.unlink(missing_ok=True)
        raise UserError(f"{path}: can't save the checkpoint: {_first_line(error)}") from error


def load(
    path: Path,
    expected: Mapping[str, tuple[int, ...]] | None,
    spare: tuple[str, ...] = (),
    optional: str = "",
) -> tuple[dict[str, torch.Tensor], dict[str, Meta]]:
    """Read a checkpoint onto the CPU; no code in it is run.

    expected: shapes by name; the file must hold these tensors and no others, but for those whose names hold one of
    `spare`: where they aren't expected, they are left out. Those whose names begin with `optional` it may lack, all of
    them or none. Raises UserError, naming the file and the key, for anything else than a checkpoint of these shapes.
    """
    tensors: dict[str, torch.Tensor] = {}
    meta: dict[str, Meta] = {}
    for key, value in _read(path).items():
        if isinstance(key, str) and key.startswith(TENSOR) and _is_plain(value):
            tensors[key[len(TENSOR) :]] = value
        elif isinstance(key, str) and key.startswith(META) and isinstance(value, (str, int, float)):
            meta[key[len(META) :]] = value
        else:
            raise UserError(f"{path}: {key!r} holds what no checkpoint of ours holds")
    if expected is not None:
        left_out = {
            name for name in tensors if name not in expected and any(part in name for part in spare)
        }
        tensors = {name: each for name, each in tensors.items() if name not in left_out}
        if optional and not any(name.startswith(optional) for name in tensors):
            expected = {
                name: shape for name, shape in expected.items() if not name.startswith(optional)
            }
        _compare(path, tensors, expected)
    return tensors, meta


def _read(path: Path) -> dict[Any, Any]:
    try:
        content = torch.load(path, map_location="cpu", weights_only=True)
    except OSError as error:
        raise UserError(f"{path}: can't read the checkpoint: {error.strerror or error}") from error
    except pickle.UnpicklingError as error:
        raise UserError(
            f"{path}: not a checkpoint, or one with more than tensors in it; refused"
        ) from error
    except (
        RuntimeError,
        EOFError,
        ValueError,
        KeyError,
        AttributeError,
        zipfile.BadZipFile,
    ) as error:
        raise UserError(f"{path}: damaged, or not a checkpoint: {_first_line(error)}") from error
    if not isinstance(content, dict):
        raise UserError(f"{path}: not a checkpoint of ours: it holds a {type(content).__name__}")
    return content


def _is_plain(value: object) -> bool:
    return (
        isinstance(value, torch.Tensor) and value.layout == torch.strided and value.dtype in DTYPES
    )


def _compare(
    path: Path, tensors: Mapping[str, torch.Tensor], expected: Mapping[str, tuple[int, ...]]
) -> None:
    for name, shape in expected.items():
        if name not in tensors:
            raise UserError(f"{path}: {name} is missing")
        if tuple(tensors[name].shape) != tuple(shape):
            raise UserError(
                f"{path}: {name} is {tuple(tensors[name].shape)} where {tuple(shape)} is needed"
            )
    for name in tensors:
        if name not in expected:
            raise UserError(f"{path}: {name} has no place in this policy")


def _first_line(error: Exception) -> str:
    return str(error).partition("\n")[0] or type(error).__name__
