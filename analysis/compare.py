"""Algorithms side by side: a table a task, of greedy evaluations and speed, over the seeds of each algorithm, and of
each of its experiments (record.exp) where it has several.

python analysis/compare.py RUN.h5 [RUN2.h5 ...] [--reference FILE.csv] [--plot FILE.png] [--json]
"""

from __future__ import annotations

import argparse
import math
import sys
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import NamedTuple

import numpy as np
from rich import box
from rich.console import Console
from rich.table import Table

from sde_harl.analysis import program
from sde_harl.analysis.curves import Curve, Spread, curve, panels, save, spread
from sde_harl.analysis.reference import reference
from sde_harl.record.reader import Run
from sde_harl.record.schema import Array

WIDTH = 120  # where the output is no terminal


@dataclass(frozen=True)
class Row:
    """One algorithm, or experiment of it, on one task. The best evaluation is each run's own."""

    task: str
    measure: str
    algo: str
    exp: str
    name: str
    seeds: list[str]
    steps: Spread  # environment steps at the last evaluation
    final: Spread
    best: Spread
    steps_per_s: (
        Spread  # environment steps/s of acting, learning and recording, without the evaluations
    )


class Member(NamedTuple):
    """One run."""

    curve: Curve
    steps_per_s: float


Groups = dict[tuple[str, str], dict[str, list[Member]]]
"""Members by task and measure, then by name: the algorithm's, and where it has several experiments, theirs too."""


def member(run: Run) -> Member:
    """Raises UserError."""
    return Member(curve(run, ("evaluations",)), _speed(run))


def _speed(run: Run) -> float:
    """All updates are of as many steps, so steps over time is the harmonic mean of their speeds."""
    speeds = run.table("training").get("steps_per_s", np.zeros(0)).astype(np.float64)
    known = speeds[speeds > 0]
    return float(len(known) / (1 / known).sum()) if len(known) else math.nan


def groups(members: list[Member]) -> Groups:
    """Those with evaluations: the seeds of a name in order."""
    found: Groups = {}
    known = sorted(
        (item for item in members if item.curve.values), key=lambda item: item.curve.seed
    )
    experiments: dict[tuple[str, str], set[str]] = {}
    for item in known:
        experiments.setdefault((item.curve.env, item.curve.algo), set()).add(item.curve.exp)
    for item in sorted(
        known,
        key=lambda item: (item.curve.env, item.curve.measure, item.curve.algo, item.curve.exp),
    ):
        env, algo, exp = item.curve.env, item.curve.algo, item.curve.exp
        name = f"{algo}, {exp}" if len(experiments[env, algo]) > 1 else algo
        found.setdefault((env, item.curve.measure), {}).setdefault(name, []).append(item)
    return found


def rows(found: Groups) -> list[Row]:
    """By task; the highest final mean first."""
    made = [
        _row(*task, name, members)
        for task, named in found.items()
        for name, members in named.items()
    ]
    return sorted(made, key=lambda row: (row.task, row.measure, -row.final.mean))


def _row(task: str, measure: str, name: str, members: list[Member]) -> Row:
    curves = [item.curve for item in members]
    return Row(
        task, measure, curves[0].algo, curves[0].exp, name, [item.seed for item in curves],
        steps=spread(item.steps[-1] for item in curves),
        final=spread(item.values[-1] for item in curves),
        best=spread(max(item.values) for item in curves),
        steps_per_s=spread(item.steps_per_s for item in members),
    )  # fmt: skip


def show(items: list[Row], console: Console) -> None:
    """Print a table for each task: means, and ranges where the seeds differ."""
    for task, measure in dict.fromkeys((row.task, row.measure) for row in items):
        table = Table(
            box=box.SIMPLE_HEAD, title=f"{task}, {measure}", title_justify="left", title_style=""
        )
        for name in ("algorithm", "seeds", "steps", "final", "best", "steps/s"):
            table.add_column(name, justify="left" if name in ("algorithm", "seeds") else "right")
        for row in items:
            if (row.task, row.measure) == (task, measure):
                table.add_row(row.name, ", ".join(row.seeds), *_cells(row))
        console.print(table)


def _cells(row: Row) -> tuple[str, str, str, str]:
    final, best = row.final.shown(".3f"), row.best.shown(".3f")
    return row.steps.shown(",.0f"), final, best, row.steps_per_s.shown(",.0f")


def show_left_out(members: list[Member], console: Console) -> None:
    """Which runs are missing."""
    for path in (item.curve.path for item in members if not item.curve.values):
        console.print(
            f"{path}: no evaluations were recorded in this run: left out",
            markup=False,
            soft_wrap=True,
        )


def plot(found: Groups, target: Path) -> None:
    """A panel a task, a line a name: the mean over its seeds, and their range."""
    figure, axes = panels([measure for _, measure in found] or ["return"])
    for panel, ((task, _), named) in zip(axes, found.items()):
        panel.set_title(task)
        for name, members in named.items():
            steps, values = together([item.curve for item in members])
            line = "--" if members[0].curve.source == "reference" else "-"
            label = f"{name} ({len(members)} run{'s' * (len(members) > 1)})"
            panel.plot(steps, values.mean(0), line, label=label)
            panel.fill_between(steps, values.min(0), values.max(0), alpha=0.2)
    save(figure, target)


def together(curves: list[Curve]) -> tuple[Array, Array]:
    """The steps (K,) that any was evaluated at and all have reached, and every one's values there (runs, K).

    Between two evaluations of its own, a curve is taken as straight.
    """
    first, last = max(item.steps[0] for item in curves), min(item.steps[-1] for item in curves)
    steps = np.unique([step for item in curves for step in item.steps])
    steps = steps[(steps >= first) & (steps <= last)]
    return steps, np.stack([np.interp(steps, item.steps, item.values) for item in curves])


def find(runs: list[Run], args: argparse.Namespace) -> program.Findings:
    members = [member(run) for run in runs]
    played = {item.curve.env for item in members}
    others = reference(args.reference) if args.reference else []
    members += [Member(item, math.nan) for item in others if item.env in played]
    found = groups(members)
    items = rows(found)

    def show_all(console: Console) -> None:
        show(items, console)
        show_left_out(members, console)

    return program.Findings(
        [asdict(row) for row in items], show_all, lambda target: plot(found, target)
    )


def main() -> int:
    """Returns the exit code: 2 where a file can't be read or written."""
    options = program.parser(__doc__)
    options.add_argument(
        "--reference",
        type=Path,
        metavar="FILE.csv",
        help="another program's curves: env,algo,seed,step,return",
    )
    program.figure_options(
        options, "mean and range over environment steps", "the rows as JSON instead of the tables"
    )
    return program.tell(options, WIDTH, find)


if __name__ == "__main__":
    sys.exit(main())
