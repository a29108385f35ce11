"""ESTIMATE joules from the measured processor time and from watts that you give.

python analysis/energy_model.py RUN.h5 [RUN2.h5 ...] --watts W [--watts HOST=W ...] [--json FILE|-]

It measures no energy: joules = CPU seconds of a rank x W, the watts that one busy core of its host
draws above idle. Take W from your own meter. Where the host has a sensor, resource_consumption.py
shows what it measured instead.
"""

from __future__ import annotations

import argparse
import sys
from dataclasses import asdict
from pathlib import Path

from rich.console import Console

from sde_harl.analysis import figures, program, tables
from sde_harl.analysis.each_run import of_each
from sde_harl.analysis.energy_estimates import Estimate, estimate, host_and_watts
from sde_harl.record.reader import Run
from sde_harl.record.terminal import PlainConsole

WIDTH = 110  # where the output is no terminal
NAMES = ("run", "rank", "host")
NUMBERS = ("CPU s", "W given", "J estimated", "mJ a decision, estimated")
STDOUT = "-"


def show(estimates: list[Estimate], console: Console) -> None:
    """Prints a line for each rank."""
    table = tables.new_table((*NAMES, *NUMBERS), left=NAMES)
    # In capitals and above the table, so that it isn't quoted as a measurement.
    table.title = "ESTIMATE: measured CPU seconds x the watts that were given"
    for each in estimates:
        millijoules = each.joules_per_decision * 1e3
        numbers = (each.cpu_s, each.watts, each.joules, millijoules)
        table.add_row(
            Path(each.run).resolve().parent.name,
            each.rank,
            each.host,
            *(tables.number(value, ".3g") for value in numbers),
        )
    console.print(table)


def report(runs: list[Run], args: argparse.Namespace) -> None:
    watts = dict(args.watts)
    found = of_each(runs, lambda run: estimate(run, watts))
    estimates = [each for of_run in found for each in of_run]
    text = program.as_json([asdict(each) for each in estimates])
    # Only JSON on standard output: a program that reads it can't read a table too.
    if args.json == STDOUT:
        print(text)
        return
    if args.json:
        Path(args.json).write_text(text + "\n")
        figures.tell_written(Path(args.json))
    show(estimates, PlainConsole(width=WIDTH))


def main() -> int:
    """Returns the exit code: 2 where a file can't be read or a host has no watts."""
    parser = program.argument_parser(__doc__)
    parser.add_argument(
        "--watts",
        type=host_and_watts,
        action="append",
        required=True,
        metavar="[HOST=]W",
        help="what a busy core draws above idle, of one host or of all",
    )
    parser.add_argument(
        "--json", metavar="FILE", help="write JSON; - for standard output, without a table"
    )
    return program.run(parser, report)


if __name__ == "__main__":
    sys.exit(main())
