"""Win rate, or return where winning means nothing, over environment steps: a line a run, a table of the last values.

python analysis/learning_curve.py RUN.h5 [RUN2.h5 ...] [--plot FILE.png] [--json]
"""

from __future__ import annotations

import argparse
import sys
from dataclasses import asdict
from pathlib import Path

from rich import box
from rich.console import Console
from rich.table import Table

from sde_harl.analysis import program
from sde_harl.analysis.curves import Curve, curve, panels, save, spread
from sde_harl.record.reader import Run

WIDTH = 120  # where the output is no terminal


def groups(curves: list[Curve]) -> dict[str, list[Curve]]:
    """Runs that differ in nothing but the seed, by env/algo/exp."""
    found: dict[str, list[Curve]] = {}
    for item in sorted(curves, key=lambda c: (c.env, c.algo, c.exp, c.seed)):
        found.setdefault("/".join((item.env, item.algo, item.exp)), []).append(item)
    return found


def show(curves: list[Curve], console: Console) -> None:
    """Print the table of last and best values, with each group's mean."""
    table = Table(box=box.SIMPLE_HEAD)
    for name in ("env/algo/exp", "seed", "of", "measure", "points", "steps", "last", "best"):
        table.add_column(
            name, justify="left" if name in ("env/algo/exp", "of", "measure") else "right"
        )
    for name, members in groups(curves).items():
        for item in members:
            table.add_row(name, item.seed, item.source, item.measure, *_figures(item))
        last = [item.values[-1] for item in members if item.values]
        if len(last) > 1 and len({item.measure for item in members}) == 1:
            mean = spread(last).shown(".3f")
            table.add_row(name, "mean", members[0].source, members[0].measure, "", "", mean, "")
        table.add_section()
    console.print(table)
    for item in curves:
        if not item.values:
            console.print(
                f"{item.path}: no evaluations and no training values were recorded in this run",
                markup=False,
                soft_wrap=True,
            )


def _figures(item: Curve) -> tuple[str, str, str, str]:
    if not item.values:
        return "0", "-", "-", "-"
    return (
        f"{len(item.values)}",
        f"{item.steps[-1]:,}",
        f"{item.values[-1]:.3f}",
        f"{max(item.values):.3f}",
    )


def plot(curves: list[Curve], target: Path) -> None:
    """A line a run, a colour a group, a panel a measure."""
    drawn = [item for item in curves if item.values]
    measures = sorted({item.measure for item in drawn}) or ["win rate"]
    figure, axes = panels(measures)
    for number, (name, members) in enumerate(groups(drawn).items()):
        for k, item in enumerate(members):
            label = f"{name} ({len(members)} run{'s' * (len(members) > 1)})" if k == 0 else None
            panel = axes[measures.index(item.measure)]
            panel.plot(item.steps, item.values, color=f"C{number}", alpha=0.8, label=label)
    save(figure, target)


def find(runs: list[Run], args: argparse.Namespace) -> program.Findings:
    curves = [curve(run) for run in runs]
    return program.Findings(
        [asdict(each) for each in curves],
        lambda console: show(curves, console),
        lambda target: plot(curves, target),
    )


def main() -> int:
    """Returns the exit code: 2 where a file can't be read or written."""
    options = program.parser(__doc__)
    program.figure_options(options, "the curves", "the curves as JSON instead of the table")
    return program.tell(options, WIDTH, find)


if __name__ == "__main__":
    sys.exit(main())
