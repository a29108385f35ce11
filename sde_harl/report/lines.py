"""Puts runs that differ in nothing but the seed together: each such set is a line of the report."""

from __future__ import annotations

import string
from collections.abc import Sequence
from dataclasses import dataclass

from sde_harl.analysis.comparison import align
from sde_harl.analysis.figures import COLOURS, LINE_STYLES
from sde_harl.analysis.learning_curves import Curve, by_experiment, learning_curves
from sde_harl.record.reader import Run
from sde_harl.record.schema import Array

MOST_LETTERS = 40
"""Of a label in a figure. Tables have the whole name."""


@dataclass(frozen=True, kw_only=True)
class Line:
    """Holds the runs of one line.

    number: its place in the report, which gives its colour. method: what was trained, without the
    environment's name. curves: one for each run that has values, all of one source and measure.
    """

    number: int
    env: str
    method: str
    runs: list[Run]
    curves: list[Curve]

    @property
    def letter(self) -> str:
        """Names the line in figures and tables."""
        if self.number < len(string.ascii_uppercase):
            return string.ascii_uppercase[self.number]
        return str(self.number + 1)

    @property
    def name(self) -> str:
        return f"{self.env}, {self.method}"

    @property
    def label(self) -> str:
        """Returns the name as a figure has room for it."""
        text = f"{self.letter}  {self.method}"
        if len(text) > MOST_LETTERS:
            text = f"{text[: MOST_LETTERS - 1]}…"
        return f"{text} ({len(self.runs)})"

    @property
    def colour(self) -> str:
        return f"C{self.number % len(COLOURS)}"

    @property
    def style(self) -> str:
        """Returns the line's style, which tells apart lines of one colour."""
        return LINE_STYLES[self.number // len(COLOURS) % len(LINE_STYLES)]

    @property
    def measure(self) -> str:
        """Returns what the curves measure; empty where there are none."""
        if not self.curves:
            return ""
        return self.curves[0].measure

    @property
    def source(self) -> str:
        """Returns where the curves are from: evaluations or training; empty where from nowhere."""
        if not self.curves:
            return ""
        return self.curves[0].source

    def aligned(self) -> tuple[Array, Array]:
        """Returns steps (K,) that all runs have reached, and the values there (runs, K)."""
        return align(self.curves)


def find_lines(runs: Sequence[Run]) -> list[Line]:
    """Returns the lines of these runs, by environment and name.

    Raises UserError where a record is damaged.
    """
    curves = learning_curves(runs)
    run_of = {str(run.path): run for run in runs}
    return [
        Line(
            number=number,
            env=members[0].env,
            method=name.removeprefix(f"{members[0].env}/"),
            runs=[run_of[each.path] for each in members],
            curves=_comparable(members),
        )
        for number, (name, members) in enumerate(by_experiment(curves).items())
    ]


def _comparable(members: list[Curve]) -> list[Curve]:
    """Returns the curves of one source and measure: evaluations where a run has them."""
    known = [each for each in members if each.values]
    for source in ("evaluations", "training"):
        chosen = [each for each in known if each.source == source]
        if chosen:
            return [each for each in chosen if each.measure == chosen[0].measure]
    return []
