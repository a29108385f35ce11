"""Where to cut a policy: device, link and server time, bytes, processor time and return of a decision, for each split.

python analysis/split.py SWEEP_FOLDER|RUN.h5 [...] [--plot FILE.png] [--json]
"""

from __future__ import annotations

import argparse
import math
import sys
from dataclasses import asdict
from pathlib import Path
from typing import Any

from rich import box
from rich.console import Console
from rich.table import Table

from sde_harl.analysis import program
from sde_harl.analysis.splitting import Split, cost, splits
from sde_harl.record.reader import Run

WIDTH = 160  # where the output is no terminal
COLUMNS = {
    "device us": ("device", ",.0f"),
    "link us": ("link", ",.0f"),
    "server us": ("server", ",.0f"),
    "whole us": ("whole", ",.0f"),
    "p95": ("whole_p95", ",.0f"),
    "payload B": ("payload", ".1f"),
    "wire B": ("wire", ".1f"),
    "device CPU us": ("device_cpu", ",.0f"),
    "device mJ": ("device_mj", ".3f"),
    "return": ("return_mean", ".2f"),
    "win rate": ("win_rate", ".1%"),
    "steps": ("steps", ",.0f"),
}
NOTES = (
    "measured, all of it; times are medians of a message, bytes and device CPU are for one decision of one agent",
    "device: local net and coding, the executor's clock; server: decoding, group net and head, the server's clock",
    "link: the round trip on the executor's clock without the server's two; it includes waiting for the other agents",
    "whole: from the observation at the device to the action there; the median of the sum, not the sum of medians",
    "wire B: payload and our 32-byte header, one a message, without MPI's and TCP's",
    "device CPU: all the executor's process used between reports, waiting included, over the decisions made",
    "device mJ: of the executors' hosts by their own sensors, idle included, for one decision; - where there is none",
)


def show(items: list[Split], console: Console) -> None:
    """Print a line a split, and what the figures are."""
    for env in dict.fromkeys(item.env for item in items):
        table = Table(
            box=box.SIMPLE_HEAD,
            padding=(0, 1, 0, 0),
            title=env,
            title_justify="left",
            title_style="",
        )
        for name in ("local", "codec", "rows", "seeds", *COLUMNS):
            table.add_column(name, justify="left" if name in ("codec", "seeds") else "right")
        for item in items:
            if item.env == env:
                table.add_row(
                    f"{item.local_blocks} of {item.blocks}",
                    item.codec,
                    f"{item.rows}",
                    *_cells(item),
                )
        console.print(table)
    for note in (*NOTES, *_warnings(items)):
        console.print(f"  {note}", markup=False, highlight=False, soft_wrap=True)


def _cells(item: Split) -> list[str]:
    return [
        ", ".join(item.seeds),
        *(item.figures[name].shown(form) for name, form in COLUMNS.values()),
    ]


def _warnings(items: list[Split]) -> list[str]:
    """What the figures can't be taken for."""
    found = _reasons(items)
    if any(item.untrained for item in items):
        found.append(
            "untrained policies are among them: their return and bytes tell nothing of learnt ones"
        )
    if any(item.one_process for item in items):
        found.append(
            "one process held server and devices: its link is none, and device CPU is unknown"
        )
    return found


def _reasons(items: list[Split]) -> list[str]:
    """Why energy is unknown, where it is."""
    return list(dict.fromkeys(line for item in items for line in item.energy))


def plot(items: list[Split], target: Path) -> None:
    """Four panels over the splits: latency by stage, bytes, processor time of the devices, and return."""
    from matplotlib.figure import Figure

    figure = Figure(figsize=(11, 8), layout="constrained")
    (latency, size), (cpu, worth) = figure.subplots(2, 2)
    names = _names(items)
    _draw_latency(latency, names, items)
    _draw_bytes(size, names, items)
    _draw_cpu(cpu, names, items)
    _draw_worth(worth, names, items)
    for axes in (latency, size, cpu, worth):
        axes.set(xlabel="blocks on the device")
    envs = ", ".join(dict.fromkeys(item.env for item in items))
    figure.suptitle("\n".join([f"{envs}: measured", *_reasons(items)]), fontsize=8, wrap=True)
    figure.savefig(target, dpi=120)


def _names(items: list[Split]) -> list[str]:
    """What tells the splits apart: local blocks, and codec and message size where they differ."""
    codecs = {item.codec for item in items} - {"none"}
    rows = {item.rows for item in items}
    names = []
    for item in items:
        parts = [
            f"{item.local_blocks}" if item.local_blocks < item.blocks else f"{item.blocks} (all)"
        ]
        parts += [item.codec] if len(codecs) > 1 else []
        names.append("\n".join([*parts, *([f"{item.rows} rows"] if len(rows) > 1 else [])]))
    return names


def _draw_latency(axes: Any, names: list[str], items: list[Split]) -> None:
    bottom = [0.0] * len(items)
    for part in ("device", "link", "server"):
        heights = _means(items, part)
        axes.bar(
            names, heights, bottom=bottom, label="link and waiting" if part == "link" else part
        )
        bottom = [low + high for low, high in zip(bottom, heights, strict=True)]
    axes.plot(names, _means(items, "whole"), "k_", markersize=18, label="whole")
    axes.set(ylabel="median latency of a message, us")
    axes.legend(loc="lower center", bbox_to_anchor=(0.5, 1.0), ncols=4)


def _draw_bytes(axes: Any, names: list[str], items: list[Split]) -> None:
    bars = axes.bar(names, _means(items, "payload"), color="C4", label="payload")
    axes.bar_label(bars, fmt="%.1f")
    axes.plot(names, _means(items, "wire"), "k_", markersize=18, label="with our header")
    axes.plot(
        names, _means(items, "observation"), "--", color="grey", label="raw observation, float32"
    )
    axes.set(ylabel="bytes up, a decision of one agent", yscale="log", ylim=(1, None))
    axes.legend(loc="lower center", bbox_to_anchor=(0.5, 1.0), ncols=3)


def _draw_cpu(axes: Any, names: list[str], items: list[Split]) -> None:
    axes.bar(names, _means(items, "device_cpu"), color="C3")
    axes.set(ylabel="device CPU, us a decision")
    if all(math.isnan(item.figures["device_cpu"].mean) for item in items):
        axes.text(0.5, 0.5, "unknown", transform=axes.transAxes, ha="center")


def _draw_worth(axes: Any, names: list[str], items: list[Split]) -> None:
    """Mean over seeds, and their range where there are several."""
    spreads = [item.figures["return_mean"] for item in items]
    low = [each.mean - each.low for each in spreads]
    high = [each.high - each.mean for each in spreads]
    axes.errorbar(names, [each.mean for each in spreads], yerr=(low, high), fmt="o", capsize=4)
    steps = max(item.figures["steps"].high for item in items)
    axes.set(ylabel=f"return of greedy play after {steps:,.0f} steps")


def _means(items: list[Split], name: str) -> list[float]:
    """Nothing is drawn where nothing is known."""
    return [
        0.0 if math.isnan(item.figures[name].mean) else item.figures[name].mean for item in items
    ]


def find(runs: list[Run], args: argparse.Namespace) -> program.Findings:
    items = splits([cost(run) for run in runs])
    return program.Findings(
        [asdict(each) for each in items],
        lambda console: show(items, console),
        lambda target: plot(items, target),
    )


def main() -> int:
    """Returns the exit code: 2 where a file can't be read or written."""
    options = program.parser(__doc__)
    program.figure_options(options, "the figure", "the figures as JSON instead of the table")
    return program.tell(options, WIDTH, find)


if __name__ == "__main__":
    sys.exit(main())
