"""Writes evaluations in the format of marl-eval (github.com/instadeepai/marl-eval).

Its layout is environment / task / algorithm / run / step_k / metric -> list of values (Gorsane et
al., NeurIPS 2022; "Data Structure for Raw Experiment data" in its README). A list here has one
value, the mean over the episodes of that evaluation, which the format allows.
"""

from __future__ import annotations

import json
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np

from sde_harl.analysis.alike import differences
from sde_harl.errors import UserError
from sde_harl.record.reader import Columns, Run

METRICS = {
    "return_mean": "return",
    "win_rate": "win_rate",
    "length_mean": "episode_length",
    "bytes_per_decision": "bytes_per_decision",
}
"""By the column of /evaluations: the metric's name in the file."""
NEVER_BELOW_0 = ("win_rate", "bytes_per_decision")
"""Columns in which a negative number means that the value is unknown."""

Tree = dict[str, dict[str, dict[str, dict[str, Any]]]]


def write_marl_eval(runs: Sequence[Run], path: Path) -> None:
    """Writes the evaluations of these runs into one file.

    The algorithm's name is algo/exp, and what else tells unlike runs of it apart. Raises UserError
    for two runs of one seed, and for a run without evaluations or with others than the first run:
    marl-eval wants the same number of steps everywhere.
    """
    evaluations = [run.table("evaluations") for run in runs]
    _check_steps(runs, evaluations)
    metrics = [name for name in METRICS if all(_is_known(each, name) for each in evaluations)]
    unlike = differences(runs, lambda run: (run.env, run.algo, run.exp))
    tree: Tree = {}
    for run, table, told in zip(runs, evaluations, unlike, strict=True):
        env, _, task = run.env.partition("/")
        # No commas: marl-eval separates names by them.
        algo = "; ".join(filter(None, (f"{run.algo}/{run.exp}", told.replace(",", ";"))))
        members = tree.setdefault(env, {}).setdefault(task or env, {}).setdefault(algo, {})
        name = f"seed_{run.seed}"
        if name in members:
            raise UserError(
                f"--marl-eval: expected one run of each seed, got two of seed {run.seed} of"
                f" {run.env}, {algo} ({run.path})"
            )
        members[name] = _steps(table, metrics)
    text = json.dumps(tree, allow_nan=False, ensure_ascii=False)
    path.write_text(text, encoding="utf-8")


def _check_steps(runs: Sequence[Run], evaluations: Sequence[Columns]) -> None:
    for run, table in zip(runs, evaluations, strict=True):
        if not table:
            raise UserError(f"--marl-eval: expected evaluations, got a run without ({run.path})")
        if len(table["step"]) != len(evaluations[0]["step"]):
            raise UserError(
                f"--marl-eval: expected {len(evaluations[0]['step'])} evaluations, as in"
                f" {runs[0].path}, got {len(table['step'])} ({run.path})"
            )


def _is_known(table: Columns, name: str) -> bool:
    values = table[name]
    is_known = np.isfinite(values)
    if name in NEVER_BELOW_0:
        is_known &= values >= 0
    return bool(is_known.all())


def _steps(table: Columns, metrics: Sequence[str]) -> dict[str, dict[str, Any]]:
    steps: dict[str, dict[str, Any]] = {}
    for row, step in enumerate(table["step"]):
        values = {METRICS[name]: [float(table[name][row])] for name in metrics}
        steps[f"step_{row + 1}"] = {"step_count": int(step), **values}
    # The last policy's, not the best one's: the best of several would be chosen by luck, too, as
    # long as it isn't evaluated again.
    steps["absolute_metrics"] = {METRICS[name]: [float(table[name][-1])] for name in metrics}
    return steps
