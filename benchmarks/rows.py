"""The output of every benchmark: rows of a name, a value and a floor from the same run.

    python benchmarks/rows.py OUT.json [OUT2.json ...] [--json ALL.json]

prints what earlier runs have written as one table, and joins it into one file.
"""

from __future__ import annotations

import argparse
import json
import sys
import time
from collections.abc import Callable, Sequence
from statistics import median
from typing import NamedTuple


class Row(NamedTuple):
    """One figure of a benchmark."""

    name: str
    """A path, such as codec/batch64/speed."""
    value: float
    unit: str
    floor: float | None
    """The value is held against this, in the same unit."""
    ratio: float | None


def report(rows: Sequence[Row], argv: Sequence[str]) -> None:
    """Prints the rows as a table; `--json OUT` in argv also writes them as a list of objects."""
    parser = argparse.ArgumentParser(allow_abbrev=False)
    parser.add_argument("--json", metavar="OUT")
    out = parser.parse_known_args(list(argv))[0].json
    table = [("name", "value", "unit", "floor", "ratio")]
    table += [
        (row.name, _number(row.value), row.unit, _number(row.floor), _number(row.ratio))
        for row in rows
    ]
    widths = [max(len(line[column]) for line in table) for column in range(len(Row._fields))]
    for line in table:
        name, value, unit, floor, ratio = (
            cell.ljust(width) if left else cell.rjust(width)
            for cell, width, left in zip(line, widths, (True, False, True, False, False))
        )
        print(f"{name}  {value} {unit}  {floor}  {ratio}")
    if out:
        with open(out, "w", encoding="utf-8") as file:
            json.dump([row._asdict() for row in rows], file, indent=1)
            file.write("\n")


def medians_ns(calls: list[Callable[[], object]], seconds: float) -> list[float]:
    """Returns the median time of each call.

    All are called in turn, so that a slow moment of the machine hits all alike.
    """
    taken: list[list[int]] = []
    end = time.perf_counter() + seconds
    while len(taken) < 5 or time.perf_counter() < end:
        row = []
        for call in calls:
            start = time.perf_counter_ns()
            call()
            row.append(time.perf_counter_ns() - start)
        taken.append(row)
    # The first tenth warms caches.
    return [float(median(column)) for column in zip(*taken[len(taken) // 10 :])]


def _number(value: float | None) -> str:
    """Returns a number as the table shows it."""
    if value is None:
        return "-"
    if abs(value) < 1e4:
        return f"{value:.4g}"
    return f"{value:.0f}"


def read(path: str) -> list[Row]:
    """Returns the rows of a file that `report` wrote; any other file ends the program."""
    try:
        with open(path, encoding="utf-8") as file:
            return [Row(**row) for row in json.load(file)]
    except (OSError, ValueError, TypeError) as error:
        sys.exit(f"error: {path}: not a file of benchmark rows: {error}")


def main() -> None:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("files", nargs="*", metavar="OUT.json")
    parser.add_argument("--json", metavar="ALL.json")
    report([row for path in parser.parse_args().files for row in read(path)], sys.argv[1:])


if __name__ == "__main__":
    main()
