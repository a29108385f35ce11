"""Reads what an external power meter logged, from a CSV file with the columns unix_s and watts."""

from __future__ import annotations

import csv
from argparse import ArgumentTypeError
from datetime import datetime
from pathlib import Path
from typing import NamedTuple

import numpy as np

from sde_harl.errors import UserError
from sde_harl.record.reader import Run
from sde_harl.record.schema import Array


class MeterReadings(NamedTuple):
    """Energy over time, by an external meter."""

    time_s: Array  # (K,), since the run's start
    joules: Array  # (K,), so far


def read_meter(path: Path, run: Run) -> MeterReadings:
    """Returns a meter's readings on the run's time axis.

    Both clocks are taken as they are, so the meter's has to be the server's. Raises UserError,
    naming the file, where it can't be used.
    """
    unix_s, watts = _read_columns(path)
    if len(unix_s) < 2 or not np.isfinite(watts).all() or not (np.diff(unix_s) > 0).all():
        raise UserError(
            f"{path}: a meter's CSV needs two rows or more, their times rising and finite"
        )
    # The integral of power over time, by the trapezoidal rule.
    steps = 0.5 * (watts[1:] + watts[:-1]) * np.diff(unix_s)
    joules = np.concatenate([[0.0], np.cumsum(steps)])
    return MeterReadings(time_s=unix_s - _started(run), joules=joules)


def _started(run: Run) -> float:
    """Returns when the run started, in seconds of Unix."""
    try:
        return datetime.fromisoformat(run.text("started")).timestamp()
    except (ValueError, OverflowError) as error:
        raise UserError(f"{run.path}: /meta doesn't tell when it started") from error


def _read_columns(path: Path) -> tuple[Array, Array]:
    try:
        with path.open(newline="") as file:
            rows = [(float(row["unix_s"]), float(row["watts"])) for row in csv.DictReader(file)]
    except (OSError, KeyError, TypeError, ValueError, csv.Error) as error:
        raise UserError(
            f"{path}: not a meter's CSV with the columns unix_s and watts: {error!r}"
        ) from error
    columns = np.array(rows, np.float64).reshape(-1, 2)  # (K, 2), also where K is 0
    return columns[:, 0], columns[:, 1]


def host_and_file(text: str) -> tuple[str, Path]:
    """Reads HOST=FILE of the command line. Raises ArgumentTypeError for anything else."""
    host, equals, file = text.partition("=")
    if not (host and equals and file):
        raise ArgumentTypeError(f"expected HOST=FILE, got {text!r}")
    return host, Path(file)
