"""What every figure has in common: marks that are seen, ticks that are read, no empty panels."""

from __future__ import annotations

from pathlib import Path

import pytest
from matplotlib.axes import Axes

from sde_harl.analysis import figures


@pytest.fixture
def axes() -> Axes:
    return figures.new_figure(5, 3).add_subplot()


def labels(axes: Axes, which: str) -> list[str]:
    axes.figure.draw_without_rendering()
    axis = getattr(axes, f"{which}axis")
    low, high = sorted(axis.get_view_interval())
    ticks = [*axis.get_major_ticks(), *axis.get_minor_ticks()]
    texts = [each.label1.get_text() for each in ticks if low <= each.get_loc() <= high]
    return [text for text in texts if text]


def test_one_point_has_a_marker_and_many_have_none(axes: Axes) -> None:
    figures.draw_line(axes, [100], [0.5])
    figures.draw_line(axes, range(1000), range(1000))
    one, many = axes.lines
    assert one.get_marker() == "o"
    assert many.get_marker() == "None"


@pytest.mark.parametrize(
    ("values", "wanted"),
    [
        ([101.0, 149.0], ["100", "110", "120", "130", "140", "150"]),
        ([12.0, 16.0], ["12", "13", "14", "15", "16"]),
        ([1.0, 120.0], ["1", "2", "5", "10", "20", "50", "100"]),
        ([0.5, 50_000.0], ["1", "10", "100", "1,000", "10,000"]),
    ],
)
@pytest.mark.parametrize("which", ["x", "y"])
def test_ticks_of_factors_are_plain_numbers(
    axes: Axes, values: list[float], wanted: list[str], which: str
) -> None:
    axes.plot(values, values)
    figures.make_logarithmic(getattr(axes, f"{which}axis"))
    shown = labels(axes, which)
    assert set(shown) <= {*wanted, "0.5", "0.2", "200", "0.1", "100,000"}
    assert len(set(shown) & set(wanted)) >= 3


def test_steps_are_short(axes: Axes) -> None:
    axes.plot([0, 2_000_000], [0, 1])
    figures.over_steps(axes, "win rate")
    assert labels(axes, "x") == ["0", "250k", "500k", "750k", "1M", "1.25M", "1.5M", "1.75M", "2M"]
    assert labels(axes, "y") == ["0 %", "20 %", "40 %", "60 %", "80 %", "100 %"]


def test_a_return_has_its_unit(axes: Axes) -> None:
    figures.over_steps(axes, "return")
    assert axes.get_ylabel() == "return, reward of an episode"


def test_a_sentence_stands_for_a_panel_that_is_empty(axes: Axes) -> None:
    figures.say(axes, "Nothing was measured.\x1b")
    assert not axes.axison
    assert axes.texts[0].get_text() == "Nothing was measured.\\x1b"


def test_the_legend_is_off_the_data(axes: Axes, tmp_path: Path) -> None:
    axes.plot([0, 1], [0, 1], label="a")
    axes.set_xticks([0, 1], ["one\ntwo", "one"])
    axes.set_xlabel("what")
    figures.add_legend(axes, tick_lines=2)
    axes.figure.draw_without_rendering()
    assert not axes.get_legend().get_window_extent().overlaps(axes.xaxis.label.get_window_extent())
    assert not axes.get_legend().get_window_extent().overlaps(axes.get_window_extent())


def test_where_a_figure_lies_is_told(
    axes: Axes, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    figures.save(axes.figure, tmp_path / "a.png")
    assert capsys.readouterr().err == f"wrote {tmp_path}/a.png\n"
