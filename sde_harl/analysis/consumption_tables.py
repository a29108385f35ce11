"""Prints what a run's decisions took: a line for each rank, its traffic, and notes below."""

from __future__ import annotations

import math

from rich.console import Console

from sde_harl.analysis import tables
from sde_harl.analysis.consumption import ALL, Report, Row
from sde_harl.analysis.energy import energy_notes
from sde_harl.analysis.latency import STAGES
from sde_harl.analysis.message_sizes import Bytes
from sde_harl.analysis.statistics import Quantiles
from sde_harl.analysis.traffic import MPI_BYTES, PACKET_BYTES, Span

NAMES = ("rank", "host", "decisions", "messages", "us")
SIZES = ("payload B", "ideal B", "wire B", "CPU s", "peak MB")
COLUMNS = (*NAMES, *STAGES, *SIZES)
TRAFFIC_COLUMNS = (
    "rank",
    "way",
    "messages",
    "frames B",
    "packets",
    "claimed B",
    "interface B",
    "differs",
)
NOTES = (
    "latency is of one message, in us; bytes are for one decision of one agent",
    "in the line all: CPU s is the sum, peak MB the largest of one rank",
    "link is the round trip without decode and policy:"
    " it includes waiting for the other agents' messages",
)

ONE_PROCESS = (
    "one process held server and devices: its CPU s stands at rank 0,"
    " that of the devices is unknown"
)


def show(report: Report, console: Console) -> None:
    """Prints one run."""
    _show_title(report, console)
    if not report.rows:
        console.print("  no decisions and no resources were recorded in this run")
        return
    if not report.rows[-1].messages:
        console.print("  no decisions were recorded in this run")
    _show_ranks(report.rows, console)
    if report.traffic:
        _show_traffic(report.traffic, console)
    tables.print_notes(console, _notes(report))


def _show_title(report: Report, console: Console) -> None:
    hosts = ", ".join(sorted(set(report.hosts))) or "unknown"
    setting = f"{report.env}, {report.algo}, placement {report.placement}, hosts {hosts}"
    tables.print_line(console, f"{report.path}: {setting}")
    if report.emulated:
        tables.print_line(console, f"  emulated: {report.emulated}")


def _show_ranks(rows: list[Row], console: Console) -> None:
    # Narrow: with every stage and size, a wider table would not fit into 150 columns.
    table = tables.new_table(COLUMNS, left=("rank", "host", "us"), narrow=True)
    for row in rows:
        if row.rank == ALL:
            table.add_section()
        table.add_row(*_cells(row))
    console.print(table)


def _cells(row: Row) -> list[str]:
    quantile_names = ""
    if row.messages:
        quantile_names = "p50\np95\np99"
    return [
        row.rank,
        row.host,
        f"{row.decisions:,}",
        f"{row.messages:,}",
        quantile_names,
        *(_three_lines(row.latency[stage]) for stage in STAGES),
        tables.number(row.bytes.payload, ".1f"),
        tables.number(row.bytes.ideal, ".1f"),
        tables.number(row.bytes.wire, ".1f"),
        tables.number(row.cpu_s, ".1f"),
        tables.number(row.peak_bytes / 1e6, ".0f"),
    ]


def _three_lines(stage: Quantiles) -> str:
    # Beside the names of the quantiles, which `_cells` puts into the column "us".
    if math.isnan(stage.p50):
        return "-"
    return f"{stage.p50:,.0f}\n{stage.p95:,.0f}\n{stage.p99:,.0f}"


def _show_traffic(traffic: list[Span], console: Console) -> None:
    """Prints what the interfaces counted beside what we claim to have sent."""
    table = tables.new_table(TRAFFIC_COLUMNS, left=("rank", "way"), narrow=True)
    for span in traffic:
        table.add_row(
            str(span.rank),
            span.way,
            f"{span.messages:,}",
            f"{span.frame_bytes:,}",
            f"{span.packets:,}",
            f"{span.claimed_bytes:,}",
            f"{span.counted_bytes:,}",
            f"{span.excess:+.1%}",
        )
    console.print(table)


def _notes(report: Report) -> list[str]:
    """Returns the lines that say what the figures mean, and which are missing."""
    total = report.rows[-1]
    notes = [*NOTES]
    if total.messages:
        notes += _size_notes(report)
        notes += _comparisons(total.bytes, report.codec)
    notes += _missing_times(total)
    if report.one_process:
        notes.append(ONE_PROCESS)
    alone = [f"executor {row.rank} {row.alone:,}" for row in report.rows[:-1] if row.alone]
    if alone:
        # The paper calls the fallback head an exit head, and so does this line.
        notes.append(f"decisions by exit heads while the server was silent: {', '.join(alone)}")
    return notes + energy_notes(report.energy)


def _missing_times(total: Row) -> list[str]:
    missing = [f"{name} {each.unknown:,}" for name, each in total.latency.items() if each.unknown]
    if not missing:
        return []
    return [f"messages without a time, left out: {', '.join(missing)} of {total.messages:,}"]


def _size_notes(report: Report) -> list[str]:
    notes = [_header_note(report.rows[-1].bytes.network)]
    if report.codec == "none":
        notes.append(
            "the agents of a device answer in one message: each counts as one here, with its share"
        )
    if report.traffic:
        notes.append(
            f"claimed: frames, {MPI_BYTES} bytes of MPI's a message,"
            f" {PACKET_BYTES} of Ethernet, IP and TCP a packet;"
            " interface: the kernel's count; all after the run's start"
        )
    return notes


def _header_note(network: float) -> str:
    with_headers = f"{network:.1f} bytes"
    # Ranks of one host talk through shared memory, which no interface counts.
    if math.isnan(network):
        with_headers = "not measured (shared memory)"
    return f"wire B counts our 32-byte header, one a message; with MPI/TCP headers: {with_headers}"


def _comparisons(size: Bytes, codec: str) -> list[str]:
    """Returns the payload against what the decision would take uncompressed."""
    others = {
        "latent as float32": size.float32,
        "latent as int8": size.int8,
        "raw observation": size.observation,
    }
    notes = []
    for name, value in others.items():
        # No ratio where nothing was sent, and none for a policy whose sizes are unknown.
        if not math.isnan(value) and size.payload > 0:
            ratio = value / size.payload
            notes.append(f"{name}: {value:.1f} bytes, {ratio:.1f} times the payload ({codec})")
    return notes
