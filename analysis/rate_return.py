"""Show the win rate, or the return where there is no winner, over the bytes of a decision.

python analysis/rate_return.py RUN.h5 [RUN2.h5 ...] [--plot FILE.png] [--json]

Each setting of the codec is a point; runs that differ in nothing but the seed count together.
"""

from __future__ import annotations

import argparse
import sys
from dataclasses import asdict
from pathlib import Path
from typing import TYPE_CHECKING, Any

from rich.console import Console

from sde_harl.analysis import figures, program, tables
from sde_harl.analysis.rates import Point, Row, points_of, rate_rows
from sde_harl.record.reader import Run

if TYPE_CHECKING:
    from matplotlib.axes import Axes

WIDTH = 150  # where the output is no terminal
COLUMNS = (
    "codec",
    "latent",
    "seeds",
    "steps",
    "last",
    "bytes",
    "bits",
    "bits/element",
    "sent/model",
    "float32 is",
)
NOTES = (
    "last: of the last evaluation; bytes and bits: sent for a decision of one agent there,"
    " payloads without headers",
    "bits/element: by the entropy model, its cross-entropy on the symbols sent;"
    " sent/model: bits sent to these",
    "float32 is: the same latent as float32, in times of the bytes sent",
)
FLOAT32_BYTES = 4


def show(rows: list[Row], console: Console) -> None:
    """Prints a table for each task: means over seeds, and the ranges of what is compared."""
    # dict.fromkeys instead of a set: the tables keep the order of the rows.
    for task, measure in dict.fromkeys((row.task, row.measure) for row in rows):
        table = tables.new_table(COLUMNS, left=("codec", "seeds"))
        table.columns[0].no_wrap = True  # settings in two lines are hard to compare
        tables.add_title(table, f"{task}, {measure}")
        for row in rows:
            if (row.task, row.measure) == (task, measure):
                table.add_row(*_cells(row))
        console.print(table)
    if rows:
        tables.print_notes(console, NOTES)


def _cells(row: Row) -> list[str]:
    return [
        row.codec,
        str(row.latent),
        ", ".join(row.seeds),
        row.steps.shown(",.0f"),
        row.score.shown(".3f"),
        row.bytes.shown(".2f"),
        tables.number(row.bits.mean, ".0f"),
        tables.number(row.per_element.mean, ".2f"),
        tables.number(row.sent_to_model.mean, ".3f"),
        tables.number(FLOAT32_BYTES * row.latent / row.bytes.mean, ".1f"),
    ]


def show_left_out(points: list[Point], console: Console) -> None:
    """Prints which runs are no points, and why."""
    for each in points:
        if each.left_out:
            tables.print_line(console, f"{each.path}: {each.left_out}: left out")


def plot(rows: list[Row], target: Path) -> None:
    """Draws a panel for each task: means over seeds and their ranges."""
    tasks = list(dict.fromkeys((row.task, row.measure) for row in rows))
    if not tasks:
        figure = figures.new_figure(8, 4.5)
        figures.say(figure.add_subplot(), "No evaluation's latents were recorded in these runs.")
        figures.save(figure, target)
        return
    figure = figures.new_figure(8, 4.5 * len(tasks))
    panels = figure.subplots(len(tasks), squeeze=False)[:, 0]
    for axes, (task, measure) in zip(panels, tasks, strict=True):
        axes.set(title=task, xlabel="bytes sent for a decision of one agent")
        axes.set(ylabel=figures.with_unit(measure))
        _draw(axes, [row for row in rows if (row.task, row.measure) == (task, measure)])
        _set_scales(axes)
    figures.add_legends(figure)
    figures.save(figure, target)


def _set_scales(axes: Axes) -> None:
    """Makes the axis of bytes logarithmic, and adds one of bits at the top."""
    # What codecs send differs by factors, so equal factors get equal distances.
    figures.make_logarithmic(axes.xaxis, base=2)
    bits = axes.secondary_xaxis("top", functions=(_bytes_to_bits, _bits_to_bytes))
    bits.set_xlabel("bits")
    low, high = axes.get_xlim()
    figures.make_logarithmic(bits.xaxis, base=2, limits=(8 * low, 8 * high))


def _draw(axes: Axes, rows: list[Row]) -> None:
    """Draws the settings of the entropy codec as a line, the other codecs as single points."""
    # Runs that differ in more than the codec, such as the algorithm, are lines of their own.
    for latent, unlike in sorted({(row.latent, row.unlike) for row in rows if row.trained}):
        line = [row for row in rows if row.trained and (row.latent, row.unlike) == (latent, unlike)]
        name = ", ".join(filter(None, (f"entropy, latent {latent}", unlike)))
        _draw_line(axes, line, name)
    for row in rows:
        # A plain codec has one setting, so there is no line to draw.
        if not row.trained:
            _draw_errorbars(axes, [row], label=f"{row.codec}, latent {row.latent}", style="s")


def _draw_line(axes: Axes, rows: list[Row], name: str) -> None:
    _draw_errorbars(axes, rows, label=name, style="o-")
    for row in rows:
        # The legend has what tells the line from others.
        knobs = row.codec.partition(", ")[2].removesuffix(f", {row.unlike}")
        # Slanted, below the point: labels of close points would cover each other.
        axes.annotate(
            knobs,
            (row.bytes.mean, row.score.mean),
            fontsize=7,
            rotation=-30,
            va="top",
            xytext=(3, -3),
            textcoords="offset points",
        )


def _draw_errorbars(axes: Axes, rows: list[Row], *, label: str, style: str) -> None:
    # matplotlib takes distances from the point, not the ends of the range.
    axes.errorbar(
        [row.bytes.mean for row in rows],
        [row.score.mean for row in rows],
        (
            [abs(row.score.low - row.score.mean) for row in rows],
            [abs(row.score.high - row.score.mean) for row in rows],
        ),
        fmt=style,
        capsize=3,
        label=label,
    )


def _bytes_to_bits(size: Any) -> Any:
    return 8 * size


def _bits_to_bytes(bits: Any) -> Any:
    return bits / 8


def find(runs: list[Run], args: argparse.Namespace) -> program.Findings:
    points = points_of(runs)
    rows = rate_rows(points)

    def show_all(console: Console) -> None:
        show(rows, console)
        show_left_out(points, console)

    return program.Findings(
        rows=[asdict(row) for row in rows], show=show_all, plot=lambda target: plot(rows, target)
    )


def main() -> int:
    """Returns the exit code: 2 where a file can't be read or written."""
    parser = program.argument_parser(__doc__)
    program.add_figure_options(
        parser, drawn="the curve", printed="the rows as JSON instead of the tables"
    )
    return program.run_and_show(parser, WIDTH, find)


if __name__ == "__main__":
    sys.exit(main())
