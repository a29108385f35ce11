"""Writes metrics.csv."""

from __future__ import annotations

import csv
import os
from collections.abc import Iterable, Mapping
from pathlib import Path
from typing import Any, TextIO


class MetricsCsv:
    """Writes a table with a column for every scalar ever logged.

    A scalar with a new name rewrites the file with a wider header: algorithms log some scalars only
    from their second update on, and evaluations have names of their own. The rows are kept in the
    file alone, so that a long run needs no more memory than a short one.
    """

    def __init__(self, path: Path, *, rows: int = 0) -> None:
        """Makes the file, or goes on behind the first `rows` rows of one. Raises OSError."""
        self._path = path
        self._names = ["step", "time_s"]
        self.rows = 0
        if rows:
            with path.open(newline="") as old:
                reader = csv.DictReader(old)
                self._names = list(reader.fieldnames or self._names)
                kept = [row for row, _ in zip(reader, range(rows))]
            self.rows = len(kept)
            self._open_with(kept)
        else:
            self._open_with([])

    def add(self, row: Mapping[str, float]) -> None:
        """Appends a row at once, so that the file can be watched. Raises OSError."""
        new_names = [name for name in row if name not in self._names]
        if new_names:
            self._names += new_names
            # Closed first: os.replace takes its name away, and rows written later would be lost.
            self._file.close()
            with self._path.open(newline="") as old:
                self._open_with(csv.DictReader(old))
        self._writer.writerow(row)
        self._file.flush()
        self.rows += 1

    def _open_with(self, rows: Iterable[Mapping[str, Any]]) -> None:
        """Opens the file anew, with the present header and with these rows."""
        # Under another name first: a reader, or a kill, never meets half a file.
        part = self._path.with_name(self._path.name + ".part")
        self._file: TextIO = part.open("w", newline="")
        self._writer = csv.DictWriter(self._file, self._names)
        self._writer.writeheader()
        self._writer.writerows(rows)
        self._file.flush()
        os.replace(part, self._path)

    def close(self) -> None:
        self._file.close()
