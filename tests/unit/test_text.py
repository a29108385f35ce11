"""Text from elsewhere: printed without effect, and JSON that means one thing."""

from __future__ import annotations

import io
import json
from pathlib import Path

import pytest
from analysis_runs import record
from hypothesis import given, settings
from hypothesis import strategies as st
from rich.progress import Progress

from sde_harl.analysis import figures, tables
from sde_harl.analysis.consumption import summarise
from sde_harl.analysis.consumption_tables import show
from sde_harl.config.arguments import parse
from sde_harl.errors import UserError
from sde_harl.outside.text import printable, read_text, strict_json
from sde_harl.record.progress import ProgressLine
from sde_harl.record.reader import open_run
from sde_harl.record.terminal import PlainConsole

HOSTILE = "[/x] [red]:boom: \x1b]0;title\x07 \u202e back \x9b31m"
AS_SHOWN = r"[/x] [red]:boom: \x1b]0;title\x07 \u202e back \x9b31m"


def test_what_does_not_print_is_escaped() -> None:
    assert printable("plain ünïcode") == "plain ünïcode"
    assert printable(HOSTILE) == AS_SHOWN
    assert printable("a\nb\tc\udc80") == r"a\nb\tc\udc80"
    assert printable("a\nb\r", keep="\n") == "a\nb\\r"


@settings(max_examples=200, deadline=None)
@given(st.text())
def test_any_text_becomes_one_printable_line(text: str) -> None:
    assert printable(text).isprintable()
    assert str(UserError(text)).isprintable()
    printable(text).encode()


@pytest.mark.parametrize(
    "text",
    [
        '{"a": 1, "a": 2}',
        '[{"b": {"a": 1, "a": 1}}]',
        "NaN",
        "[-Infinity]",
        "[1e999]",
        "{",
        "",
        "[" * 100_000,
        b"\xff",
    ],
)
def test_json_that_is_none_or_means_two_things_is_refused(text: str | bytes) -> None:
    with pytest.raises(ValueError, match=r"."):
        strict_json(text)


def test_json_is_read() -> None:
    value = {"a": [1, 2.5, None, True, "x"], "b": {}}
    assert strict_json(json.dumps(value)) == value


@pytest.mark.parametrize("terminal", [False, True])
def test_names_are_no_markup_in_tables_and_lines(
    terminal: bool, monkeypatch: pytest.MonkeyPatch
) -> None:
    stream = io.StringIO()
    console = PlainConsole(file=stream, width=200)
    if terminal:
        monkeypatch.setenv("TERM", "xterm")
        monkeypatch.setattr(console, "_force_terminal", True)
    table = tables.new_table([HOSTILE], left=[HOSTILE])
    tables.add_title(table, HOSTILE)
    table.add_row(HOSTILE)
    console.print(table)
    tables.print_line(console, f"{HOSTILE}\n")
    text = stream.getvalue()
    assert text.count("[/x] [red]:boom: ") == 4
    assert text.count(r"\x1b]0;title\x07 \u202e back") == 4
    assert "\x1b]0;" not in text


def test_a_progress_bar_prints_names_as_they_are(monkeypatch: pytest.MonkeyPatch) -> None:
    class Terminal(io.StringIO):
        def isatty(self) -> bool:
            return True

    monkeypatch.setenv("TERM", "xterm")
    monkeypatch.setenv("COLUMNS", "200")
    stream = Terminal()
    line = ProgressLine(stream, 100)
    line.print(HOSTILE)
    assert isinstance(line._bar, Progress)
    line._bar.update(line._bar.task_ids[0], line="[/y]")
    line.close()
    assert "[/x] [red]:boom: " in stream.getvalue()
    assert "[/y]" in stream.getvalue()
    assert "\x1b]0;" not in stream.getvalue()


def test_a_run_whose_names_look_like_markup_is_readable(
    tmp_path_factory: pytest.TempPathFactory,
) -> None:
    hosts = json.dumps([{"host": HOSTILE}, {"host": "[/b]"}, {"host": ":x:"}])
    folder = tmp_path_factory.mktemp("markup") / "[x]" / "[bold"
    path = record(folder, algo=HOSTILE, env="[/x]", placement="[/]", emulated="[/y]", hosts=hosts)
    stream = io.StringIO()
    show(summarise(open_run(path), meters={}), PlainConsole(file=stream, width=200))
    text = stream.getvalue()
    assert f"{path}: [/x], {AS_SHOWN}, placement [/]" in text
    assert "[/b]" in text
    assert ":x:" in text
    assert "\x1b" not in text


def test_a_name_is_no_formula_in_a_figure(tmp_path: Path) -> None:
    figure, [axes] = figures.new_panels(["$\\oops{$ return"])
    axes.plot([0, 1], [0, 1], label="$_{$")
    figures.add_legends(figure)
    figures.save(figure, tmp_path / "f.png")
    assert (tmp_path / "f.png").stat().st_size


def test_a_file_without_end_is_refused(tmp_path: Path) -> None:
    with pytest.raises(UserError, match=r"^/dev/zero: can't read the configuration: more than "):
        parse(["/dev/zero"])
    (tmp_path / "a").write_text("é")
    assert read_text(tmp_path / "a", 2) == "é"
    with pytest.raises(ValueError, match="more than 1 bytes"):
        read_text(tmp_path / "a", 1)
