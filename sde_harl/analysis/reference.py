"""Reads learning curves of another program, or of older runs, from a CSV file.

Its columns are env,algo,seed,step,return.

A row is a greedy evaluation. `env` is spelt as in run.h5, and the return is on the same scale: the
team's reward, the mean over agents, summed over an episode. `algo` is the label of the curve, so
it should say whose algorithm it is.
"""

from __future__ import annotations

import csv
import math
from collections.abc import Sequence
from pathlib import Path
from typing import NamedTuple

from sde_harl.analysis.learning_curves import Curve
from sde_harl.errors import UserError

COLUMNS = ["env", "algo", "seed", "step", "return"]
MOST_STEPS = 2**53
"""Larger ones are no float64, in which steps are compared."""


class _Key(NamedTuple):
    env: str
    algo: str
    seed: str


def read_references(paths: Sequence[Path]) -> list[Curve]:
    """Returns the curves of files, each of which is read once.

    Raises UserError for other files, and where two files have a curve of the same name.
    """
    curves: dict[_Key, Curve] = {}
    for path in {each.resolve(): each for each in paths}.values():
        for curve in _read(path):
            key = _Key(env=curve.env, algo=curve.algo, seed=curve.seed)
            other = curves.setdefault(key, curve)
            if other is not curve:
                raise UserError(f"{path}: {', '.join(key)} is in {other.path} too")
    return list(curves.values())


def _read(path: Path) -> list[Curve]:
    """Returns a curve for each env, algorithm and seed of a file."""
    found: dict[_Key, dict[int, float]] = {}
    try:
        with path.open(newline="") as file:
            reader = csv.DictReader(file)
            if reader.fieldnames != COLUMNS:
                raise UserError(f"{path}: its first line must be {','.join(COLUMNS)}")
            for row in reader:
                step, value = _point(row, f"{path}: line {reader.line_num}")
                key = _Key(env=row["env"], algo=row["algo"], seed=row["seed"])
                found.setdefault(key, {})[step] = value
    except (UnicodeDecodeError, csv.Error) as error:
        raise UserError(f"{path}: not a CSV file: {error}") from error
    return [_curve(path, key, points) for key, points in found.items()]


def _point(row: dict[str, str], place: str) -> tuple[int, float]:
    if None in row:  # where csv puts what is too much
        raise UserError(f"{place}: more than {len(COLUMNS)} columns")
    try:
        step = int(row["step"])
        value = float(row["return"])
    # A short line gives None for what it lacks, hence TypeError.
    except (TypeError, ValueError) as error:
        raise UserError(f"{place}: step and return must be numbers") from error
    if not 0 <= step < MOST_STEPS or not math.isfinite(value):
        raise UserError(f"{place}: step must be 0 or more, and return finite")
    return step, value


def _curve(path: Path, key: _Key, points: dict[int, float]) -> Curve:
    # Rows may be in any order, and a step that is given twice counts once, by its last row.
    steps = sorted(points)
    return Curve(
        path=str(path),
        env=key.env,
        algo=key.algo,
        exp=path.stem,
        seed=key.seed,
        source="reference",
        measure="return",
        steps=steps,
        values=[points[step] for step in steps],
    )
