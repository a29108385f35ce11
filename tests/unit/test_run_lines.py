"""What a run says on the terminal: how far it is, and in the end what it came to."""

from __future__ import annotations

import io
import math
import re
from pathlib import Path

import numpy as np
import pytest
from small_runs import TRAINED, run

from sde_harl.record.progress import ProgressLine, fitted
from sde_harl.server.decision_log import Decisions
from sde_harl.training.summary import result_line

SCALARS = {"win_rate": 0.984, "return": 19.5, "bytes_per_decision": 8.5, "bits_per_element": 2.1}


class Terminal(io.StringIO):
    def isatty(self) -> bool:
        return True


@pytest.mark.parametrize("columns", [60, 80, 120, 200])
def test_no_terminal_cuts_off_what_matters(monkeypatch: pytest.MonkeyPatch, columns: int) -> None:
    monkeypatch.setenv("TERM", "xterm")
    monkeypatch.setenv("COLUMNS", str(columns))
    stream = Terminal()
    line = ProgressLine(stream, 5_000_000)
    line.update(1_234_567, SCALARS)
    line.close()
    shown = stream.getvalue()
    for part in ("1,234,567 of 5,000,000 steps", "win rate 98.4%", "8.5 bytes/decision"):
        assert (part in shown) or columns < 80
    assert "…" not in shown or columns < 80
    assert ("bits/element" in shown) == (columns >= 200)


def test_the_return_stays_where_nothing_can_be_won() -> None:
    parts = {"steps": "1 of 2 steps", "steps/s": "9 steps/s", "return {:.2f}": "return 1.00"}
    assert fitted(parts, 30) == "1 of 2 steps · return 1.00"
    assert fitted(parts, 100) == "1 of 2 steps · 9 steps/s · return 1.00"
    won = {**parts, "win rate {:.1%}": "win rate 1.0%"}
    assert fitted(won, 30) == "1 of 2 steps · win rate 1.0%"


def decisions(*device_ns: tuple[int, int, int]) -> Decisions:
    """Returns decisions of one agent of which nothing matters but the device's times."""
    unused = np.zeros(0)
    fields = dict.fromkeys(Decisions._fields, unused)
    return Decisions(**{**fields, "device_ns": np.array(device_ns, np.uint32)[:, None]})


def test_the_result_is_one_line() -> None:
    means = {"win_rate": 0.984, "return": 19.5, "bytes_per_decision": 8.0}
    timed = decisions((10_000, 0, 2_000_000), (10_000, 90_000, 2_900_000), (0, 0, 9_000_000))
    assert result_line(means, timed, float32_bytes=128) == (
        "98.4% won · 8.0 bytes/decision · 16.0 times less than float32 · 2.50 ms a message"
    )
    unwinnable = {**means, "win_rate": math.nan, "bytes_per_decision": 0.0}
    assert result_line(unwinnable, decisions((0, 0, 0)), 128) == "return 19.50"
    whole = decisions((40_000, 0, 0))
    assert result_line(unwinnable, whole, 0) == "return 19.50 · 0.04 ms a message"


def test_a_run_ends_with_its_result(trained: Path) -> None:
    lines = (trained / "log.txt").read_text().splitlines()
    told = next(line for line in lines if "result: " in line)
    wanted = r"\d:\d\d:\d\d result: return -\d+\.\d\d · \d+\.\d bytes/decision"
    assert re.match(wanted, told)
    assert told.endswith(" ms a message")
    assert lines.index(told) > max(k for k, line in enumerate(lines) if "evaluation at" in line)


def test_steps_beyond_those_asked_for_are_told(trained: Path, tmp_path: Path) -> None:
    assert "will be played" not in (trained / "log.txt").read_text()
    folder = run(*TRAINED, "train.steps=59", "eval.episodes=0", f"record.dir={tmp_path}")
    log = (folder / "log.txt").read_text()
    assert log.count("train.steps: 59 asked, 60 will be played") == 1
    assert "in training: return -" in log
