"""Writes a file or a folder whole or not at all, and never over one that is there."""

from __future__ import annotations

import os
import shutil
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

from sde_harl.errors import UserError


@contextmanager
def whole_file(target: Path, option: str) -> Iterator[Path]:
    """Gives a name to write a file under, and renames that to `target` when all went well.

    Raises UserError that names `option` where the target exists, or can't be written.
    """
    with _renamed(target, option) as part:
        yield part


@contextmanager
def whole_folder(target: Path, option: str) -> Iterator[Path]:
    """Gives an empty folder, as `whole_file` gives a name."""
    with _renamed(target, option) as part:
        part.mkdir(parents=True)
        yield part


@contextmanager
def _renamed(target: Path, option: str) -> Iterator[Path]:
    if os.path.lexists(target):
        raise UserError(f"{option}: expected a name that is free, got {target}, which exists")
    # Beside the target, because a rename can't lead to another disk.
    part = target.with_name(f"{target.name}.part-{os.getpid()}")
    try:
        yield part
        part.rename(target)
    except OSError as error:
        raise UserError(f"{option}: {target}: can't be written: {error.strerror}") from error
    finally:
        _remove(part)


def _remove(part: Path) -> None:
    if part.is_dir():
        shutil.rmtree(part, ignore_errors=True)
    else:
        part.unlink(missing_ok=True)
