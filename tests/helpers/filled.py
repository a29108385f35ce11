"""Adds rows to run.h5 in tests that need only some of the columns."""

from __future__ import annotations

import numpy as np
import numpy.typing as npt

from sde_harl.codec.symbols import BINS, SYMBOLS
from sde_harl.record.schema import TABLES
from sde_harl.record.writer import RunFile


def add(file: RunFile, table: str, **columns: npt.ArrayLike) -> None:
    """Adds rows whose other columns are unknown: NaN, or 0 where the type has no NaN."""
    length = max((np.size(each) for each in columns.values()), default=1)
    for name, column in TABLES[table].items():
        unknown = np.nan if np.dtype(column.dtype).kind == "f" else 0
        columns.setdefault(name, np.full(length, unknown))
    file.add(table, **{name: np.broadcast_to(each, (length,)) for name, each in columns.items()})


def add_symbols(file: RunFile, step: int, agents: int = 2) -> None:
    """Adds the symbols of an evaluation: each agent sent a thousand, in the shape of a tent."""
    tent = np.maximum(0, 5 - np.abs(SYMBOLS))
    add(
        file,
        "symbols",
        step=step,
        agent=np.arange(agents).repeat(BINS),
        symbol=np.tile(SYMBOLS, agents),
        sent=np.tile(40 * tent, agents),
        probability=np.tile(tent / 25, agents),
    )


def add_evaluation(file: RunFile, step: int, return_mean: float = 1.0) -> None:
    """Adds an evaluation of eight episodes, half of them won."""
    add(
        file,
        "evaluations",
        step=step,
        episodes=8,
        win_rate=0.5,
        return_mean=return_mean,
        return_std=1.0,
        length_mean=20.0,
        bits_per_element=1.0,
        bytes_per_decision=5.0,
    )
