"""Compare algorithms on each task by their greedy evaluations and their speed, over seeds.

python analysis/compare.py RUN.h5 [RUN2.h5 ...] [--reference FILE.csv] [--plot FILE.png] [--json]
python analysis/compare.py --reference FILE.csv [--reference FILE2.csv ...] [--plot FILE.png]

The runs of one algorithm and experiment (record.exp) that differ in nothing but the seed count
together. Curves of a reference stand beside those of the runs that play the same task; without any
run, all of them are shown.
"""

from __future__ import annotations

import argparse
import math
import sys
from collections.abc import Collection
from dataclasses import asdict
from pathlib import Path
from typing import TYPE_CHECKING

from rich.console import Console

from sde_harl.analysis import figures, program, tables
from sde_harl.analysis.comparison import Groups, Member, Row, align, compare, group, members_of
from sde_harl.analysis.reference import read_references
from sde_harl.errors import UserError
from sde_harl.record.reader import Run

if TYPE_CHECKING:
    from matplotlib.axes import Axes

WIDTH = 130  # where the output is no terminal
COLUMNS = ("algorithm", "seeds", "steps", "final", "IQM (95 % interval)", "steps/s")


def show(rows: list[Row], console: Console) -> None:
    """Prints a table for each task: means, and ranges where the seeds differ.

    IQM is the interquartile mean of the final evaluations, with a bootstrap's interval.
    """
    # dict.fromkeys instead of a set: the tables keep the order of the rows.
    for task, measure in dict.fromkeys((row.task, row.measure) for row in rows):
        table = tables.new_table(COLUMNS, left=("algorithm", "seeds"))
        tables.add_title(table, f"{task}, {measure}")
        for row in rows:
            if (row.task, row.measure) == (task, measure):
                table.add_row(*_cells(row))
        console.print(table)


def _cells(row: Row) -> list[str]:
    return [
        row.name,
        ", ".join(row.seeds),
        row.steps.shown(",.0f"),
        row.final.shown(".3f"),
        row.final_iqm.shown(".3f"),
        row.steps_per_s.shown(",.0f"),
    ]


def show_left_out(members: list[Member], console: Console) -> None:
    """Prints which runs are missing from the tables, and why."""
    for each in members:
        if not each.curve.values:
            reason = "no evaluations were recorded in this run: left out"
            tables.print_line(console, f"{each.curve.path}: {reason}")


def plot(groups: Groups, target: Path) -> None:
    """Draws a panel for each task and a line for each name: mean and range over its seeds.

    "HARL's happo" has the colour of "happo", if that is there, and is dashed.
    """
    measures = [task.measure for task in groups]
    every = [each for named in groups.values() for members in named.values() for each in members]
    # Dashed beside them: a reference's evaluations need not be measured as those of the runs are.
    has_runs = any(each.curve.source != "reference" for each in every)
    figure, panels = figures.new_panels(measures or ["return"])
    if not groups:
        figures.say(panels[0], "No evaluations were recorded in these runs.")
    # Without any evaluation there is a panel and no group, so this zip is not strict.
    for panel, (task, named) in zip(panels, groups.items()):
        panel.set_title(task.env)
        colours: dict[str, str] = {}
        # An algorithm stands before those that are named after it: their names are longer.
        for own_name, _, name in sorted((_own(each, named), len(each), each) for each in named):
            is_reference = named[name][0].curve.source == "reference"
            is_dashed = own_name != name or (has_runs and is_reference)
            colours[name] = _draw_line(
                panel,
                name,
                named[name],
                linestyle="--" if is_dashed else "-",
                color=colours.get(own_name),
            )
    figures.add_legends(figure)
    figures.save(figure, target)


def _own(name: str, named: Collection[str]) -> str:
    """Returns "happo" of "HARL's happo" if that is among the names, else the name."""
    after = name.rpartition("'s ")[2]
    return after if after in named else name


def _draw_line(
    panel: Axes, name: str, members: list[Member], *, linestyle: str, color: str | None
) -> str:
    """Draws a line and returns its colour: a new one where none is given."""
    steps, values = align([each.curve for each in members])
    label = f"{name} ({tables.plural(len(members), 'run')})"
    how = {"label": label, "linestyle": linestyle} | ({"color": color} if color else {})
    colour = figures.draw_line(panel, steps, values.mean(0), **how)
    panel.fill_between(steps, values.min(0), values.max(0), color=colour, alpha=0.2, linewidth=0)
    return colour


def _read_rivals(references: list[Path], members: list[Member]) -> list[Member]:
    """Returns the references' curves of the tasks that the members play, or all for no member."""
    # A reference may hold many tasks; those that no run plays would only fill the table.
    played = {each.curve.env for each in members}
    return [
        Member(curve=curve, steps_per_s=math.nan)
        for curve in read_references(references)
        if curve.env in played or not members
    ]


def find(runs: list[Run], args: argparse.Namespace) -> program.Findings:
    if not runs and not args.reference:
        raise UserError("name a run, or a --reference FILE.csv")
    members = members_of(runs)
    members += _read_rivals(args.reference, members)
    groups = group(members)
    rows = compare(groups)

    def show_all(console: Console) -> None:
        show(rows, console)
        show_left_out(members, console)

    return program.Findings(
        rows=[asdict(row) for row in rows], show=show_all, plot=lambda target: plot(groups, target)
    )


def main() -> int:
    """Returns the exit code: 2 where a file can't be read or written."""
    parser = program.argument_parser(__doc__, needs_runs=False)
    parser.add_argument(
        "--reference",
        action="append",
        default=[],
        type=Path,
        metavar="FILE.csv",
        help="curves of another program or of older runs: env,algo,seed,step,return",
    )
    program.add_figure_options(
        parser,
        drawn="mean and range over environment steps",
        printed="the rows as JSON instead of the tables",
    )
    return program.run_and_show(parser, WIDTH, find)


if __name__ == "__main__":
    sys.exit(main())
