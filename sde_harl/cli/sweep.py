"""Runs an experiment with every combination of the values you list, on this machine.

    sde-harl sweep EXPERIMENT policy.local_blocks=0,1,2,3,4,5,10 [key=value ...]
    sde-harl sweep EXPERIMENT seed=1..5 --jobs 2                  two runs at once
    sde-harl sweep EXPERIMENT key=a,b --mpirun "mpirun -np 9 --hostfile hostfiles/localhost"

Any key=value may list several values, or a range of whole numbers. Commas inside brackets don't
separate values (policy.groups=[[0,1],[2]]). If a run fails, the others go on. Start the same
command again to go on where it stopped: a run with the same configuration that was recorded to its
end is not repeated, and one that was interrupted goes on from its last checkpoint. Where
policy.local_blocks reaches policy.blocks, the run gets codec.name=none. On a Slurm cluster,
sde-harl submit --array plays the same runs as jobs.

Each run is stored as usual, with its values in record.exp. The folder
<record.dir>/sweeps/<record.exp>/ holds a log of each run, and sweep.json, which names the folders
of the finished ones. The programs in analysis/ take this folder in place of run files. Give every
sweep its own record.exp. train.steps=0 measures what untrained policies cost, not what they win.
"""

from __future__ import annotations

import argparse
import math
import shlex
import signal
import sys
import time
from pathlib import Path
from typing import NamedTuple

from rich import box
from rich.table import Table

from sde_harl.cli.counting import count
from sde_harl.cli.hostfile import check_launcher
from sde_harl.cli.sweep_process import RunProcess, reason, stop
from sde_harl.cli.trials import Result, SweepPlan, Trial, finished, plan, result, write_index
from sde_harl.errors import ExitCode, UserError
from sde_harl.link.mpi import launched_ranks
from sde_harl.outside.process import on_stop
from sde_harl.outside.text import printable
from sde_harl.record.finding import SWEEP_INDEX
from sde_harl.record.terminal import PlainConsole

RUNS_FAILED = 1
POLL_S = 0.2
WIDTH = 120  # of the table where the output is no terminal


class Outcome(NamedTuple):
    """The end of a trial."""

    folder: Path | None
    """The run's folder. None for a run that isn't finished."""
    state: str
    """Text for the user: finished, or why it isn't."""


class Playing(NamedTuple):
    """A trial that is being played."""

    number: int
    trial: Trial
    process: RunProcess


class Sweep:
    """Plays the trials of one sweep, and keeps its folder up to date."""

    def __init__(self, plan: SweepPlan, launcher: list[str], *, at_once: int = 1) -> None:
        self._folder = plan.folder
        self._trials = plan.trials
        self._launcher = launcher
        self._at_once = at_once
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
        numbered = enumerate(self._trials, start=1)
        waiting = [each for each in numbered if each[1].name not in self.outcomes]
        playing: list[Playing] = []
        try:
            while waiting or playing:
                while waiting and len(playing) < self._at_once:
                    playing.append(self._begin(*waiting.pop(0)))
                time.sleep(POLL_S)
                playing = [each for each in playing if self._goes_on(each)]
        finally:
            stop(each.process for each in playing)

    def _begin(self, number: int, trial: Trial) -> Playing:
        self._say(number, trial, f"starts{self._time_left()}")
        words = [*self._launcher, sys.executable, "-m", "sde_harl.run", *trial.words]
        process = RunProcess(words, self._folder / f"{trial.name}.log")
        return Playing(number=number, trial=trial, process=process)

    def _goes_on(self, playing: Playing) -> bool:
        """Passes on what a run says, and returns whether it goes on; takes note of its end."""
        number, trial, process = playing
        # Asked first: what it wrote between its last line and its end must not be missed.
        code = process.code()
        for line in process.lines():
            self._say(number, trial, line)
        if code is None:
            return True
        self._durations_s.append(process.close())
        outcome = self._outcome(trial, log=process.log, code=code)
        self.outcomes[trial.name] = outcome
        self._write_index()
        self._say(number, trial, outcome.state)
        return False

    def _outcome(self, trial: Trial, *, log: Path, code: int) -> Outcome:
        if code:
            return Outcome(folder=None, state=f"failed: {reason(log, f'exit code {code}')}")
        # The exit code is not enough: mpirun may end with 0 although a host died.
        folder = finished(trial.config)
        if folder is None:
            return Outcome(folder=None, state=f"failed: its record is short of its steps ({log})")
        return Outcome(folder=folder, state="finished")

    def _say(self, number: int, trial: Trial, text: str) -> None:
        # Escaped: a run's log may repeat what a host calls itself.
        print(printable(f"[{number}/{len(self._trials)} {trial.name}] {text}"), flush=True)

    def _time_left(self) -> str:
        """Returns an estimate from the runs so far. Returns nothing before the first run."""
        if not self._durations_s:
            return ""
        mean_s = sum(self._durations_s) / len(self._durations_s)
        seconds = mean_s * (len(self._trials) - len(self.outcomes)) / self._at_once
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
        usage="%(prog)s EXPERIMENT key=a,b,c [key=value ...] [--jobs N] [--mpirun COMMAND]",
        description=__doc__,
        formatter_class=argparse.RawDescriptionHelpFormatter,
        allow_abbrev=False,
    )
    parser.add_argument(
        "--jobs", type=count, default=1, metavar="N", help="runs at once, on this machine (1)"
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
    sweep = Sweep(asked, launcher, at_once=options.jobs)
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
