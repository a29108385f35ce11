"""Show what a run's decisions cost: latency by stage, bytes, processor time, memory and energy.

python analysis/resource_consumption.py RUN.h5 [RUN2.h5 ...] [--json FILE|-] [--csv FILE]
    [--plot DIR] [--meter HOST=FILE]

There is a line for each rank and one for all. Times are the ones that the run measured as it went,
each on one host's own clock; nothing is computed from a model.
"""

from __future__ import annotations

import argparse
import math
import sys
from dataclasses import asdict
from pathlib import Path
from typing import Any

from sde_harl.analysis import figures, program, tables
from sde_harl.analysis.consumption import ALL, Report, Row, summarise
from sde_harl.analysis.consumption_csv import write_csv
from sde_harl.analysis.consumption_tables import show
from sde_harl.analysis.each_run import of_each
from sde_harl.analysis.latency import STAGES
from sde_harl.analysis.power_meter import host_and_file
from sde_harl.outside.text import printable
from sde_harl.record.reader import Run
from sde_harl.record.terminal import PlainConsole

WIDTH = 150  # where the output is no terminal
STDOUT = "-"


def write_json(reports: list[Report], target: str) -> None:
    """Writes a list with an object for each run; unknown values are null."""
    text = program.as_json([asdict(report) for report in reports])
    if target == STDOUT:
        print(text)
    else:
        Path(target).write_text(text + "\n")
        figures.tell_written(Path(target))


def plot(reports: list[Report], folder: Path) -> None:
    """Draws two PNG files for each run with decisions: latency by stage and rank, and bytes."""
    folder.mkdir(parents=True, exist_ok=True)
    for number, report in enumerate(reports):
        # An empty figure would look like latencies of 0.
        if not report.rows or not report.rows[-1].messages:
            print(printable(f"{report.path}: no decisions, so no figure"), file=sys.stderr)
            continue
        # The number tells apart runs whose folders have the same name.
        stem = f"{number}-{Path(report.path).resolve().parent.name}"
        _plot_latency(report, folder / f"{stem}-latency.png")
        _plot_bytes(report, folder / f"{stem}-bytes.png")


def _plot_latency(report: Report, target: Path) -> None:
    figure = figures.new_figure(8, 4.5)
    _draw_latency(figure.add_subplot(), report)
    figure.suptitle(_title(report))
    figures.save(figure, target)


def _plot_bytes(report: Report, target: Path) -> None:
    figure = figures.new_figure(6, 4.5)
    _draw_bytes(figure.add_subplot(), report)
    figure.suptitle(_title(report))
    figures.save(figure, target)


def _title(report: Report) -> str:
    hosts = tables.plural(len(set(report.hosts)), "host")
    title = f"{report.env}, {report.algo}, {report.placement}, {hosts}"
    if report.emulated:
        title += f", emulated: {report.emulated}"
    return title


def _draw_latency(axes: Any, report: Report) -> None:
    rows = [row for row in report.rows if row.messages]
    names = [_label(row) for row in rows]
    bottom = [0.0] * len(rows)
    for stage in STAGES:
        if stage == "whole":  # the stages are stacked up to it
            continue
        heights = [_height(row.latency[stage].p50) for row in rows]
        axes.bar(names, heights, bottom=bottom, label=stage)
        bottom = [low + high for low, high in zip(bottom, heights, strict=True)]
    figures.leave_room(axes, len(rows))
    axes.set(xlabel="rank", ylabel="median latency of a message, us")
    figures.add_legend(axes, columns=len(STAGES), tick_lines=2)


def _label(row: Row) -> str:
    if row.rank == ALL:
        return ALL
    return f"{row.rank}\n{row.host}"


def _height(value: float) -> float:
    """Returns 0 for what is unknown: a NaN would hide all bars stacked above it."""
    if math.isnan(value):
        return 0.0
    return value


def _draw_bytes(axes: Any, report: Report) -> None:
    sizes = asdict(report.rows[-1].bytes)
    # A bar of 0 bytes would claim that nothing was sent.
    known = {name: value for name, value in sizes.items() if not math.isnan(value)}
    bars = axes.bar(list(known), list(known.values()))
    axes.bar_label(bars, fmt="%.1f")
    # What codecs send differs by factors, so equal factors get equal distances.
    figures.make_logarithmic(axes.yaxis)
    axes.set(ylabel="bytes for one decision of one agent")
    axes.tick_params(axis="x", rotation=20)


def report_on(runs: list[Run], args: argparse.Namespace) -> None:
    meters = dict(args.meter)
    reports = of_each(runs, lambda run: summarise(run, meters))
    # JSON on standard output must be all that stands there.
    if args.json != STDOUT:
        console = PlainConsole(width=WIDTH)
        for report in reports:
            show(report, console)
    if args.json:
        write_json(reports, args.json)
    if args.csv:
        write_csv(reports, args.csv)
        figures.tell_written(args.csv)
    if args.plot:
        plot(reports, args.plot)


def main() -> int:
    """Returns the exit code: 2 where a file can't be read or written."""
    parser = program.argument_parser(__doc__)
    parser.add_argument(
        "--json", metavar="FILE", help="write JSON; - for standard output, without tables"
    )
    parser.add_argument("--csv", type=Path, metavar="FILE", help="write one line a run and rank")
    parser.add_argument("--plot", type=Path, metavar="DIR", help="draw PNG files into DIR")
    _add_meter_option(parser)
    return program.run(parser, report_on)


def _add_meter_option(parser: argparse.ArgumentParser) -> None:
    parser.add_argument(
        "--meter",
        type=host_and_file,
        action="append",
        default=[],
        metavar="HOST=FILE",
        help="an external power meter of a host: columns unix_s (the server's clock) and watts",
    )


if __name__ == "__main__":
    sys.exit(main())
