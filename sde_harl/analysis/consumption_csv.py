"""Writes what the decisions of runs took as CSV: a line for each run and rank."""

from __future__ import annotations

import csv
import math
from dataclasses import asdict
from pathlib import Path

from sde_harl.analysis.consumption import Report, Row

Cell = str | int | float


def write_csv(reports: list[Report], target: Path) -> None:
    """Writes the file; unknown values are empty. Raises OSError where that fails."""
    lines = [_line(report, row) for report in reports for row in report.rows]
    names = ["run"]  # without runs there is still a header
    if lines:
        names = list(lines[0])
    with target.open("w", newline="") as file:
        writer = csv.DictWriter(file, names)
        writer.writeheader()
        writer.writerows(lines)


def _line(report: Report, row: Row) -> dict[str, Cell]:
    # The order of the columns is the file's format: readers may count them.
    line = _first_columns(report, row) | _latency_columns(row)
    for name, size in asdict(row.bytes).items():
        line[f"{name}_bytes"] = size
    line["cpu_s"] = row.cpu_s
    line["peak_bytes"] = row.peak_bytes
    line["alone"] = row.alone
    return {key: _cell(value) for key, value in line.items()}


def _first_columns(report: Report, row: Row) -> dict[str, Cell]:
    """Returns what the line is about, and how many decisions it covers."""
    return {
        "run": report.path,
        "env": report.env,
        "algo": report.algo,
        "placement": report.placement,
        "emulated": report.emulated,
        "rank": row.rank,
        "host": row.host,
        "decisions": row.decisions,
        "messages": row.messages,
    }


def _latency_columns(row: Row) -> dict[str, Cell]:
    columns: dict[str, Cell] = {}
    for name, stage in row.latency.items():
        prefix = name.replace(" ", "_")
        columns[f"{prefix}_p50_us"] = stage.p50
        columns[f"{prefix}_p95_us"] = stage.p95
        columns[f"{prefix}_p99_us"] = stage.p99
        columns[f"{prefix}_unknown"] = stage.unknown
    return columns


def _cell(value: Cell) -> Cell:
    # The csv module would write "nan", which spreadsheets take for text.
    if isinstance(value, float) and math.isnan(value):
        return ""
    return value
