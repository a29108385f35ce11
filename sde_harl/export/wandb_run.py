"""Writes a run's scalars as an offline run of Weights & Biases (wandb.ai), which sends nothing.

Its user sends it later, by `wandb sync`. The columns of /training and /evaluations become
`training/...` and `evaluations/...`, each over environment steps, which are in `step`.
"""

from __future__ import annotations

import math
import os
import shutil
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np

from sde_harl.config.yaml_text import load
from sde_harl.errors import UserError
from sde_harl.outside.text import printable
from sde_harl.record.reader import Run

# Before wandb is imported: otherwise its errors are sent to its makers, offline runs' too.
os.environ["WANDB_ERROR_REPORTING"] = "false"

import wandb

PROJECT = "sde_harl"
TABLES = ("training", "evaluations")
MOST_LETTERS = 128
"""Of a name, as wandb takes it."""
EXACT = 1 << 53
"""JSON's readers keep whole numbers below this."""

Point = dict[str, float]


def write_wandb(run: Run, folder: Path) -> Path:
    """Writes the offline run into the folder, and returns its name there.

    Numbers that are unknown are left out. Raises OSError, and UserError for a run without scalars,
    for a configuration that can't be read, and for what wandb refuses.
    """
    config = _config(run)
    points = _points(run)
    if not points:
        raise UserError(f"--wandb: expected scalars, got a run that has none yet ({run.path})")
    try:
        _log(run, folder, config=config, points=points)
    except wandb.Error as error:
        raise UserError(f"--wandb: {folder}: wandb can't write it: {error}") from error
    (written,) = (folder / "wandb").glob("offline-run-*")
    kept = folder / written.name
    written.rename(kept)
    # What is left are logs of wandb's own, and links that hold the folder's name of now.
    shutil.rmtree(folder / "wandb")
    for name in ("logs", "tmp"):
        shutil.rmtree(kept / name, ignore_errors=True)
    return Path(written.name)


def _log(run: Run, folder: Path, *, config: dict[str, Any], points: list[Point]) -> None:
    settings = wandb.Settings(
        mode="offline",
        root_dir=str(folder.resolve()),
        silent=True,
        console="off",
        # All of these would tell of the machine and the folder that export the run.
        disable_code=True,
        disable_git=True,
        x_disable_meta=True,
        x_disable_machine_info=True,
        x_disable_stats=True,
        x_save_requirements=False,
    )
    offline = wandb.init(
        project=PROJECT,
        group=_name("/".join((run.env, run.algo, run.exp))),
        name=_name(f"{run.algo}/{run.exp}, seed {run.seed}"),
        config=config,
        settings=settings,
    )
    try:
        for table in TABLES:
            offline.define_metric(f"{table}/*", step_metric="step")
        for point in points:
            offline.log(point)
    finally:
        offline.finish()
        wandb.teardown()


def _name(text: str) -> str:
    return printable(text)[:MOST_LETTERS]


def _config(run: Run) -> dict[str, Any]:
    """Returns the configuration, and the other attributes of /meta under `meta`."""
    config = load(run.text("config", ""), f"{run.path}: /meta config")
    if not isinstance(config, dict):
        raise UserError(f"{run.path}: /meta config isn't a configuration")
    meta = {name: value for name, value in run.meta.items() if name != "config"}
    plain: dict[str, Any] = _plain({**config, "meta": meta})
    return plain


def _plain(value: Any) -> Any:
    """Returns a value of YAML as one that JSON has, with keys of text."""
    if isinstance(value, dict):
        return {printable(str(key)): _plain(each) for key, each in value.items()}
    if isinstance(value, list):
        return [_plain(each) for each in value]
    if value is None or isinstance(value, bool):
        return value
    if isinstance(value, int) and abs(value) < EXACT:
        return value
    if isinstance(value, float) and math.isfinite(value):
        return value
    return printable(str(value))


def _points(run: Run) -> list[Point]:
    """Returns the rows of all tables by ascending step, an update before its evaluation."""
    points = [point for table in TABLES for point in _rows(run, table)]
    return sorted(points, key=lambda point: point["step"])


def _rows(run: Run, table: str) -> Iterator[Point]:
    columns = run.table(table)
    if not columns:
        return
    steps = columns["step"]
    # TensorBoard and metrics.csv have slashes where HDF5 can't.
    values = {
        f"{table}/{printable(name).replace('.', '/')}": each
        for name, each in columns.items()
        if name != "step"
    }
    for row, step in enumerate(steps.tolist()):
        known = {name: float(each[row]) for name, each in values.items() if np.isfinite(each[row])}
        yield {"step": step, **known}
