"""The paper's claims: latency, uplink bytes and processor time of a split policy against what it replaces.

python analysis/prototype.py RUN.h5 [RUN2.h5 ...] [--plot FILE.png] [--json]

The runs are of one environment on the same hosts and links, such as jobs/testbed/claims.sh makes. Runs of one setup
count together.
"""

from __future__ import annotations

import argparse
import math
import sys
from dataclasses import asdict
from pathlib import Path

from rich import box
from rich.console import Console
from rich.table import Table

from sde_harl.analysis import program
from sde_harl.analysis.claims import CODED, Setup, setups
from sde_harl.record.reader import Run

WIDTH = 130  # where the output is no terminal
PAPER = {"latency p50": "2", "interface bytes": "5", "energy": "2.5"}
"""What it says of existing work, in multiples of SDE-HARL's."""
COLUMNS = {
    "p50 ms": lambda item: item.latency.p50 / 1e3,
    "p95 ms": lambda item: item.latency.p95 / 1e3,
    "p99 ms": lambda item: item.latency.p99 / 1e3,
    "payload B": lambda item: item.payload,
    "frame B": lambda item: item.frame,
    "interface B": lambda item: item.network,
    "CPU us": lambda item: item.device_cpu_us,
    "mJ": lambda item: item.device_mj,
}
RATIOS = {
    "latency p50": "p50 ms",
    "payload": "payload B",
    "interface bytes": "interface B",
    "device CPU": "CPU us",
    "energy": "mJ",
}
NOTES = (
    "measured, all of it; latency: from the observation at the device to the action there, of one message",
    "bytes: what the devices send for one decision; frame: with our header; interface: the kernel's count, with MPI's,",
    "TCP's, IP's and Ethernet's headers and the acknowledgements",
    "CPU: of the devices' processes for one decision, waiting included",
    "mJ: of the devices' whole hosts for one decision, where they have sensors; emulated hosts have none of their own",
)


def show(items: list[Setup], console: Console) -> None:
    """Print the setups, and each one's figures in multiples of the coded split's."""
    first = items[0]
    console.print(
        f"{first.env}, {first.emulated and 'emulated: ' + first.emulated or 'real links'}",
        markup=False,
    )
    table = Table(box=box.SIMPLE_HEAD, padding=(0, 1, 0, 0))
    for name in ("setup", "runs", "decisions", *COLUMNS):
        table.add_column(name, justify="left" if name == "setup" else "right")
    for item in items:
        cells = [
            _number(figure(item), ",.2f" if "ms" in name else ",.1f")
            for name, figure in COLUMNS.items()
        ]
        table.add_row(item.name, str(item.runs), f"{item.decisions:,}", *cells)
    console.print(table)
    ratios = Table(box=box.SIMPLE_HEAD, padding=(0, 1, 0, 0))
    for name in (f"times {CODED}", *RATIOS):
        ratios.add_column(name, justify="left" if name.startswith("times") else "right")
    for item in items:
        if item.name != CODED:
            ratios.add_row(
                item.name, *(_number(value, ".2f") for value in against(item, items).values())
            )
    ratios.add_row("the paper's claim, of existing work", *(PAPER.get(name, "") for name in RATIOS))
    console.print(ratios)
    worst = max(
        (abs(item.excess) for item in items if not math.isnan(item.excess)), default=math.nan
    )
    agreement = "interface bytes: unknown: the hosts share memory, or the record is an older one"
    if not math.isnan(worst):
        agreement = f"interface bytes are within {worst:.1%} of those claimed (analysis/traffic.py)"
    for note in (*NOTES, agreement):
        console.print(f"  {note}", markup=False, highlight=False, soft_wrap=True)


def against(item: Setup, items: list[Setup]) -> dict[str, float]:
    """A setup's figures in multiples of the coded split's."""
    [coded] = [each for each in items if each.name == CODED]
    return {name: _ratio(COLUMNS[key](item), COLUMNS[key](coded)) for name, key in RATIOS.items()}


def _ratio(value: float, base: float) -> float:
    return value / base if base else math.nan


def _number(value: float, form: str) -> str:
    return "-" if math.isnan(value) else format(value, form)


def plot(items: list[Setup], target: Path) -> None:
    """Three panels: latency (median, and up to p99), bytes up, processor time of the devices."""
    from matplotlib.figure import Figure

    figure = Figure(figsize=(11, 4), layout="constrained")
    latency, size, cpu = figure.subplots(1, 3)
    names = [item.name.replace(", ", ",\n").replace("all on ", "all on\n") for item in items]
    medians = [item.latency.p50 / 1e3 for item in items]
    above = [item.latency.p99 / 1e3 - median for item, median in zip(items, medians)]
    latency.bar(names, medians, yerr=[[0.0] * len(items), above], capsize=4)
    latency.set(ylabel="latency of a decision, ms\nmedian, and up to p99")
    size.bar(
        names, [item.network for item in items], label="headers and acknowledgements", color="0.7"
    )
    size.bar_label(size.bar(names, [item.payload for item in items], label="payload"), fmt="%.0f")
    size.set(ylabel="bytes up for a decision")
    size.margins(y=0.3)  # room for the legend
    size.legend()
    cpu.bar(names, [item.device_cpu_us for item in items])
    cpu.set(ylabel="processor time of the device\nfor a decision, us")
    for axes in (latency, size, cpu):
        axes.tick_params(axis="x", labelsize=7)
    first = items[0]
    figure.suptitle(f"{first.env}" + (f", emulated: {first.emulated}" if first.emulated else ""))
    target.parent.mkdir(parents=True, exist_ok=True)
    figure.savefig(target, dpi=120)


def find(runs: list[Run], args: argparse.Namespace) -> program.Findings:
    items = setups(runs)
    told = [{**asdict(item), "against_coded": against(item, items)} for item in items]
    return program.Findings(
        told, lambda console: show(items, console), lambda target: plot(items, target)
    )


def main() -> int:
    """Returns the exit code: 2 where a file can't be read or written, or the runs can't be compared."""
    options = program.parser(__doc__)
    program.figure_options(
        options, "latency, bytes and processor time", "the setups as JSON instead of the tables"
    )
    return program.tell(options, WIDTH, find)


if __name__ == "__main__":
    sys.exit(main())
