"""Show where to split a policy: time, bytes, processor time and return for each split.

python analysis/split.py SWEEP_FOLDER|RUN.h5 [...] [--plot FILE.png] [--json]

Time is that of the device, the link and the server for one decision.
"""

from __future__ import annotations

import argparse
import math
import sys
from dataclasses import asdict
from pathlib import Path
from typing import Any

from rich.console import Console

from sde_harl.analysis import figures, program, tables
from sde_harl.analysis.splits import Split, costs_of, group_splits
from sde_harl.record.reader import Run

WIDTH = 160  # where the output is no terminal
NAMES = ("local", "codec", "rows", "seeds")
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
    "measured, all of it; times are medians of a message,"
    " bytes and device CPU are for one decision of one agent",
    "device: local net and coding, the executor's clock;"
    " server: decoding, group net and head, the server's clock",
    "link: the round trip on the executor's clock without the server's two;"
    " it includes waiting for the other agents",
    "whole: from the observation at the device to the action there;"
    " the median of the sum, not the sum of medians",
    "wire B: payload and our 32-byte header, one a message, without MPI's and TCP's",
    "device CPU: all the executor's process used between reports, waiting included,"
    " over the decisions made",
    "device mJ: of the executors' hosts by their own sensors, idle included, for one decision;"
    " - where there is none",
)
UNTRAINED = "untrained policies are among them: their return and bytes tell nothing of learnt ones"
ONE_PROCESS = "one process held server and devices: its link is none, and device CPU is unknown"


def show(splits: list[Split], console: Console) -> None:
    """Prints a line for each split, and what the figures mean."""
    # A table for each environment: times of two environments don't compare.
    for env in dict.fromkeys(each.env for each in splits):
        table = tables.new_table((*NAMES, *COLUMNS), left=("codec", "seeds"), narrow=True)
        tables.add_title(table, env)
        for each in splits:
            if each.env == env:
                table.add_row(*_cells(each))
        console.print(table)
    tables.print_notes(console, (*NOTES, *_warnings(splits)))


def _cells(split: Split) -> list[str]:
    return [
        f"{split.local_blocks} of {split.blocks}",
        split.codec,
        f"{split.rows}",
        ", ".join(split.seeds),
        *(split.figures[name].shown(form) for name, form in COLUMNS.values()),
    ]


def _warnings(splits: list[Split]) -> list[str]:
    """Returns what the figures must not be taken for."""
    warnings = _energy_reasons(splits)
    if any(each.untrained for each in splits):
        warnings.append(UNTRAINED)
    if any(each.one_process for each in splits):
        warnings.append(ONE_PROCESS)
    return warnings


def _energy_reasons(splits: list[Split]) -> list[str]:
    """Returns why the energy is unknown, each reason once."""
    return list(dict.fromkeys(line for each in splits for line in each.energy))


def plot(splits: list[Split], target: Path) -> None:
    """Draws latency by stage, bytes, the devices' processor time, and return over the splits."""
    figure = figures.new_figure(11, 8)
    (latency, size), (cpu, returns) = figure.subplots(2, 2)
    names = _names(splits)
    _draw_latency(latency, names, splits)
    _draw_bytes(size, names, splits)
    _draw_cpu(cpu, names, splits)
    _draw_returns(returns, names, splits)
    for axes in figure.axes:
        axes.set(xlabel="blocks on the device")
        figures.leave_room(axes, len(names))
    envs = ", ".join(dict.fromkeys(each.env for each in splits))
    title = "\n".join([f"{envs}: measured", *_energy_reasons(splits)])
    figure.suptitle(title, fontsize=8, wrap=True)
    figures.save(figure, target)


def _names(splits: list[Split]) -> list[str]:
    """Returns what tells the splits apart: local blocks; codec and rows where they differ."""
    # A policy on the device has no codec, so "none" beside one codec is no difference.
    codecs = {each.codec for each in splits} - {"none"}
    rows = {each.rows for each in splits}
    names = []
    for each in splits:
        lines = [f"{each.local_blocks}"]
        if each.local_blocks == each.blocks:
            lines = [f"{each.blocks} (all)"]
        if len(codecs) > 1:
            lines.append(each.codec)
        if len(rows) > 1:
            lines.append(f"{each.rows} rows")
        names.append("\n".join(lines))
    return names


def _tick_lines(names: list[str]) -> int:
    return max(1 + name.count("\n") for name in names)


def _draw_latency(axes: Any, names: list[str], splits: list[Split]) -> None:
    bottom = [0.0] * len(splits)
    for part, label in (("device", "device"), ("link", "link and waiting"), ("server", "server")):
        heights = _means(splits, part)
        axes.bar(names, heights, bottom=bottom, label=label)
        bottom = [low + high for low, high in zip(bottom, heights, strict=True)]
    # The median of the sum is not the sum of the medians, hence a mark of its own.
    axes.plot(names, _means(splits, "whole"), "k_", markersize=18, label="whole")
    axes.set(ylabel="median latency of a message, us")
    figures.add_legend(axes, columns=4, tick_lines=_tick_lines(names))


def _draw_bytes(axes: Any, names: list[str], splits: list[Split]) -> None:
    bars = axes.bar(names, _means(splits, "payload"), color="C4", label="payload")
    axes.bar_label(bars, fmt="%.1f")
    axes.plot(names, _means(splits, "wire"), "k_", markersize=18, label="with our header")
    raw = _means(splits, "observation")
    label = "raw observation, float32"
    figures.draw_line(axes, names, raw, linestyle="--", color="grey", label=label)
    # From 1 on, as a logarithmic axis has no 0.
    axes.set(ylabel="bytes up, a decision of one agent", ylim=(1, None))
    figures.make_logarithmic(axes.yaxis)
    figures.add_legend(axes, columns=3, tick_lines=_tick_lines(names))


def _draw_cpu(axes: Any, names: list[str], splits: list[Split]) -> None:
    if all(math.isnan(each.figures["device_cpu"].mean) for each in splits):
        figures.say(axes, f"The devices' processor time is unknown: {ONE_PROCESS}.")
        return
    axes.bar(names, _means(splits, "device_cpu"), color="C3")
    axes.set(ylabel="device CPU, us a decision")


def _draw_returns(axes: Any, names: list[str], splits: list[Split]) -> None:
    """Draws means over seeds, and their ranges where there are several."""
    spreads = [each.figures["return_mean"] for each in splits]
    if all(math.isnan(each.mean) for each in spreads):
        figures.say(axes, "No evaluations were recorded, so the return is unknown.")
        return
    # matplotlib takes distances from the point, not the ends of the range.
    low = [each.mean - each.low for each in spreads]
    high = [each.high - each.mean for each in spreads]
    axes.errorbar(names, [each.mean for each in spreads], yerr=(low, high), fmt="o", capsize=4)
    steps = max(each.figures["steps"].high for each in splits)
    axes.set(ylabel=f"return, reward of an episode\nof greedy play after {steps:,.0f} steps")


def _means(splits: list[Split], name: str) -> list[float]:
    """Returns a figure's means; 0 where it is unknown, so that nothing is drawn there."""
    means = [each.figures[name].mean for each in splits]
    return [0.0 if math.isnan(mean) else mean for mean in means]


def find(runs: list[Run], args: argparse.Namespace) -> program.Findings:
    splits = group_splits(costs_of(runs))
    return program.Findings(
        rows=[asdict(each) for each in splits],
        show=lambda console: show(splits, console),
        plot=lambda target: plot(splits, target),
    )


def main() -> int:
    """Returns the exit code: 2 where a file can't be read or written."""
    parser = program.argument_parser(__doc__)
    program.add_figure_options(
        parser, drawn="the figure", printed="the figures as JSON instead of the table"
    )
    return program.run_and_show(parser, WIDTH, find)


if __name__ == "__main__":
    sys.exit(main())
