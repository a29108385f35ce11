"""Run a configuration with every combination of listed values, one run after the other.

    sde-harl sweep CONFIG.yaml policy.local_blocks=0,1,2,3,4,5,10 [key=value ...]
    sde-harl sweep CONFIG.yaml key=a,b --mpirun "mpirun -np 9 --hostfile hostfiles/localhost"

Any key=value may list several values; commas inside brackets part nothing (policy.groups=[[0,1],[2]]). Started again,
it goes on where it stopped: a run that is recorded to its end, with the very same configuration, is not run again. A
run that fails is named, and the others go on. policy.local_blocks = policy.blocks is run with codec.name=none.

Runs are stored as always, record.exp telling their values; <record.dir>/sweeps/<record.exp>/ holds sweep.json, which
names the finished ones' folders (the programs in analysis/ take it in place of run files), and a log of each: give
every sweep a record.exp of its own.
train.steps=0 measures untrained policies: what they cost, not what they win.
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
from rich.console import Console
from rich.table import Table

from sde_harl.cli.trials import SweepPlan, Trial, finished, plan, result, write_index
from sde_harl.config.wording import shown
from sde_harl.errors import ExitCode, UserError
from sde_harl.link.mpi import launched_ranks
from sde_harl.record.reader import SWEEP_INDEX
from sde_harl.run import STOPS

RUNS_FAILED = 1
POLL_S = 0.2
GRACE_S = 30.0
"""A run that is told to stop saves what it has; then it is killed."""
WIDTH = 120  # where the output is no terminal


class Done(NamedTuple):
    """What became of a trial: its run's folder, or why there is none."""

    folder: Path | None
    state: str


class Sweep:
    """The trials of one sweep and the folder that tells of them."""

    def __init__(self, plan: SweepPlan, launcher: list[str]) -> None:
        self._folder, self._trials = plan
        self._launcher = launcher
        self.done: dict[str, Done] = {}
        self._taken_s: list[float] = []
        self._folder.mkdir(parents=True, exist_ok=True)

    def run(self) -> None:
        """Every trial that was not run before; sweep.json is true after each."""
        for trial in self._trials:
            folder = finished(trial.config)
            if folder:
                self.done[trial.name] = Done(folder, "finished before")
        self._write_index()
        for number, trial in enumerate(self._trials, start=1):
            if trial.name not in self.done:
                self._say(number, trial, f"starts{self._left()}")
                started = time.monotonic()
                self.done[trial.name] = done = self._play(number, trial)
                self._taken_s.append(time.monotonic() - started)
                self._write_index()
                self._say(number, trial, done.state)

    def _play(self, number: int, trial: Trial) -> Done:
        """One run in a process of its own."""
        words = [*self._launcher, sys.executable, "-m", "sde_harl.run", *trial.words]
        path = self._folder / f"{trial.name}.log"
        with path.open("w") as log, path.open() as said:
            try:
                # Its own session: Ctrl-C is ours, and the run is told in the way that leaves it time to save.
                process = subprocess.Popen(
                    words,
                    stdin=subprocess.DEVNULL,
                    stdout=log,
                    stderr=subprocess.STDOUT,
                    start_new_session=True,
                )
            except OSError as error:
                raise UserError(
                    f"--mpirun: {shown(words[0])} can't be started: {error.strerror}"
                ) from error
            try:
                while process.poll() is None:
                    time.sleep(POLL_S)
                    self._pass_on(number, trial, said)
                self._pass_on(number, trial, said)
            finally:
                stop(process)
        if process.returncode:
            return Done(None, f"failed: {why(path, process.returncode)}")
        folder = finished(trial.config)
        return (
            Done(folder, "finished")
            if folder
            else Done(None, f"failed: its record is short of its steps ({path})")
        )

    def _pass_on(self, number: int, trial: Trial, said: TextIO) -> None:
        for line in said:
            self._say(number, trial, line.rstrip())

    def _say(self, number: int, trial: Trial, text: str) -> None:
        print(f"[{number}/{len(self._trials)} {trial.name}] {text}", flush=True)

    def _left(self) -> str:
        """How long it may take from here, by the runs so far; nothing before the first."""
        if not self._taken_s:
            return ""
        seconds = sum(self._taken_s) / len(self._taken_s) * (len(self._trials) - len(self.done))
        return f" (about {math.ceil(seconds / 60)} min to the sweep's end)"

    def _write_index(self) -> None:
        runs = {name: done.folder for name, done in self.done.items() if done.folder}
        failed = {name: done.state for name, done in self.done.items() if not done.folder}
        write_index(self._folder, runs, failed)

    def summary(self) -> Table:
        """A line a trial."""
        table = Table(box=box.SIMPLE_HEAD)
        for name in ("run", "state", "steps", "return", "win rate", "bytes/decision"):
            table.add_column(name, justify="left" if name in ("run", "state") else "right")
        for trial in self._trials:
            done = self.done.get(trial.name, Done(None, "not finished"))
            table.add_row(trial.name, done.state, *_cells(done.folder))
        return table


def stop(process: subprocess.Popen[bytes]) -> None:
    """End a run that still goes on; SIGUSR1, because mpirun kills its ranks soon after any other signal."""
    if process.poll() is not None:
        return
    process.send_signal(signal.SIGUSR1)
    try:
        process.wait(GRACE_S)
    except (subprocess.TimeoutExpired, KeyboardInterrupt):  # a second Ctrl-C won't wait
        os.killpg(process.pid, signal.SIGKILL)
        process.wait()


def why(log: Path, code: int) -> str:
    """The run's own last line of error where it printed one, and where to read more."""
    errors = [
        line for line in log.read_text(errors="replace").splitlines() if line.startswith("error: ")
    ]
    return f"{errors[-1] if errors else f'exit code {code}'} ({log})"


def _cells(folder: Path | None) -> list[str]:
    if folder is None:
        return ["-"] * 4
    last = result(folder)
    figures = ((last.return_mean, ".2f"), (last.win_rate, ".1%"), (last.bytes_per_decision, ".1f"))
    return [
        f"{last.step:,}",
        *("-" if math.isnan(value) else format(value, form) for value, form in figures),
    ]


def main(argv: list[str]) -> int:
    """Runs the sweep and prints its table. Returns the exit code, 1 where a run failed."""
    for number in STOPS:
        signal.signal(number, signal.default_int_handler)
    parser = argparse.ArgumentParser(
        prog="sde-harl sweep",
        usage="%(prog)s CONFIG.yaml key=a,b,c [key=value ...] [--mpirun WORDS]",
        description=__doc__,
        formatter_class=argparse.RawDescriptionHelpFormatter,
        allow_abbrev=False,
    )
    parser.add_argument(
        "--mpirun", default="", metavar="WORDS", help="what starts each run, with its options"
    )
    options, words = parser.parse_known_args(argv)
    if launched_ranks()[1] > 1:
        raise UserError(
            "a sweep is started without mpirun; it starts its runs: --mpirun 'mpirun -np 9'"
        )
    asked = plan(words)
    if not options.mpirun and any(trial.config.placement.mode != "local" for trial in asked.trials):
        print("no --mpirun: every run is one process, whatever placement.mode says")
    made = Sweep(asked, shlex.split(options.mpirun))
    console = Console(width=None if sys.stdout.isatty() else WIDTH, highlight=False)
    try:
        made.run()
    finally:
        console.print(made.summary())
        print(
            f"{asked.folder / SWEEP_INDEX} names the runs; the same command goes on with those not finished"
        )
    if any(done.folder is None for done in made.done.values()):
        return RUNS_FAILED
    return ExitCode.DONE
