"""The record of a run: `sde_harl.record.open_run(path)` opens one (docs/export.md)."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from sde_harl.record.reader import Run, open_run

__all__ = ["Run", "open_run"]


def __getattr__(name: str) -> Any:
    # Imported when it is asked for: most modules of this room need no h5py, which takes long.
    if name not in __all__:
        raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
    from sde_harl.record import reader

    return getattr(reader, name)
