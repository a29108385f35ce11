"""What a run's decisions cost: latency by stage, bytes on the link, processor time, memory, energy, by rank and in all.

python analysis/resource_consumption.py RUN.h5 [RUN2.h5 ...] [--json FILE|-] [--csv FILE] [--plot DIR]
    [--meter HOST=FILE]
"""

from __future__ import annotations

import argparse
import csv
import math
import sys
from dataclasses import asdict
from pathlib import Path
from typing import Any

from rich import box
from rich.console import Console
from rich.table import Table

from sde_harl.analysis import program
from sde_harl.analysis.consumption import ALL, STAGES, Report, Row, Stage, summarise
from sde_harl.analysis.joules import meter, sentences
from sde_harl.analysis.traffic import MPI_BYTES, PACKET_BYTES
from sde_harl.record.reader import Run

WIDTH = 150  # where the output is no terminal
COLUMNS = (
    "rank",
    "host",
    "decisions",
    "messages",
    "us",
    *STAGES,
    "payload B",
    "ideal B",
    "wire B",
    "CPU s",
    "peak MB",
)


def show(item: Report, console: Console) -> None:
    """Print one run's table."""
    hosts = ", ".join(sorted(set(item.hosts))) or "unknown"
    console.print(
        f"{item.path}: {item.env}, {item.algo}, placement {item.placement}, hosts {hosts}",
        markup=False,
        soft_wrap=True,
    )
    if item.emulated:
        console.print(f"  emulated: {item.emulated}", markup=False)
    if not item.rows:
        console.print("  no decisions and no resources were recorded in this run")
        return
    if not item.rows[-1].messages:
        console.print("  no decisions were recorded in this run")
    table = Table(box=box.SIMPLE_HEAD, padding=(0, 1, 0, 0))
    for name in COLUMNS:
        table.add_column(name, justify="left" if name in ("rank", "host", "us") else "right")
    for row in item.rows:
        if row.rank == ALL:
            table.add_section()
        table.add_row(*_cells(row))
    console.print(table)
    _show_traffic(item, console)
    _show_notes(item, console)


def _cells(row: Row) -> list[str]:
    stages = [_three(row.latency[name]) for name in STAGES]
    size = row.bytes
    sizes = [_number(value, ".1f") for value in (size.payload, size.ideal, size.wire)]
    use = [_number(row.cpu_s, ".1f"), _number(row.peak_bytes / 1e6, ".0f")]
    quantiles = "p50\np95\np99" if row.messages else ""
    return [
        row.rank,
        row.host,
        f"{row.decisions:,}",
        f"{row.messages:,}",
        quantiles,
        *stages,
        *sizes,
        *use,
    ]


def _show_traffic(item: Report, console: Console) -> None:
    """What the interfaces counted beside what we claim to have sent."""
    if not item.traffic:
        return
    table = Table(box=box.SIMPLE_HEAD, padding=(0, 1, 0, 0))
    for name in (
        "rank",
        "way",
        "messages",
        "frames B",
        "packets",
        "claimed B",
        "interface B",
        "differs",
    ):
        table.add_column(name, justify="left" if name in ("rank", "way") else "right")
    for span in item.traffic:
        numbers = (
            span.messages,
            span.frame_bytes,
            span.packets,
            span.claimed_bytes,
            span.counted_bytes,
        )
        table.add_row(
            str(span.rank), span.way, *(f"{number:,}" for number in numbers), f"{span.excess:+.1%}"
        )
    console.print(table)


def _show_notes(item: Report, console: Console) -> None:
    total = item.rows[-1]
    size = total.bytes
    notes = [
        "latency is of one message, in us; bytes are for one decision of one agent",
        "in the line all: CPU s is the sum, peak MB the largest of one rank",
        "link is the round trip without decode and policy: it includes waiting for the other agents' messages",
    ]
    if total.messages:
        network = (
            "not measured (shared memory)"
            if math.isnan(size.network)
            else f"{size.network:.1f} bytes"
        )
        notes.append(
            f"wire B counts our 32-byte header, one a message; with MPI/TCP headers: {network}"
        )
        if item.codec == "none":
            notes.append(
                "the agents of a device answer in one message: each counts as one here, with its share"
            )
        if item.traffic:
            claim = f"frames, {MPI_BYTES} bytes of MPI's a message, {PACKET_BYTES} of Ethernet, IP and TCP a packet"
            notes.append(
                f"claimed: {claim}; interface: the kernel's count; all after the run's start"
            )
        notes += _comparisons(item)
    missing = [
        f"{name} {stage.unknown:,}" for name, stage in total.latency.items() if stage.unknown
    ]
    if missing:
        notes.append(
            f"messages without a time, left out: {', '.join(missing)} of {total.messages:,}"
        )
    alone = [f"executor {row.rank} {row.alone:,}" for row in item.rows[:-1] if row.alone]
    if alone:
        notes.append(f"decisions by exit heads while the server was silent: {', '.join(alone)}")
    notes += sentences(item.energy)
    for note in notes:
        console.print(f"  {note}", markup=False, highlight=False, soft_wrap=True)


def _comparisons(item: Report) -> list[str]:
    """The payload against what it would be uncompressed."""
    size = item.rows[-1].bytes
    others = {
        "latent as float32": size.float32,
        "latent as int8": size.int8,
        "raw observation": size.observation,
    }
    return [
        f"{name}: {value:.1f} bytes, {value / size.payload:.1f} times the payload ({item.codec})"
        for name, value in others.items()
        if not math.isnan(value) and size.payload > 0
    ]


def _three(stage: Stage) -> str:
    return (
        "-"
        if math.isnan(stage.p50)
        else "\n".join(f"{v:,.0f}" for v in (stage.p50, stage.p95, stage.p99))
    )


def _number(value: float, form: str) -> str:
    return "-" if math.isnan(value) else format(value, form)


def write_json(items: list[Report], target: str) -> None:
    """A list with an object a run; unknown values are null."""
    text = program.as_json([asdict(item) for item in items])
    if target == "-":
        print(text)
    else:
        Path(target).write_text(text + "\n")


def write_csv(items: list[Report], target: Path) -> None:
    """A line a run and rank; unknown values are empty."""
    lines = [_flat(item, row) for item in items for row in item.rows]
    with target.open("w", newline="") as file:
        writer = csv.DictWriter(file, list(lines[0]) if lines else ["run"])
        writer.writeheader()
        writer.writerows(lines)


def _flat(item: Report, row: Row) -> dict[str, Any]:
    line = {"run": item.path, "env": item.env, "algo": item.algo, "placement": item.placement,
            "emulated": item.emulated, "rank": row.rank,
            "host": row.host, "decisions": row.decisions, "messages": row.messages}  # fmt: skip
    for name, stage in row.latency.items():
        line.update(
            {f"{name.replace(' ', '_')}_{key}": value for key, value in _times(stage).items()}
        )
    line.update({f"{name}_bytes": value for name, value in asdict(row.bytes).items()})
    line.update(cpu_s=row.cpu_s, peak_bytes=row.peak_bytes, alone=row.alone)
    return {
        key: "" if isinstance(value, float) and math.isnan(value) else value
        for key, value in line.items()
    }


def _times(stage: Stage) -> dict[str, float]:
    return {"p50_us": stage.p50, "p95_us": stage.p95, "p99_us": stage.p99, "unknown": stage.unknown}


def plot(items: list[Report], folder: Path) -> list[Path]:
    """Two PNG files a run with decisions: latency by stage and rank, bytes by kind."""
    folder.mkdir(parents=True, exist_ok=True)
    return [
        path
        for k, item in enumerate(items)
        if _has_decisions(item)
        for path in _plots(k, item, folder)
    ]


def _has_decisions(item: Report) -> bool:
    return bool(item.rows) and item.rows[-1].messages > 0


def _plots(number: int, item: Report, folder: Path) -> list[Path]:
    from matplotlib.figure import Figure

    latency, size = (
        Figure(figsize=(8, 4.5), layout="constrained"),
        Figure(figsize=(6, 4.5), layout="constrained"),
    )
    _draw_latency(latency.add_subplot(), item)
    _draw_bytes(size.add_subplot(), item)
    hosts = len(set(item.hosts))
    paths = []
    for name, figure in (("latency", latency), ("bytes", size)):
        where = f", emulated: {item.emulated}" if item.emulated else ""
        figure.suptitle(
            f"{item.env}, {item.algo}, {item.placement}, {hosts} host{'s' * (hosts != 1)}{where}"
        )
        paths.append(folder / f"{number}-{Path(item.path).resolve().parent.name}-{name}.png")
        figure.savefig(paths[-1], dpi=120)
    return paths


def _draw_latency(axes: Any, item: Report) -> None:
    rows = [row for row in item.rows if row.messages]
    bottom = [0.0] * len(rows)
    names = [f"{row.rank}\n{row.host}" if row.rank != ALL else ALL for row in rows]
    for stage in STAGES[:-1]:
        heights = [
            0.0 if math.isnan(row.latency[stage].p50) else row.latency[stage].p50 for row in rows
        ]
        axes.bar(names, heights, bottom=bottom, label=stage)
        bottom = [low + high for low, high in zip(bottom, heights, strict=True)]
    axes.set(xlabel="rank", ylabel="median latency of a message, us")
    axes.legend(loc="center left", bbox_to_anchor=(1.0, 0.5))


def _draw_bytes(axes: Any, item: Report) -> None:
    sizes = {
        key: value for key, value in asdict(item.rows[-1].bytes).items() if not math.isnan(value)
    }
    axes.bar_label(axes.bar(list(sizes), list(sizes.values())), fmt="%.1f")
    axes.set(ylabel="bytes for one decision of one agent")
    axes.tick_params(axis="x", rotation=20)


def report(runs: list[Run], args: argparse.Namespace) -> None:
    items = [summarise(run, dict(args.meter)) for run in runs]
    if args.json != "-":
        console = program.console(WIDTH)
        for item in items:
            show(item, console)
    if args.json:
        write_json(items, args.json)
    if args.csv:
        write_csv(items, args.csv)
    if args.plot:
        plot(items, args.plot)


def main() -> int:
    """Returns the exit code: 2 where a file can't be read or written."""
    options = program.parser(__doc__)
    options.add_argument(
        "--json", metavar="FILE", help="write JSON; - for standard output, without tables"
    )
    options.add_argument("--csv", type=Path, metavar="FILE", help="write one line a run and rank")
    options.add_argument("--plot", type=Path, metavar="DIR", help="draw PNG files into DIR")
    options.add_argument(
        "--meter", type=meter, action="append", default=[], metavar="HOST=FILE",
        help="an external power meter of a host: columns unix_s (the server's clock) and watts",
    )  # fmt: skip
    return program.run(options, report)


if __name__ == "__main__":
    sys.exit(main())
