"""How well a run plays over environment steps: win rate, or return where winning means nothing."""

from __future__ import annotations

import math
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING

import numpy as np

from sde_harl.record.reader import Run

if TYPE_CHECKING:
    from matplotlib.axes import Axes
    from matplotlib.figure import Figure

MEASURES = {
    "win_rate": "win rate",
    "return_mean": "return",
    "return": "return",
}  # the first with values is taken


@dataclass(frozen=True)
class Curve:
    """One run's curve. source: evaluations (greedy, held-out episodes), training (as it learned), reference (another
    program's evaluations)."""

    path: str
    env: str
    algo: str
    exp: str
    seed: str
    source: str
    measure: str
    steps: list[int]
    values: list[float]


@dataclass(frozen=True)
class Spread:
    """A figure over several runs; NaN where none has it."""

    mean: float
    low: float
    high: float

    def shown(self, form: str) -> str:
        """The range is left out where it is one value."""
        if math.isnan(self.mean):
            return "-"
        mean, low, high = (format(value, form) for value in (self.mean, self.low, self.high))
        return mean if low == high else f"{mean} ({low} to {high})"


def spread(values: Iterable[float]) -> Spread:
    """Mean and range of the known ones."""
    known = [value for value in values if not math.isnan(value)]
    return (
        Spread(float(np.mean(known)), min(known), max(known)) if known else Spread(*(math.nan,) * 3)
    )


def curve(run: Run, sources: Sequence[str] = ("evaluations", "training")) -> Curve:
    """Of the first source that has values, else empty. Raises UserError."""
    names = (str(run.path), run.env, run.algo, run.exp, run.seed)
    for source in sources:
        table = run.table(source)
        for column, measure in MEASURES.items():
            values = table.get(column, np.zeros(0)).astype(np.float64)
            known = np.isfinite(values) & (values >= 0 if measure == "win rate" else True)
            if known.any() and "step" in table:
                steps = [int(step) for step in table["step"][known]]
                return Curve(
                    *names, source, measure, steps, [float(value) for value in values[known]]
                )
    return Curve(*names, "none", "none", [], [])


def panels(measures: Sequence[str]) -> tuple[Figure, list[Axes]]:
    """A figure with a panel for each measure, over environment steps, to draw into; two in a row from three on."""
    from matplotlib.figure import Figure

    columns = 1 if len(measures) < 3 else 2
    rows = -(-len(measures) // columns)
    figure = Figure(figsize=(8 if columns == 1 else 12, 4 * rows), layout="constrained")
    every = list(figure.subplots(rows, columns, squeeze=False).flat)
    drawn, spare = every[: len(measures)], every[len(measures) :]
    for axes in spare:
        axes.remove()
    for axes, measure in zip(drawn, measures, strict=True):
        axes.set(
            xlabel="environment steps",
            ylabel=measure,
            **({"ylim": (0, 1)} if measure == "win rate" else {}),
        )
    return figure, drawn


def save(figure: Figure, target: Path) -> None:
    """With a legend in each panel that has lines."""
    for axes in figure.axes:
        if axes.lines:
            axes.legend()
    figure.savefig(target, dpi=120)
