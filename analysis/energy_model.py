"""ESTIMATES joules from the processor time that was measured and watts that you give; it measures no energy.

python analysis/energy_model.py RUN.h5 [RUN2.h5 ...] --watts W [--watts HOST=W ...] [--json FILE|-]

joules = CPU seconds of a rank x W, the watts that one busy core of its host draws above idle. Take W from your own
meter. Where the host has a sensor, resource_consumption.py shows what it measured instead.
"""

from __future__ import annotations

import argparse
import math
import sys
from dataclasses import asdict, dataclass
from pathlib import Path

from rich import box
from rich.table import Table

from sde_harl.analysis import program
from sde_harl.analysis.consumption import ALL, summarise
from sde_harl.errors import UserError
from sde_harl.record.reader import Run

WIDTH = 110


@dataclass(frozen=True)
class Estimate:
    """Of one rank."""

    run: str
    rank: str
    host: str
    cpu_s: float  # measured
    watts: float  # given
    joules: float  # estimated
    joules_per_decision: float  # estimated


def estimates(run: Run, watts: dict[str, float]) -> list[Estimate]:
    """A rank's estimate each. `watts` by host, "" for all others. Raises UserError where a host has none."""
    report = summarise(run)
    made = [row for row in report.rows if row.rank != ALL]
    found = []
    for row in made:
        given = watts.get(row.host, watts.get("", math.nan))
        if math.isnan(given):
            raise UserError(f"{run.path}: no --watts for its host {row.host}")
        joules = row.cpu_s * given
        decisions = row.decisions or (report.rows[-1].decisions if row.rank == "0" else 0)
        each = joules / decisions if decisions else math.nan
        found.append(Estimate(str(run.path), row.rank, row.host, row.cpu_s, given, joules, each))
    return found


def report(runs: list[Run], args: argparse.Namespace) -> None:
    watts = dict(args.watts)
    found = [each for run in runs for each in estimates(run, watts)]
    if args.json:
        text = program.as_json([asdict(each) for each in found])
        print(text) if args.json == "-" else Path(args.json).write_text(text + "\n")
    if args.json == "-":
        return
    table = Table(
        box=box.SIMPLE_HEAD, title="ESTIMATE: measured CPU seconds x the watts that were given"
    )
    for name in (
        "run",
        "rank",
        "host",
        "CPU s",
        "W given",
        "J estimated",
        "mJ a decision, estimated",
    ):
        table.add_column(name, justify="left" if name in ("run", "rank", "host") else "right")
    for each in found:
        numbers = (each.cpu_s, each.watts, each.joules, each.joules_per_decision * 1e3)
        table.add_row(
            Path(each.run).resolve().parent.name,
            each.rank,
            each.host,
            *(f"{n:.3g}" for n in numbers),
        )
    program.console(WIDTH).print(table)


def host_watts(text: str) -> tuple[str, float]:
    """W or HOST=W; raises ValueError for what is no positive number."""
    host, _, number = text.rpartition("=")
    value = float(number)
    if not 0 < value < math.inf:
        raise ValueError(text)
    return host, value


def main() -> int:
    """Returns the exit code: 2 where a file can't be read or a host has no watts."""
    options = program.parser(__doc__)
    options.add_argument(
        "--watts", type=host_watts, action="append", required=True, metavar="[HOST=]W",
        help="what a busy core draws above idle, of one host or of all",
    )  # fmt: skip
    options.add_argument(
        "--json", metavar="FILE", help="write JSON; - for standard output, without a table"
    )
    return program.run(options, report)


if __name__ == "__main__":
    sys.exit(main())
