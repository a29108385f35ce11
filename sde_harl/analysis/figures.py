"""Draws figures with matplotlib in one style; it is imported only when a figure is asked for.

The colours are those of Okabe and Ito, which people tell apart whose eyes confuse red and green.
"""

from __future__ import annotations

import math
import sys
import textwrap
from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

from sde_harl.outside.text import printable
from sde_harl.record.schema import Array

if TYPE_CHECKING:
    from matplotlib.axes import Axes
    from matplotlib.axis import Axis
    from matplotlib.figure import Figure

DOTS_PER_INCH = 120
COLOURS = ("#0072b2", "#d55e00", "#009e73", "#cc79a7", "#e69f00", "#56b4e9", "#7f7f7f")
LINE_STYLES = ("-", "--", ":")
INK = "#222222"
RULE = "#cccccc"
STEPS = "environment steps"
MOST_MARKED = 30
"""Points of a line up to which each has a marker; one point alone has no line to be seen by."""
FEW_BARS = 4
LETTERS_PER_INCH = 11
UNDER_AXIS = 0.45
"""Inches that the ticks under an axis and its label take."""
LINE = 0.18
"""Inches of one more line of these ticks."""
STYLE: dict[Any, Any] = {
    # Names may hold dollar signs, between which matplotlib would read TeX.
    "text.parse_math": False,
    "font.size": 9,
    "axes.titlesize": 10,
    "axes.titlelocation": "left",
    "axes.spines.top": False,
    "axes.spines.right": False,
    "axes.axisbelow": True,
    "axes.grid": True,
    "axes.edgecolor": INK,
    "axes.labelcolor": INK,
    "text.color": INK,
    "xtick.color": INK,
    "ytick.color": INK,
    "grid.color": RULE,
    "grid.linewidth": 0.6,
    "legend.frameon": False,
    "lines.linewidth": 1.6,
    "lines.markersize": 4,
}


def new_figure(width: float, height: float) -> Figure:
    """Returns an empty figure of this size in inches."""
    # Figure itself, not pyplot: pyplot looks for a display and keeps every figure in memory.
    from cycler import cycler
    from matplotlib import rcParams
    from matplotlib.figure import Figure

    rcParams.update(STYLE)
    rcParams["axes.prop_cycle"] = cycler(linestyle=LINE_STYLES) * cycler(color=COLOURS)
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
        over_steps(axes, measure)
    return figure, panels


def over_steps(axes: Axes, measure: str) -> None:
    """Makes the axes those of a measure over environment steps."""
    axes.set(xlabel=STEPS, ylabel=with_unit(measure))
    shorten_thousands(axes.xaxis)
    # All of the range, so that win rates of two figures can be compared by eye.
    if measure == "win rate":
        axes.set(ylim=(-0.02, 1.02))
        axes.yaxis.set_major_formatter(lambda value, _: f"{100 * value:.0f} %")


def with_unit(measure: str) -> str:
    """Returns a measure's name as an axis has it: with its unit."""
    if measure == "return":
        return "return, reward of an episode"
    return measure


def shorten_thousands(axis: Axis) -> None:
    """Writes the ticks of an axis as 500k and 2M."""
    from matplotlib.ticker import EngFormatter

    axis.set_major_formatter(EngFormatter(sep=""))


def make_logarithmic(axis: Axis, base: int = 10, limits: tuple[float, float] | None = None) -> None:
    """Makes an axis logarithmic, with ticks such as 100 and 120. Call it after drawing.

    limits: of an axis that follows another one; it doesn't know them yet.
    """
    from matplotlib.ticker import LogLocator, MaxNLocator, NullFormatter

    if axis is axis.axes.xaxis:
        axis.axes.set_xscale("log", base=base)
    else:
        axis.axes.set_yscale("log", base=base)
    low, high = limits or axis.get_view_interval()
    # In less than a decade hardly a power of the base lies; round numbers do.
    if low > 0 and high / low < 10:
        axis.set_major_locator(MaxNLocator(5, steps=[1, 2, 5, 10]))
    elif base == 10 and high / max(low, 1e-300) < 200:
        axis.set_major_locator(LogLocator(base, subs=(1, 2, 5)))
    axis.set_minor_formatter(NullFormatter())
    axis.set_major_formatter(lambda value, _: plain(value))


def leave_room(axes: Axes, bars: int) -> None:
    """Leaves so much room beside few bars that none is as wide as the axes."""
    spare = max(0.0, (FEW_BARS - bars) / 2)
    axes.set_xlim(-0.6 - spare, bars - 0.4 + spare)


def plain(value: float) -> str:
    """Returns a number as people write it: 0.05, 120, 1,500."""
    if abs(value) >= 1000:
        return f"{value:,.0f}"
    return f"{value:.4g}"


def draw_line(axes: Axes, x: Sequence[Any] | Array, y: Sequence[float] | Array, **how: Any) -> str:
    """Draws a line, with markers where the points are few, and returns its colour."""
    if len(x) <= MOST_MARKED:
        how.setdefault("marker", "o")
    [line] = axes.plot(x, y, **how)
    return str(line.get_color())


def say(axes: Axes, sentence: str) -> None:
    """Writes a sentence in place of axes that have nothing to show."""
    # Empty axes would look like a mistake of this program, or like zeros.
    axes.clear()
    axes.set_axis_off()
    size = axes.get_position().width * axes.figure.get_figwidth()  # type: ignore[union-attr]
    lines = textwrap.fill(printable(sentence), max(20, int(LETTERS_PER_INCH * size)))
    axes.text(0.5, 0.5, lines, ha="center", va="center", transform=axes.transAxes)


def add_legend(axes: Axes, columns: int = 1, tick_lines: int = 1) -> None:
    """Adds a legend below the axes, off the data; none where nothing is labelled.

    tick_lines: lines of the labels of the ticks under the axis.
    """
    handles, labels = axes.get_legend_handles_labels()
    if handles:
        from matplotlib.transforms import ScaledTranslation

        below = ScaledTranslation(
            0, -UNDER_AXIS - LINE * (tick_lines - 1), axes.figure.dpi_scale_trans
        )
        axes.legend(
            handles,
            [printable(each) for each in labels],
            loc="upper left",
            bbox_to_anchor=(0, 0),
            bbox_transform=axes.transAxes + below,
            ncols=columns,
            fontsize=8,
        )


def add_legends(figure: Figure) -> None:
    """Adds a legend to each panel that has lines."""
    for axes in figure.axes:
        if axes.lines:
            add_legend(axes)


def save(figure: Figure, target: Path) -> None:
    """Writes the figure as a PNG file, and says so."""
    figure.savefig(target, dpi=DOTS_PER_INCH)
    tell_written(target)


def tell_written(target: Path) -> None:
    """Says where a file was written."""
    # On stderr: what stands on standard output may be JSON.
    print(printable(f"wrote {target}"), file=sys.stderr)
