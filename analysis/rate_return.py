"""Win rate, or return where winning means nothing, over the bytes of a decision: a point a setting of the codec.

python analysis/rate_return.py RUN.h5 [RUN2.h5 ...] [--plot FILE.png] [--json]
"""

from __future__ import annotations

import argparse
import math
import sys
from dataclasses import asdict
from pathlib import Path
from typing import TYPE_CHECKING

from rich import box
from rich.console import Console
from rich.table import Table

from sde_harl.analysis import program
from sde_harl.analysis.curves import save
from sde_harl.analysis.rates import Point, Row, point, rows
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
    "last: of the last evaluation; bytes and bits: sent for a decision of one agent there, payloads without headers",
    "bits/element: by the entropy model, its cross-entropy on the symbols sent; sent/model: bits sent to these",
    "float32 is: the same latent as float32, in times of the bytes sent",
)


def show(items: list[Row], console: Console) -> None:
    """Print a table for each task: means over seeds, and the ranges of what is compared."""
    for task, measure in dict.fromkeys((row.task, row.measure) for row in items):
        table = Table(
            box=box.SIMPLE_HEAD, title=f"{task}, {measure}", title_justify="left", title_style=""
        )
        for name in COLUMNS:
            table.add_column(
                name,
                justify="left" if name in ("codec", "seeds") else "right",
                no_wrap=name == "codec",
            )
        for row in items:
            if (row.task, row.measure) == (task, measure):
                table.add_row(row.codec, str(row.latent), ", ".join(row.seeds), *_cells(row))
        console.print(table)
    for note in NOTES if items else ():
        console.print(f"  {note}", markup=False, soft_wrap=True)


def _cells(row: Row) -> tuple[str, ...]:
    spreads = ((row.steps, ",.0f"), (row.score, ".3f"), (row.bytes, ".2f"))
    smaller = 4 * row.latent / row.bytes.mean
    means = (
        (row.bits.mean, ".0f"),
        (row.per_element.mean, ".2f"),
        (row.sent_to_model.mean, ".3f"),
        (smaller, ".1f"),
    )
    return *(each.shown(form) for each, form in spreads), *(_number(*each) for each in means)


def _number(value: float, form: str) -> str:
    return "-" if math.isnan(value) else format(value, form)


def plot(items: list[Row], target: Path) -> None:
    """A panel a task: means over seeds and their ranges; settings of the entropy codec in a line, the others apart."""
    from matplotlib.figure import Figure

    tasks = list(dict.fromkeys((row.task, row.measure) for row in items)) or [("", "return")]
    figure = Figure(figsize=(8, 4.5 * len(tasks)), layout="constrained")
    for axes, (task, measure) in zip(
        figure.subplots(len(tasks), squeeze=False)[:, 0], tasks, strict=True
    ):
        axes.set(title=task, xlabel="bytes sent for a decision of one agent", ylabel=measure)
        axes.set_xscale("log", base=2)
        bits = axes.secondary_xaxis("top", functions=(_bits, _bytes))
        bits.set_xlabel("bits")
        for axis in (axes.xaxis, bits.xaxis):
            axis.set_major_formatter("{x:g}")
        _draw(axes, [row for row in items if (row.task, row.measure) == (task, measure)])
    save(figure, target)


def _draw(axes: Axes, items: list[Row]) -> None:
    for latent in sorted({row.latent for row in items}):
        line = [row for row in items if row.latent == latent and row.trained]
        if line:
            _errorbars(axes, line, f"entropy, latent {latent}", "o-")
            for row in line:
                axes.annotate(row.codec.partition(", ")[2], (row.bytes.mean, row.score.mean), fontsize=7,
                              rotation=-30, va="top", xytext=(3, -3), textcoords="offset points")  # fmt: skip
    for row in items:
        if not row.trained:
            _errorbars(axes, [row], f"{row.codec}, latent {row.latent}", "s")


def _errorbars(axes: Axes, items: list[Row], label: str, style: str) -> None:
    mean = [row.score.mean for row in items]
    below, above = (
        [abs(getattr(row.score, end) - row.score.mean) for row in items] for end in ("low", "high")
    )
    axes.errorbar(
        [row.bytes.mean for row in items], mean, (below, above), fmt=style, capsize=3, label=label
    )


def _bits(size: float) -> float:
    return 8 * size


def _bytes(bits: float) -> float:
    return bits / 8


def show_left_out(points: list[Point], console: Console) -> None:
    """Say what is no point, and why."""
    for item in points:
        if item.left_out:
            console.print(f"{item.path}: {item.left_out}: left out", markup=False, soft_wrap=True)


def find(runs: list[Run], args: argparse.Namespace) -> program.Findings:
    points = [point(run) for run in runs]
    items = rows(points)

    def show_all(console: Console) -> None:
        show(items, console)
        show_left_out(points, console)

    return program.Findings(
        [asdict(row) for row in items], show_all, lambda target: plot(items, target)
    )


def main() -> int:
    """Returns the exit code: 2 where a file can't be read or written."""
    options = program.parser(__doc__)
    program.figure_options(options, "the curve", "the rows as JSON instead of the tables")
    return program.tell(options, WIDTH, find)


if __name__ == "__main__":
    sys.exit(main())
