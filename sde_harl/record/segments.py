"""The files of a run that was resumed: run.h5, then run-2.h5, run-3.h5, ... beside it.

Each file follows a checkpoint, and its /meta says how many rows of each table there were then. Rows
that an earlier file holds beyond that number were played again, and a reader leaves them out.
"""

from __future__ import annotations

import itertools
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import numpy as np

from sde_harl.record.schema import CUMULATIVE, Array

TRAJECTORIES = "trajectories"
"""The name under which recorded episodes are counted, among those of the tables."""


def later_segments(path: Path) -> list[Path]:
    """Returns the files that follow the run file `path`, in order."""
    if path.name != "run.h5":
        return []
    numbered = (path.with_name(f"run-{number}.h5") for number in itertools.count(2))
    return list(itertools.takewhile(Path.exists, numbered))


def next_segment(folder: Path) -> Path:
    """Returns the name of the file that a run in this folder writes to."""
    first = folder / "run.h5"
    if not first.exists():
        return first
    return folder / f"run-{len(later_segments(first)) + 2}.h5"


def following(segment: Path) -> Path:
    """Returns the name of the file that another process makes when it goes on with the run."""
    _, _, number = segment.stem.partition("-")
    return segment.with_name(f"run-{int(number or 1) + 1}.h5")


def checked_counts(counts: Any) -> dict[str, int]:
    """Returns how many rows of each table come before a segment. Raises ValueError for others."""
    if not isinstance(counts, dict):
        raise ValueError("the rows before it aren't counted by table")
    if not all(type(count) is int and count >= 0 for count in counts.values()):
        raise ValueError("the rows before it aren't counted by whole numbers")
    return counts


def joined(name: str, earlier: Mapping[str, Array], later: Mapping[str, Array]) -> dict[str, Array]:
    """Returns the rows of a table from two segments as one; either may have no rows."""
    if not later:
        return dict(earlier)
    if not earlier:
        return dict(later)
    added = _added_up(earlier, later, CUMULATIVE.get(name, ()))
    # An algorithm's scalar may appear in one segment alone.
    names = [*earlier, *(key for key in later if key not in earlier)]
    lengths = [len(next(iter(part.values()))) for part in (earlier, later)]
    return {
        key: np.concatenate(
            [
                part[key] if key in part else np.full(length, np.nan)
                for part, length in zip((earlier, added), lengths)
            ]
        )
        for key in names
    }


def _added_up(
    earlier: Mapping[str, Array], later: Mapping[str, Array], names: tuple[str, ...]
) -> dict[str, Array]:
    """Returns the later rows with their counters going on from the same rank's earlier ones."""
    added: dict[str, Any] = dict(later)
    for name in names:
        values = later[name].copy()
        for rank in np.unique(later["rank"]):
            before = earlier[name][earlier["rank"] == rank]
            rows = (later["rank"] == rank) & (values >= 0)  # -1 and NaN are unknown
            if len(before) and before[-1] >= 0:
                values[rows] += before[-1]
        added[name] = values
    return added
