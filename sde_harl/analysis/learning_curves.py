"""Reads how well a run plays over environment steps.

The measure is the win rate, or the return where there is no winner.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, replace

import numpy as np

from sde_harl.analysis.alike import differences
from sde_harl.analysis.each_run import of_each
from sde_harl.record.reader import Run
from sde_harl.record.schema import Array

# The first column that has values is taken: a win rate says more than a return.
MEASURES = {"win_rate": "win rate", "return_mean": "return", "return": "return"}


@dataclass(frozen=True, kw_only=True)
class Curve:
    """Holds one run's curve.

    source: evaluations (greedy, held-out episodes), training (as it learned), reference (another
    program's evaluations), or none.
    """

    path: str
    env: str
    algo: str
    exp: str
    seed: str
    source: str
    measure: str
    steps: list[int]
    values: list[float]
    unlike: str = ""
    """What tells the run from others of its env, algo and exp that aren't like it."""

    @property
    def experiment(self) -> str:
        """Names the runs that differ in nothing but the seed: env/algo/exp, and what is unlike."""
        return ", ".join(filter(None, (f"{self.env}/{self.algo}/{self.exp}", self.unlike)))


def learning_curve(run: Run, sources: Sequence[str] = ("evaluations", "training")) -> Curve:
    """Returns the curve of the first source that has values; an empty curve where none has.

    Raises UserError where the file is damaged.
    """
    # In the caller's order: greedy evaluations say more than episodes played while exploring.
    for source in sources:
        table = run.table(source)
        for column, measure in MEASURES.items():
            values = table.get(column, np.zeros(0)).astype(np.float64)
            known = _known(values, measure)
            if known.any() and "step" in table:
                return _curve(
                    run,
                    source=source,
                    measure=measure,
                    steps=table["step"][known],
                    values=values[known],
                )
    return _curve(run, source="none", measure="none", steps=np.zeros(0), values=np.zeros(0))


def _known(values: Array, measure: str) -> Array:
    known: Array = np.isfinite(values)
    if measure == "win rate":
        known = known & (values >= 0)  # -1: unknown
    return known


def _curve(run: Run, *, source: str, measure: str, steps: Array, values: Array) -> Curve:
    return Curve(
        path=str(run.path),
        env=run.env,
        algo=run.algo,
        exp=run.exp,
        seed=run.seed,
        source=source,
        measure=measure,
        steps=[int(step) for step in steps],
        values=[float(value) for value in values],
    )


def learning_curves(
    runs: Sequence[Run], sources: Sequence[str] = ("evaluations", "training")
) -> list[Curve]:
    """Returns the curve of each run, which tells what is unlike in it.

    Raises UserError where a file is damaged.
    """
    unlike = differences(runs, lambda run: (run.env, run.algo, run.exp))
    found = of_each(runs, lambda run: learning_curve(run, sources))
    return [replace(curve, unlike=each) for curve, each in zip(found, unlike, strict=True)]


def by_experiment(curves: list[Curve]) -> dict[str, list[Curve]]:
    """Groups the runs that differ in nothing but the seed."""
    found: dict[str, list[Curve]] = {}
    for curve in sorted(curves, key=lambda each: (each.experiment, each.seed)):
        found.setdefault(curve.experiment, []).append(curve)
    return found
