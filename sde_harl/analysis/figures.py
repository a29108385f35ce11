"""Draws figures with matplotlib, which is imported only when a figure is asked for."""

from __future__ import annotations

import math
from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from matplotlib.axes import Axes
    from matplotlib.figure import Figure

DOTS_PER_INCH = 120


def new_figure(width: float, height: float) -> Figure:
    """Returns an empty figure of this size in inches."""
    # Figure itself, not pyplot: pyplot looks for a display and keeps every figure in memory.
    from matplotlib import rcParams
    from matplotlib.figure import Figure

    # Names may hold dollar signs, between which matplotlib would read TeX.
    rcParams["text.parse_math"] = False
    return Figure(figsize=(width, height), layout="constrained")


def new_panels(measures: Sequence[str]) -> tuple[Figure, list[Axes]]:
    """Returns a figure with a panel over environment steps for each measure.

    From three panels on, two stand in a row.
    """
    columns = 2 if len(measures) >= 3 else 1
    rows = math.ceil(len(measures) / columns)
    # A single column is wider than one of two: 8 inches, or 6 each.
    figure = new_figure(4 + 4 * columns, 4 * rows)
    panels = list(figure.subplots(rows, columns, squeeze=False).flat)
    # Three panels in rows of two leave an empty place.
    for spare in panels[len(measures) :]:
        spare.remove()
    panels = panels[: len(measures)]
    for axes, measure in zip(panels, measures, strict=True):
        _label(axes, measure)
    return figure, panels


def _label(axes: Axes, measure: str) -> None:
    axes.set(xlabel="environment steps", ylabel=measure)
    # All of the range, so that win rates of two figures can be compared by eye.
    if measure == "win rate":
        axes.set(ylim=(0, 1))


def add_legends(figure: Figure) -> None:
    """Adds a legend to each panel that has lines."""
    for axes in figure.axes:
        if axes.lines:
            axes.legend()


def save(figure: Figure, target: Path) -> None:
    """Writes the figure as a PNG file."""
    figure.savefig(target, dpi=DOTS_PER_INCH)
