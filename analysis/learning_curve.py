"""Show the win rate, or the return where there is no winner, of each run over environment steps.

python analysis/learning_curve.py RUN.h5 [RUN2.h5 ...] [--plot FILE.png] [--json]

The table has the last and the best value of each run, and the mean over the seeds of an experiment.
"""

from __future__ import annotations

import argparse
import sys
from dataclasses import asdict
from pathlib import Path

from rich.console import Console
from rich.table import Table

from sde_harl.analysis import figures, program, tables
from sde_harl.analysis.learning_curves import Curve, by_experiment, learning_curves
from sde_harl.analysis.statistics import spread
from sde_harl.record.reader import Run

WIDTH = 120  # where the output is no terminal
COLUMNS = ("env/algo/exp", "seed", "of", "measure", "points", "steps", "last", "best")
LEFT = ("env/algo/exp", "of", "measure")
EMPTY = "no evaluations and no training values were recorded in this run"


def show(curves: list[Curve], console: Console) -> None:
    """Prints the table of last and best values, with each experiment's mean."""
    table = tables.new_table(COLUMNS, left=LEFT)
    for name, members in by_experiment(curves).items():
        for curve in members:
            table.add_row(name, curve.seed, curve.source, curve.measure, *_numbers(curve))
        _add_mean(table, name, members)
        table.add_section()
    console.print(table)
    for curve in curves:
        if not curve.values:
            tables.print_line(console, f"{curve.path}: {EMPTY}")


def _add_mean(table: Table, name: str, members: list[Curve]) -> None:
    # Runs that have just begun have no value yet.
    last = [curve.values[-1] for curve in members if curve.values]
    measures = {curve.measure for curve in members}
    # A mean over win rates and returns would be the mean of nothing.
    if len(last) < 2 or len(measures) > 1:
        return
    mean = spread(last).shown(".3f")
    table.add_row(name, "mean", members[0].source, members[0].measure, "", "", mean, "")


def _numbers(curve: Curve) -> tuple[str, str, str, str]:
    # A dash, not a 0: nothing was measured.
    if not curve.values:
        return "0", "-", "-", "-"
    return (
        f"{len(curve.values)}",
        f"{curve.steps[-1]:,}",
        f"{curve.values[-1]:.3f}",
        f"{max(curve.values):.3f}",
    )


def plot(curves: list[Curve], target: Path) -> None:
    """Draws a panel for each measure, a line for each run, a colour for each experiment."""
    drawn = [curve for curve in curves if curve.values]
    measures = sorted({curve.measure for curve in drawn}) or ["win rate"]
    figure, panels = figures.new_panels(measures)
    if not drawn:
        figures.say(panels[0], f"There is nothing to draw: {EMPTY}.")
    for number, (name, members) in enumerate(by_experiment(drawn).items()):
        # Only the first line of a colour is labelled: the legend lists experiments, not runs.
        label: str | None = f"{name} ({tables.plural(len(members), 'run')})"
        for curve in members:
            panel = panels[measures.index(curve.measure)]
            style = {"color": f"C{number}", "alpha": 0.8, "label": label}
            figures.draw_line(panel, curve.steps, curve.values, linestyle="-", **style)
            label = None
    figures.add_legends(figure)
    figures.save(figure, target)


def find(runs: list[Run], args: argparse.Namespace) -> program.Findings:
    curves = learning_curves(runs)
    return program.Findings(
        rows=[asdict(curve) for curve in curves],
        show=lambda console: show(curves, console),
        plot=lambda target: plot(curves, target),
    )


def main() -> int:
    """Returns the exit code: 2 where a file can't be read or written."""
    parser = program.argument_parser(__doc__)
    program.add_figure_options(
        parser, drawn="the curves", printed="the curves as JSON instead of the table"
    )
    return program.run_and_show(parser, WIDTH, find)


if __name__ == "__main__":
    sys.exit(main())
