"""Learning curves of another program, to hold runs against: a CSV file of env,algo,seed,step,return.

A row is a greedy evaluation. `env` is spelt as run.h5 has it, and the return is on its scale: the team's reward, the
mean over agents, summed over an episode. `algo` is the label, so it should say whose algorithm it is.
"""

from __future__ import annotations

import csv
import math
from pathlib import Path

from sde_harl.analysis.curves import Curve
from sde_harl.errors import UserError

COLUMNS = ["env", "algo", "seed", "step", "return"]


def reference(path: Path) -> list[Curve]:
    """A curve for each env, algorithm and seed, by steps. Raises UserError for a file that is none."""
    found: dict[tuple[str, str, str], dict[int, float]] = {}
    try:
        with path.open(newline="") as file:
            reader = csv.DictReader(file)
            if reader.fieldnames != COLUMNS:
                raise UserError(f"{path}: its first line must be {','.join(COLUMNS)}")
            for row in reader:
                step, value = _point(row, f"{path}: line {reader.line_num}")
                found.setdefault((row["env"], row["algo"], row["seed"]), {})[step] = value
    except (UnicodeDecodeError, csv.Error) as error:
        raise UserError(f"{path}: not a CSV file: {error}") from error
    return [
        Curve(str(path), env, algo, path.stem, seed, "reference", "return", *_by_step(points))
        for (env, algo, seed), points in found.items()
    ]


def _point(row: dict[str, str], place: str) -> tuple[int, float]:
    try:
        step, value = int(row["step"]), float(row["return"])
    except (TypeError, ValueError) as error:
        raise UserError(f"{place}: step and return must be numbers") from error
    if step < 0 or not math.isfinite(value):
        raise UserError(f"{place}: step must be 0 or more, and return finite")
    return step, value


def _by_step(points: dict[int, float]) -> tuple[list[int], list[float]]:
    steps = sorted(points)
    return steps, [points[step] for step in steps]
