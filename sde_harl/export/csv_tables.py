"""Writes the tables of a record as CSV: a file for each, and schema.json with units and /meta."""

from __future__ import annotations

import csv
import json
from collections.abc import Iterator
from pathlib import Path
from typing import Any

from sde_harl.record.reader import Columns, Run, described
from sde_harl.record.schema import SCHEMA_VERSION, TABLES, Array

CHUNK_ROWS = 16384
"""Rows that are turned into text at a time: a table of decisions can have many millions."""


def write_csv(run: Run, folder: Path) -> None:
    """Writes every table that has rows into the folder. Raises OSError and UserError.

    What is NaN in the record is an empty cell, so that programs take it as missing.
    """
    tables = {}
    for name in TABLES:
        columns = run.table(name)
        if columns:
            _write_table(folder / f"{name}.csv", columns)
            tables[name] = {
                key: {"unit": each.unit, "description": each.description}
                for key, each in described(name, columns).items()
            }
    about = {"schema": SCHEMA_VERSION, "meta": run.meta, "tables": tables}
    text = json.dumps(about, indent=1, ensure_ascii=False)
    (folder / "schema.json").write_text(f"{text}\n", encoding="utf-8")


def _write_table(path: Path, columns: Columns) -> None:
    with path.open("w", newline="", encoding="utf-8") as file:
        writer = csv.writer(file)
        writer.writerow(columns)
        rows = len(next(iter(columns.values())))
        for start in range(0, rows, CHUNK_ROWS):
            part = (_cells(each[start : start + CHUNK_ROWS]) for each in columns.values())
            writer.writerows(zip(*part, strict=True))


def _cells(values: Array) -> Iterator[Any]:
    if values.dtype.kind == "S":
        return (each.decode(errors="replace") for each in values.tolist())
    if values.dtype.kind == "f":
        # Only NaN differs from itself. float32 by its own shortest text, 0.1 and not 0.10000000149.
        return ("" if each != each else str(each) for each in values)
    return iter(values.tolist())
