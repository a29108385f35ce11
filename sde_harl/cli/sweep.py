"""Runs an experiment with every combination of the values you list, one run after the other.

    sde-harl sweep EXPERIMENT policy.local_blocks=0,1,2,3,4,5,10 [key=value ...]
    sde-harl sweep EXPERIMENT key=a,b --mpirun "mpirun -np 9 --hostfile hostfiles/localhost"

Any key=value may list several values. Commas inside brackets don't separate values
(policy.groups=[[0,1],[2]]). Start the same command again to go on where it stopped: a run with the
same configuration that was recorded to its end is not repeated. If a run fails, the others go on.
Where policy.local_blocks reaches policy.blocks, the run gets codec.name=none.

Each run is stored as usual, with its values in record.exp. The folder
<record.dir>/sweeps/<record.exp>/ holds a log of each run, and sweep.json, which names the folders
of the finished ones. The programs in analysis/ take this folder in place of run files. Give every
sweep its own record.exp. train.steps=0 measures what untrained policies cost, not what they win.
"""

from __future__ import annotations

import argparse
import math
import os
import shlex
import signal
import subprocess
import sys
import time
from pathlib import Path
from typing import NamedTuple, TextIO

from rich import box
from rich.table import Table

from sde_harl.cli.hostfile import check_launcher
from sde_harl.cli.launcher import environment
from sde_harl.cli.trials import Result, SweepPlan, Trial, finished, plan, result, write_index
from sde_harl.config.wording import shown
from sde_harl.errors import ExitCode, UserError
from sde_harl.link.mpi import launched_ranks
from sde_harl.outside.process import on_stop
from sde_harl.outside.text import printable
from sde_harl.record.finding import SWEEP_INDEX
from sde_harl.record.terminal import PlainConsole

RUNS_FAILED = 1
POLL_S = 0.2
GRACE_S = 30.0
"""Time for a run to save itself when it is stopped. Then it is killed."""
WIDTH = 120  # of the table where the output is no terminal


class Outcome(NamedTuple):
    """The end of a trial."""

    folder: Path | None
    """The run's folder. None for a run that isn't finished."""
    state: str
    """Text for the user: finished, or why it isn't."""


class Sweep:
    """Plays the trials of one sweep, and keeps its folder up to date."""

    def __init__(self, plan: SweepPlan, launcher: list[str]) -> None:
        self._folder = plan.folder
        self._trials = plan.trials
        self._launcher = launcher
        self.outcomes: dict[str, Outcome] = {}
        self._durations_s: list[float] = []
        self._folder.mkdir(parents=True, exist_ok=True)

    def run(self) -> None:
        """Plays each trial that was not finished before. Updates sweep.json after each."""
        for trial in self._trials:
            folder = finished(trial.config)
            if folder:
                self.outcomes[trial.name] = Outcome(folder=folder, state="finished before")
        self._write_index()
        for number, trial in enumerate(self._trials, start=1):
            if trial.name not in self.outcomes:
                self._play(number, trial)

    def _play(self, number: int, trial: Trial) -> None:
        self._say(number, trial, f"starts{self._time_left()}")
        started = time.monotonic()
        outcome = self._outcome(number, trial)
        self.outcomes[trial.name] = outcome
        self._durations_s.append(time.monotonic() - started)
        self._write_index()
        self._say(number, trial, outcome.state)

    def _outcome(self, number: int, trial: Trial) -> Outcome:
        log = self._folder / f"{trial.name}.log"
        code = self._run_process(number, trial, log)
        if code:
            return Outcome(folder=None, state=f"failed: {reason(log, f'exit code {code}')}")
        # The exit code is not enough: mpirun may end with 0 although a host died.
        folder = finished(trial.config)
        if folder is None:
            return Outcome(folder=None, state=f"failed: its record is short of its steps ({log})")
        return Outcome(folder=folder, state="finished")

    def _run_process(self, number: int, trial: Trial, log: Path) -> int:
        """Runs a trial in a process of its own, prints what it says, and returns its exit code."""
        words = [*self._launcher, sys.executable, "-m", "sde_harl.run", *trial.words]
        with log.open("w") as output, log.open() as lines:
            process = start(words, output)
            try:
                while process.poll() is None:
                    time.sleep(POLL_S)
                    self._pass_on(number, trial, lines)
                # What it wrote between the last look and its end.
                self._pass_on(number, trial, lines)
            finally:
                stop(process)
        return process.returncode

    def _pass_on(self, number: int, trial: Trial, lines: TextIO) -> None:
        for line in lines:
            self._say(number, trial, line.rstrip())

    def _say(self, number: int, trial: Trial, text: str) -> None:
        # Escaped: a run's log may repeat what a host calls itself.
        print(printable(f"[{number}/{len(self._trials)} {trial.name}] {text}"), flush=True)

    def _time_left(self) -> str:
        """Returns an estimate from the runs so far. Returns nothing before the first run."""
        if not self._durations_s:
            return ""
        mean_s = sum(self._durations_s) / len(self._durations_s)
        seconds = mean_s * (len(self._trials) - len(self.outcomes))
        return f" (about {math.ceil(seconds / 60)} min to the sweep's end)"

    def _write_index(self) -> None:
        runs: dict[str, Path] = {}
        failed: dict[str, str] = {}
        for name, outcome in self.outcomes.items():
            if outcome.folder:
                runs[name] = outcome.folder
            else:
                failed[name] = outcome.state
        write_index(self._folder, runs=runs, failed=failed)

    def summary(self) -> Table:
        """Returns a table with a line for each trial."""
        table = Table(box=box.SIMPLE_HEAD)
        for name in ("run", "state"):
            table.add_column(name)
        for name in ("steps", "return", "win rate", "bytes/decision"):
            table.add_column(name, justify="right")
        missing = Outcome(folder=None, state="not finished")
        for trial in self._trials:
            outcome = self.outcomes.get(trial.name, missing)
            table.add_row(trial.name, outcome.state, *_cells(outcome.folder))
        return table


def start(words: list[str], output: TextIO) -> subprocess.Popen[bytes]:
    """Starts a run. Raises UserError where its launcher can't be started."""
    try:
        # A session of its own, so that Ctrl-C reaches this process alone: mpirun would kill its
        # ranks before they have saved. `stop` tells the run in another way.
        return subprocess.Popen(
            words,
            stdin=subprocess.DEVNULL,
            stdout=output,
            stderr=subprocess.STDOUT,
            env=environment(),
            start_new_session=True,
        )
    except OSError as error:
        launcher = shown(words[0])
        raise UserError(f"--mpirun: {launcher} can't be started: {error.strerror}") from error


def stop(process: subprocess.Popen[bytes]) -> None:
    """Ends a run that still goes on. It gets GRACE_S to save itself, then it is killed."""
    if process.poll() is not None:
        return
    # Not SIGTERM: mpirun kills its ranks soon after any signal but SIGUSR1.
    process.send_signal(signal.SIGUSR1)
    try:
        process.wait(GRACE_S)
    except (subprocess.TimeoutExpired, KeyboardInterrupt):  # a second Ctrl-C doesn't wait
        os.killpg(process.pid, signal.SIGKILL)
        process.wait()


def reason(log: Path, cause: str) -> str:
    """Returns why a run failed, and where to read more.

    That is its last error line, or `cause` if it printed none.
    """
    lines = log.read_text(errors="replace").splitlines()
    errors = [line for line in lines if line.startswith("error: ")]
    if errors:
        cause = errors[-1]
    return f"{cause} ({log})"


def _cells(folder: Path | None) -> list[str]:
    """Returns a run's last evaluation as cells of the table."""
    if folder is None:
        return ["-"] * 4
    last: Result = result(folder)
    return [
        f"{last.step:,}",
        _cell(last.return_mean, ".2f"),
        _cell(last.win_rate, ".1%"),
        _cell(last.bytes_per_decision, ".1f"),
    ]


def _cell(value: float, form: str) -> str:
    if math.isnan(value):
        return "-"
    return format(value, form)


def _parser() -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser(
        prog="sde-harl sweep",
        usage="%(prog)s EXPERIMENT key=a,b,c [key=value ...] [--mpirun COMMAND]",
        description=__doc__,
        formatter_class=argparse.RawDescriptionHelpFormatter,
        allow_abbrev=False,
    )
    parser.add_argument(
        "--mpirun",
        default="",
        metavar="COMMAND",
        help="command that starts each run, with its options; without it, each is one process",
    )
    return parser


def main(argv: list[str]) -> int:
    """Runs the sweep and prints its table. Returns the exit code, 1 where a run failed."""
    on_stop(signal.default_int_handler)
    options, words = _parser().parse_known_args(argv)
    if launched_ranks()[1] > 1:
        raise UserError(
            "a sweep is started without mpirun; it starts its runs: --mpirun 'mpirun -np 9'"
        )
    asked = plan(words)
    if not options.mpirun and any(trial.config.placement.mode != "local" for trial in asked.trials):
        print("no --mpirun: every run is one process, whatever placement.mode says")
    launcher = shlex.split(options.mpirun)
    check_launcher(launcher, "--mpirun")
    sweep = Sweep(asked, launcher)
    console = PlainConsole(width=WIDTH)
    try:
        sweep.run()
    finally:
        console.print(sweep.summary())
        index = asked.folder / SWEEP_INDEX
        print(f"{index} names the runs; the same command goes on with those not finished")
    if any(outcome.folder is None for outcome in sweep.outcomes.values()):
        return RUNS_FAILED
    return ExitCode.DONE
