"""Compares algorithms on a task by their greedy evaluations and their speed, over seeds."""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass
from typing import NamedTuple

import numpy as np

from sde_harl.analysis.each_run import of_each
from sde_harl.analysis.learning_curves import Curve, learning_curves
from sde_harl.analysis.statistics import Spread, spread
from sde_harl.analysis.uncertainty import iqm
from sde_harl.record.reader import Run
from sde_harl.record.schema import Array


class Member(NamedTuple):
    """One run of a comparison."""

    curve: Curve
    steps_per_s: float


class Task(NamedTuple):
    """An environment, and the measure that its runs are compared by."""

    env: str
    measure: str


Groups = dict[Task, dict[str, list[Member]]]
"""Members by task, then by name: the algorithm, and what tells it from others of its name."""


@dataclass(frozen=True, kw_only=True)
class Row:
    """One algorithm, or experiment of it, on one task, over its seeds."""

    task: str
    measure: str
    algo: str
    exp: str
    name: str
    seeds: list[str]
    steps: Spread  # environment steps at the last evaluation
    final: Spread  # the last evaluation
    final_iqm: Spread  # its interquartile mean and the 95 % interval of that
    best: Spread  # each run's own best evaluation
    steps_per_s: Spread  # of acting, learning and recording, without the evaluations


def members_of(runs: Sequence[Run]) -> list[Member]:
    """Returns the runs as members of a comparison. Raises UserError where a file is damaged."""
    curves = learning_curves(runs, ("evaluations",))
    speeds = of_each(runs, _steps_per_s)
    return [Member(*each) for each in zip(curves, speeds, strict=True)]


def _steps_per_s(run: Run) -> float:
    speeds = run.table("training").get("steps_per_s", np.zeros(0)).astype(np.float64)
    known = speeds[speeds > 0]
    if not len(known):
        return math.nan
    # Every update has as many steps, so steps over time is the harmonic mean of the speeds.
    return float(len(known) / (1 / known).sum())


def group(members: list[Member]) -> Groups:
    """Returns the members that have evaluations, by task and name, seeds in order."""
    known = [each for each in members if each.curve.values]
    # The experiment is part of the name only where there are several: most tables have one.
    experiments: dict[tuple[str, str], set[str]] = {}
    for each in known:
        experiments.setdefault((each.curve.env, each.curve.algo), set()).add(each.curve.exp)
    found: Groups = {}
    for each in sorted(known, key=_order):
        task = Task(env=each.curve.env, measure=each.curve.measure)
        name = _name(each.curve, experiments)
        found.setdefault(task, {}).setdefault(name, []).append(each)
    return found


def _name(curve: Curve, experiments: dict[tuple[str, str], set[str]]) -> str:
    if len(experiments[curve.env, curve.algo]) > 1:
        return ", ".join(filter(None, (curve.algo, curve.exp, curve.unlike)))
    return ", ".join(filter(None, (curve.algo, curve.unlike)))


def _order(each: Member) -> tuple[str, ...]:
    curve = each.curve
    return curve.env, curve.measure, curve.algo, curve.exp, curve.unlike, curve.seed


def compare(groups: Groups) -> list[Row]:
    """Returns a row for each name, by task; the highest final mean comes first."""
    rows = [
        _row(task, name, members)
        for task, named in groups.items()
        for name, members in named.items()
    ]
    return sorted(rows, key=lambda row: (row.task, row.measure, -row.final.mean))


def _row(task: Task, name: str, members: list[Member]) -> Row:
    curves = [each.curve for each in members]
    return Row(
        task=task.env,
        measure=task.measure,
        algo=curves[0].algo,
        exp=curves[0].exp,
        name=name,
        seeds=[curve.seed for curve in curves],
        steps=spread(curve.steps[-1] for curve in curves),
        final=spread(curve.values[-1] for curve in curves),
        final_iqm=_iqm([curve.values[-1] for curve in curves]),
        best=spread(max(curve.values) for curve in curves),
        steps_per_s=spread(each.steps_per_s for each in members),
    )


def _iqm(scores: list[float]) -> Spread:
    found = iqm([np.array(scores)])
    return Spread(mean=float(found.value), low=float(found.low), high=float(found.high))


def align(curves: list[Curve]) -> tuple[Array, Array]:
    """Returns steps (K,) common to all curves, and each curve's values there (runs, K).

    The steps are those at which any curve was evaluated and which all have reached. Between two
    evaluations of its own, a curve is taken as straight.
    """
    first = max(curve.steps[0] for curve in curves)
    last = min(curve.steps[-1] for curve in curves)
    steps = np.unique([step for curve in curves for step in curve.steps])
    steps = steps[(steps >= first) & (steps <= last)]
    # No step lies outside a curve, where np.interp would repeat its last value.
    values = [np.interp(steps, curve.steps, curve.values) for curve in curves]
    return steps, np.stack(values)
