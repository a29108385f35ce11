"""Compare latency, uplink bytes and processor time of a split policy with what it replaces.

python analysis/prototype.py RUN.h5 [RUN2.h5 ...] [--plot FILE.png] [--json]

These are the claims of the paper. The runs must be of one environment on the same hosts and links,
such as jobs/testbed/claims.sh makes. Runs of one setup count together; they may differ in nothing
but the seed.
"""

from __future__ import annotations

import argparse
import math
import sys
from collections.abc import Callable
from dataclasses import asdict
from pathlib import Path
from typing import Any

from rich.console import Console

from sde_harl.analysis import figures, program, tables
from sde_harl.analysis.setups import CODED, Setup, setups
from sde_harl.record.reader import Run

WIDTH = 130  # where the output is no terminal

COLUMNS: dict[str, Callable[[Setup], float]] = {
    "p50 ms": lambda setup: setup.latency.p50 / 1e3,
    "p95 ms": lambda setup: setup.latency.p95 / 1e3,
    "p99 ms": lambda setup: setup.latency.p99 / 1e3,
    "payload B": lambda setup: setup.payload,
    "frame B": lambda setup: setup.frame,
    "interface B": lambda setup: setup.network,
    "CPU us": lambda setup: setup.device_cpu_us,
    "mJ": lambda setup: setup.device_mj,
}
# The name of a ratio, and the column that it is a ratio of.
RATIOS = {
    "latency p50": "p50 ms",
    "payload": "payload B",
    "interface bytes": "interface B",
    "device CPU": "CPU us",
    "energy": "mJ",
}
PAPER = {"latency p50": "2", "interface bytes": "5", "energy": "2.5"}
"""What the paper claims of existing work, in multiples of SDE-HARL's figures."""
NOTES = (
    "measured, all of it; latency: from the observation at the device to the action there,"
    " of one message",
    "bytes: what the devices send for one decision; frame: with our header;"
    " interface: the kernel's count, with MPI's,",
    "TCP's, IP's and Ethernet's headers and the acknowledgements",
    "CPU: of the devices' processes for one decision, waiting included;"
    " - where one process held server and devices",
    "mJ: of the devices' whole hosts for one decision, where they have sensors;"
    " emulated hosts have none of their own",
)


def show(items: list[Setup], console: Console) -> None:
    """Prints the setups, and each one's figures in multiples of the coded split's."""
    first = items[0]
    links = "real links"
    if first.emulated:
        links = f"emulated: {first.emulated}"
    tables.print_line(console, f"{first.env}, {links}")
    _show_figures(items, console)
    _show_ratios(items, console)
    tables.print_notes(console, (*NOTES, _agreement(items)))


def _show_figures(items: list[Setup], console: Console) -> None:
    table = tables.new_table(("setup", "runs", "decisions", *COLUMNS), left=("setup",), narrow=True)
    for item in items:
        cells = [
            tables.number(figure(item), _number_format(name)) for name, figure in COLUMNS.items()
        ]
        table.add_row(item.name, str(item.runs), f"{item.decisions:,}", *cells)
    console.print(table)


def _number_format(column: str) -> str:
    if column.endswith("ms"):
        return ",.2f"
    return ",.1f"


def _show_ratios(items: list[Setup], console: Console) -> None:
    label = f"times {CODED}"
    table = tables.new_table((label, *RATIOS), left=(label,), narrow=True)
    for item in items:
        # The coded split itself would be a row of ones.
        if item.name != CODED:
            ratios = against_coded(item, items).values()
            table.add_row(item.name, *(tables.number(ratio, ".2f") for ratio in ratios))
    claims = (PAPER.get(name, "") for name in RATIOS)
    table.add_row("the paper's claim, of existing work", *claims)
    console.print(table)


def _agreement(items: list[Setup]) -> str:
    """Says how far the interfaces' count is from the bytes that we claim to have sent."""
    excesses = [abs(item.excess) for item in items if not math.isnan(item.excess)]
    if not excesses:
        return "interface bytes: unknown: the hosts share memory, or the record is an older one"
    return (
        f"interface bytes are within {max(excesses):.1%} of those claimed"
        " (sde_harl/analysis/traffic.py)"
    )


def against_coded(item: Setup, items: list[Setup]) -> dict[str, float]:
    """Returns a setup's figures in multiples of the coded split's."""
    # `setups` refuses runs without a coded split, so there is exactly one.
    [coded] = [each for each in items if each.name == CODED]
    return {name: _ratio(COLUMNS[key](item), COLUMNS[key](coded)) for name, key in RATIOS.items()}


def _ratio(value: float, base: float) -> float:
    # A coded split without energy, for instance, has nothing to divide by.
    if not base:
        return math.nan
    return value / base


def plot(items: list[Setup], target: Path) -> None:
    """Draws three panels: latency, bytes up, and processor time of the devices."""
    figure = figures.new_figure(11, 4)
    latency, size, cpu = figure.subplots(1, 3)
    names = [item.name.replace(", ", ",\n").replace("all on ", "all on\n") for item in items]
    _draw_latency(latency, names, items)
    _draw_bytes(size, names, items)
    _draw_cpu(cpu, names, items)
    # Names of two lines still touch each other at the usual size.
    for axes in figure.axes:
        figures.leave_room(axes, len(names))
        axes.tick_params(axis="x", labelsize=7)
    figure.suptitle(_title(items[0]))
    # jobs/testbed/claims.sh names a folder that may not be there yet.
    target.parent.mkdir(parents=True, exist_ok=True)
    figures.save(figure, target)


def _title(item: Setup) -> str:
    if item.emulated:
        return f"{item.env}, emulated: {item.emulated}"
    return item.env


def _draw_latency(axes: Any, names: list[str], items: list[Setup]) -> None:
    medians = [item.latency.p50 / 1e3 for item in items]
    # The error bars end at p99 and go upwards only.
    below = [0.0] * len(items)
    above = [item.latency.p99 / 1e3 - median for item, median in zip(items, medians, strict=True)]
    axes.bar(names, medians, yerr=[below, above], capsize=4)
    # The lower cap alone would pass for the end of a range.
    axes.plot(names, medians, "o", color=figures.INK)
    axes.set(ylabel="latency of a decision, ms\nmedian, and up to p99")


def _draw_bytes(axes: Any, names: list[str], items: list[Setup]) -> None:
    # The payload's bar is drawn over this one, so that what is left to see above it is overhead.
    network = [item.network for item in items]
    if not all(map(math.isnan, network)):
        axes.bar(names, network, label="headers and acknowledgements", color="0.7")
    bars = axes.bar(names, [item.payload for item in items], label="payload")
    axes.bar_label(bars, fmt="%.0f")
    axes.set(ylabel="bytes up for a decision")
    figures.add_legend(axes)


def _draw_cpu(axes: Any, names: list[str], items: list[Setup]) -> None:
    used = [item.device_cpu_us for item in items]
    if all(map(math.isnan, used)):
        reasons = "a run reported it once, or in one process with the server's"
        figures.say(axes, f"The processor time of the devices is unknown: {reasons}.")
        return
    axes.bar(names, used)
    axes.set(ylabel="processor time of the device\nfor a decision, us")


def find(runs: list[Run], args: argparse.Namespace) -> program.Findings:
    items = setups(runs)
    return program.Findings(
        rows=[asdict(item) | {"against_coded": against_coded(item, items)} for item in items],
        show=lambda console: show(items, console),
        plot=lambda target: plot(items, target),
    )


def main() -> int:
    """Returns the exit code: 2 where a file can't be used, or the runs can't be compared."""
    parser = program.argument_parser(__doc__)
    program.add_figure_options(
        parser,
        drawn="latency, bytes and processor time",
        printed="the setups as JSON instead of the tables",
    )
    return program.run_and_show(parser, WIDTH, find)


if __name__ == "__main__":
    sys.exit(main())
