"""The lines of analysis/compare.py's figure."""

from __future__ import annotations

import importlib.util
import math
from pathlib import Path

import pytest
from matplotlib.colors import to_hex
from matplotlib.figure import Figure

from sde_harl.analysis import figures
from sde_harl.analysis.comparison import Member, group
from sde_harl.analysis.learning_curves import Curve

PROGRAM = Path(__file__).parents[2] / "analysis" / "compare.py"
SPEC = importlib.util.spec_from_file_location("compare", PROGRAM)
assert SPEC
assert SPEC.loader
compare = importlib.util.module_from_spec(SPEC)
SPEC.loader.exec_module(compare)


def member(algo: str, source: str) -> Member:
    curve = Curve(
        path="",
        env="mpe/spread",
        algo=algo,
        exp="",
        seed="1",
        source=source,
        measure="return",
        steps=[0, 100],
        values=[-2.0, -1.0],
    )
    return Member(curve=curve, steps_per_s=math.nan)


def lines(members: list[Member], monkeypatch: pytest.MonkeyPatch) -> list[tuple[str, str, int]]:
    """Returns each line of the only panel: its label, style and the number of its colour."""
    drawn: list[Figure] = []
    monkeypatch.setattr(figures, "save", lambda figure, _: drawn.append(figure))
    compare.plot(group(members), Path("unused.png"))
    [panel] = drawn[0].axes
    return [
        (
            str(line.get_label()).removesuffix(" (1 run)"),
            str(line.get_linestyle()),
            figures.COLOURS.index(to_hex(line.get_color())),
        )
        for line in panel.lines
    ]


def test_an_algorithm_of_another_program_has_the_colour_of_its_own_and_is_dashed(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    names = ["HARL's haddpg", "HARL's maddpg", "haddpg", "hatd3", "HARL's hatd3"]
    assert lines([member(each, "reference") for each in names], monkeypatch) == [
        ("HARL's maddpg", "-", 0),
        ("haddpg", "-", 1),
        ("HARL's haddpg", "--", 1),
        ("hatd3", "-", 2),
        ("HARL's hatd3", "--", 2),
    ]


def test_references_beside_runs_are_dashed(monkeypatch: pytest.MonkeyPatch) -> None:
    members = [
        member("theirs", "reference"),
        member("happo", "evaluations"),
        member("HARL's happo", "reference"),
    ]
    assert lines(members, monkeypatch) == [
        ("happo", "-", 0),
        ("HARL's happo", "--", 0),
        ("theirs", "--", 1),
    ]
