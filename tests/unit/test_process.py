"""Signals: which one ends what, and that a second one does no harm."""

from __future__ import annotations

import contextlib
import os
import signal
from pathlib import Path

import pytest

from sde_harl.cli import main as commands
from sde_harl.errors import ExitCode
from sde_harl.outside.process import STOPS, Interruption, guarded_streams

pytestmark = pytest.mark.usefixtures("kept_signals")


@pytest.mark.parametrize("number", STOPS)
def test_signals_that_an_environment_took_for_itself_are_the_runs_again(number: int) -> None:
    interruption = Interruption()
    interruption.watch(lambda: pytest.fail("there is something to save"))
    signal.signal(number, lambda *_: pytest.fail("the environment's own handler"))
    interruption.defer()
    os.kill(os.getpid(), number)
    with pytest.raises(KeyboardInterrupt):
        interruption.check()


def test_who_takes_no_signals_changes_none() -> None:
    before = [signal.getsignal(number) for number in STOPS]
    Interruption().defer()
    assert [signal.getsignal(number) for number in STOPS] == before


def test_a_second_ctrl_c_ends_a_command_in_silence(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    def interrupted_again(argv: list[str]) -> int:
        raise KeyboardInterrupt

    monkeypatch.setattr(commands, "main", interrupted_again)
    with pytest.raises(SystemExit) as ended:
        commands.entry()
    assert ended.value.code == ExitCode.INTERRUPTED
    # Python calls what libraries want done at the end, and would print what strikes there.
    assert all(signal.getsignal(number) is signal.SIG_IGN for number in STOPS)
    assert capsys.readouterr().err == ""


def test_a_log_file_can_be_followed(tmp_path: Path) -> None:
    file = tmp_path / "log.txt"
    with file.open("w") as log, contextlib.redirect_stdout(log), guarded_streams():
        print("a line")
        assert file.read_text() == "a line\n"
