"""Shows how far submitted runs are: queued, running, hung, done or failed, which step, time left.

    sde-harl status [FOLDER ...]

FOLDER is <record.dir>/jobs/<record.exp>, as sde-harl submit prints it; without one, all below
results/jobs are shown. Steps and times are read from the runs' own files, states from Slurm's queue
where there is one. A run is called hung when its job has written nothing for ten times as long as
an update took, five minutes at least. sweep.json in each folder is brought up to date: the programs
in analysis/ and sde-harl report take the folder in place of run files.
"""

from __future__ import annotations

import argparse
import csv
import itertools
import math
import time
from pathlib import Path
from typing import NamedTuple

from rich import box
from rich.table import Table

from sde_harl.cli.job_folder import ALONE, JOBS_FILE, JobFolder, Submitted
from sde_harl.cli.sweep_process import reason
from sde_harl.cli.trials import finished, run_folders, write_index
from sde_harl.errors import ExitCode, UserError
from sde_harl.record.finding import RESULTS
from sde_harl.record.progress import clock
from sde_harl.record.terminal import PlainConsole
from sde_harl.slurm import commands
from sde_harl.slurm.commands import Queued
from sde_harl.slurm.times import span_s

WIDTH = 140  # of the table where the output is no terminal
QUIET_S = 300.0
"""A run that has written something since then is never called hung."""
QUIET_UPDATES = 10
START_S = 1800.0
"""The same for a run that has yet to write its first row: it may compile, or learn roles."""
COLUMNS = ("experiment", "run", "job", "state", "steps", "ETA", "folder")


class Progress(NamedTuple):
    """How far a run is, by its metrics.csv."""

    step: int = 0
    seconds: float = 0.0
    """Time that it has taken to that step."""
    slowest_s: float = START_S / QUIET_UPDATES
    """Longest time between two rows."""
    quiet_s: float = math.inf
    """Time since the last row was written."""

    def is_hung(self, started_s: float) -> bool:
        """Returns whether nothing has come for too long. The job has run for `started_s`."""
        # A job that was put back into the queue has been silent for all the time it waited.
        quiet_s = min(self.quiet_s, started_s)
        return quiet_s > max(QUIET_S, QUIET_UPDATES * self.slowest_s)

    def left(self, steps: int) -> str:
        """Returns the time to the last step at the speed so far; "-" where that isn't known."""
        if not self.step or not self.seconds:
            return "-"
        return clock((steps - self.step) * self.seconds / self.step)


class Line(NamedTuple):
    """One run, as the table shows it."""

    name: str
    job: str
    state: str
    steps: str
    left: str
    folder: Path | None
    is_done: bool


def progress(folder: Path) -> Progress:
    """Reads how far a run is; nothing where it has written no row yet."""
    path = folder / "metrics.csv"
    try:
        with path.open(newline="") as file:
            rows = [(int(row["step"]), float(row["time_s"])) for row in csv.DictReader(file)]
        quiet_s = time.time() - path.stat().st_mtime
    except (OSError, ValueError, TypeError, KeyError):
        return Progress()  # not begun, or a row is being written
    if not rows:
        return Progress()
    step, taken_s = rows[-1]
    pauses = [later - earlier for (_, earlier), (_, later) in itertools.pairwise(rows)]
    return Progress(step, taken_s, slowest_s=max(pauses, default=taken_s), quiet_s=quiet_s)


def line(folder: JobFolder, run: Submitted, queue: list[Queued] | None) -> Line:
    """Returns the state of one run. `queue` is None where Slurm can't be asked."""
    config = folder.config(run.name)
    done = finished(config)
    newest = done or next(iter(run_folders(config)), None)
    so_far = progress(newest) if newest else Progress()
    planned = config.train.planned_steps
    queued = run.find(queue or [])
    left = "-"
    if done:
        state = "done"
    elif queued:
        state = _state(queued, so_far)
        if state == "running":
            left = so_far.left(planned)
    elif queue is None:
        state = "not done"
    else:
        state = _ended(folder.log_of(run))
    return Line(
        name=run.name or ALONE,
        job=queued.number if queued else str(run.job),
        state=state,
        steps=f"{so_far.step:,} of {planned:,}",
        left=left,
        folder=newest,
        is_done=done is not None,
    )


def _state(queued: Queued, so_far: Progress) -> str:
    if queued.state == "RUNNING":
        started_s = span_s(queued.elapsed) or 0
        return "hung" if so_far.is_hung(started_s) else "running"
    if queued.state in ("PENDING", "REQUEUED", "CONFIGURING"):
        return f"queued ({queued.reason})"
    return queued.state.lower()


def _ended(log: Path) -> str:
    """Returns why a run is neither in the queue nor done."""
    if not log.exists():
        return "ended before it began"
    return f"failed: {reason(log, 'stopped')}"


def show(folder: JobFolder, queue: list[Queued] | None, table: Table) -> None:
    """Adds an experiment's runs to the table, and writes the index of those that are done."""
    lines = [line(folder, run, queue) for run in folder.submitted()]
    for each in lines:
        where = str(each.folder or "-")
        cells = (each.name, each.job, each.state, each.steps, each.left, where)
        table.add_row(folder.path.name, *cells)
    write_index(
        folder.path,
        runs={each.name: each.folder for each in lines if each.is_done and each.folder},
        failed={each.name: each.state for each in lines if not each.is_done},
    )


def job_folders(asked: list[Path]) -> list[JobFolder]:
    """Returns the folders that were asked for, or all. Raises UserError where there is none."""
    paths = asked or [file.parent for file in sorted((RESULTS / "jobs").glob(f"*/{JOBS_FILE}"))]
    for path in paths:
        if not (path / JOBS_FILE).is_file():
            raise UserError(f"{path}: not a folder of sde-harl submit: it has no {JOBS_FILE}")
    if not paths:
        raise UserError(f"nothing was submitted below {RESULTS}/jobs; name the folder of a job")
    return [JobFolder(path) for path in paths]


def main(argv: list[str]) -> int:
    """Prints the table of all runs."""
    parser = argparse.ArgumentParser(
        prog="sde-harl status",
        description=__doc__,
        formatter_class=argparse.RawDescriptionHelpFormatter,
    )
    parser.add_argument(
        "folders", nargs="*", type=Path, metavar="FOLDER", help="of sde-harl submit"
    )
    folders = job_folders(parser.parse_args(argv).folders)
    queue = commands.queue() if commands.is_here() else None
    table = Table(box=box.SIMPLE_HEAD)
    for name in COLUMNS:
        table.add_column(name, overflow="fold")
    for folder in folders:
        show(folder, queue, table)
    PlainConsole(width=WIDTH).print(table)
    if queue is None:
        print("Slurm is not installed here: what is queued, running or failed can't be told")
    return ExitCode.DONE
