"""Prints tables and notes on the terminal."""

from __future__ import annotations

import math
from collections.abc import Collection, Iterable

from rich import box
from rich.console import Console
from rich.table import Table

from sde_harl.outside.text import printable


def new_table(columns: Iterable[str], *, left: Collection[str] = (), narrow: bool = False) -> Table:
    """Returns an empty table; columns named in `left` are aligned left, the others right."""
    table = Table(box=box.SIMPLE_HEAD)
    # rich adds a blank on both sides of a cell; one on the right is enough to tell columns apart.
    if narrow:
        table.padding = (0, 1, 0, 0)
    for name in columns:
        table.add_column(name, justify="left" if name in left else "right")
    return table


def add_title(table: Table, title: str) -> None:
    """Sets a plain title above the table's left edge."""
    table.title = title
    table.title_justify = "left"
    table.title_style = ""


def number(value: float, form: str) -> str:
    """Returns a number as a cell: a dash where it is unknown (NaN)."""
    # A dash, not a 0: what was not measured must not pass for nothing.
    if math.isnan(value):
        return "-"
    return format(value, form)


def plural(count: int, noun: str) -> str:
    """Returns "1 run", "2 runs"."""
    if count == 1:
        return f"{count} {noun}"
    return f"{count} {noun}s"


def print_line(console: Console, text: str) -> None:
    """Prints one line, which may be longer than the console is wide."""
    console.print(printable(text), soft_wrap=True)


def print_notes(console: Console, notes: Iterable[str]) -> None:
    """Prints the lines below a table that say what its figures mean."""
    for note in notes:
        print_line(console, f"  {note}")
