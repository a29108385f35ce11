"""The terminal as the commands, the programs of analysis/ and progress bars print on it.

Names and messages are data here, never rich's markup: a host may be called [/x], an algorithm
:boom:, and a sweep's folder anything at all.
"""

from __future__ import annotations

import sys
from typing import Any, TextIO

from rich.console import Console
from rich.text import Text

from sde_harl.outside.text import printable


class PlainConsole(Console):
    """A console that prints text as it is, what doesn't print as escapes."""

    def __init__(self, *, file: TextIO | None = None, width: int | None = None) -> None:
        """`width` holds where the output is a file or a pipe; a terminal knows its own."""
        stream = file or sys.stdout
        # Without a width, rich takes 80 columns for a pipe and breaks the cells of tables.
        if stream.isatty():
            width = None
        super().__init__(file=file, width=width, markup=False, emoji=False, highlight=False)

    def render_str(self, text: str, **options: Any) -> Text:
        """Returns the text to print. rich calls this for every string, in cells and titles too."""
        # A cell of several lines is a table's own way to stack figures.
        return super().render_str(printable(text, keep="\n"), **options)
