"""Reads the commands of README.md and docs/*.md.

A block of commands is fenced as `sh`. One that also shows what is printed is fenced as `console`:
its commands begin with "$ ", and the other lines are what they print. A comment in the line above
the fence says how a block is checked:

    <!-- check: skip, needs a Slurm cluster -->    it isn't run, and why
    <!-- check: compose -->                        its trainings are composed, not run
    <!-- check: with roles.count=1 -->             its trainings get these words as well

Without a comment a block is run as it is written; doc_shortened.py has the rules that shorten it.
"""

from __future__ import annotations

import re
from pathlib import Path
from typing import NamedTuple

ROOT = Path(__file__).parents[2]
READERS = ("analysis.md",)
"""Pages whose commands read the runs and sweeps of the others, and come last."""
PAGES = (
    ROOT / "README.md",
    *sorted((ROOT / "docs").glob("*.md"), key=lambda page: (page.name in READERS, page.name)),
)
BLOCK = re.compile(
    r"(?:^<!-- check: (?P<rule>[^\n]*) -->\n)?^```(?P<kind>\w*)\n(?P<body>.*?)^```$",
    re.MULTILINE | re.DOTALL,
)


class Block(NamedTuple):
    """A block of commands."""

    page: Path
    line: int
    rule: str
    """The words of its comment; "" for none."""
    commands: str
    """A text for bash."""
    printed: tuple[str, ...]
    """The lines that the commands are said to print."""

    @property
    def place(self) -> str:
        return f"{self.page.relative_to(ROOT)}:{self.line}"


def read_blocks(page: Path) -> list[Block]:
    """Returns the blocks of commands of a page, in order. Raises ValueError for an unknown rule."""
    text = page.read_text()
    found = []
    for each in BLOCK.finditer(text):
        if each["kind"] not in ("sh", "console"):
            continue
        rule = each["rule"] or ""
        if rule and not re.fullmatch(r"skip, .+|compose|with .+", rule):
            raise ValueError(f"{page}: no such rule: {rule}")
        commands, printed = _commands(each["kind"], each["body"])
        line = text.count("\n", 0, each.start("body")) + 1
        found.append(Block(page, line, rule, commands, printed))
    return found


def _commands(kind: str, body: str) -> tuple[str, tuple[str, ...]]:
    """Returns the commands of a block's text, and what they print."""
    if kind == "sh":
        return body, ()
    lines = body.splitlines()
    commands = [line[2:] for line in lines if line.startswith("$ ")]
    printed = [line for line in lines if not line.startswith("$ ")]
    return "\n".join(commands), tuple(printed)


def pattern(line: str) -> str:
    """Returns the pattern of a printed line: other numbers, other spaces; ... is any text."""
    parts = re.split(r"(\.\.\.|\d[\d,.:-]*|\s+)", line.strip())
    kinds = {"...": ".*", "": ""}
    written = []
    for part in parts:
        if re.fullmatch(r"\s+", part):
            written.append(r"\s+")
        elif re.match(r"\d", part):
            written.append(r"\d[\d,.:-]*")
        else:
            written.append(kinds.get(part, re.escape(part)))
    return "".join(written)
