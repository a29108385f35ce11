"""Reading what another run wrote into its /meta. The file is a stranger's: nothing in it is trusted."""

from __future__ import annotations

import json
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import h5py

from sde_harl.errors import UserError


def read_lists(path: Path, names: Sequence[str]) -> list[list[Any]]:
    """The JSON lists under `names` of run.h5 at `path`. Raises UserError, naming the file, where it hasn't them."""
    try:
        with h5py.File(path, "r", locking=False) as file:  # that run may still be writing
            meta = file.get("meta")
            texts = [meta.attrs.get(name) if isinstance(meta, h5py.Group) else None for name in names]
    except (OSError, RuntimeError, KeyError) as error:
        raise UserError(f"{path}: not a run.h5, or damaged: {str(error).partition(chr(10))[0]}") from error
    return [_list(path, name, text) for name, text in zip(names, texts)]


def _list(path: Path, name: str, text: object) -> list[Any]:
    try:
        value = json.loads(text) if isinstance(text, str) else None
    except (ValueError, RecursionError):
        value = None
    if not isinstance(value, list):
        raise UserError(f"{path}: /meta has no list {name}; is it the run.h5 of an earlier version?")
    return value
