"""Calls Slurm's own programs and reads what they say."""

from __future__ import annotations

import getpass
import re
import shutil
import subprocess
from collections.abc import Sequence
from pathlib import Path
from typing import NamedTuple

from sde_harl.errors import UserError

TIMEOUT_S = 60.0
FORMAT = "%A|%F|%K|%T|%M|%L|%r|%j"
"""squeue's spelling of the columns of `Queued`; the name last, which may hold anything."""


class Queued(NamedTuple):
    """A job, or one task of an array, that has not ended."""

    number: str
    """Its own number, which scancel takes."""
    job: int
    """The number that sbatch has told: of the whole array."""
    task: int
    """Its number in the array; 0 for a job that is none."""
    state: str
    """Slurm's word: PENDING, RUNNING, COMPLETING, ..."""
    elapsed: str
    left: str
    """Time to its limit."""
    reason: str
    """Why it waits."""
    name: str


def is_here() -> bool:
    """Returns whether this host can talk to a Slurm."""
    return shutil.which("sbatch") is not None


def submit(script: Path) -> int:
    """Hands a script to Slurm and returns the job's number. Raises UserError where it refuses."""
    said = _run(["sbatch", "--parsable", str(script)])
    # "12" or "12;cluster".
    number = said.strip().partition(";")[0]
    if not number.isdecimal():
        raise UserError(f"sbatch: expected a job's number, got {said.strip()[:80]!r}")
    return int(number)


def queue() -> list[Queued]:
    """Returns this user's jobs that have not ended."""
    said = _run(["squeue", "--array", "--noheader", "--user", getpass.getuser(), "-o", FORMAT])
    return [_queued(line) for line in said.splitlines() if line.count("|") >= 7]


def _queued(line: str) -> Queued:
    number, job, task, *others = line.split("|", 7)
    if not task.isdecimal():
        task = "0"
    return Queued(number, int(job), int(task), *others)


def stop(jobs: Sequence[Queued]) -> None:
    """Ends jobs: one that runs is told to save itself, and none goes back into the queue."""
    for job in jobs:
        if job.state == "RUNNING":
            # Its script would have it put back into the queue otherwise.
            _run(["scontrol", "update", f"JobId={job.number}", "Requeue=0"])
            # To the script alone: to all processes, mpirun would kill its ranks.
            _run(["scancel", "--batch", "--signal=USR1", job.number])
        else:
            _run(["scancel", job.number])


def mpi_kinds() -> list[str]:
    """Returns the ways in which srun can start MPI here: pmi2, pmix, ..."""
    # Slurm prints the list as an error, in its first versions with "srun:" before each line.
    done = _done(["srun", "--mpi=list"])
    words = re.findall(r"^(?:srun:)?\s*([a-z0-9_]+)\s*$", done.stdout + done.stderr, re.MULTILINE)
    return [word for word in words if word != "none"]


def default_mpi() -> str:
    """Returns how srun starts MPI unless it is told otherwise."""
    found = re.search(r"^MpiDefault\s*=\s*(\S+)", _run(["scontrol", "show", "config"]), re.M)
    return found[1] if found else "none"


def _run(words: list[str]) -> str:
    """Returns what a program of Slurm's says. Raises UserError where it fails."""
    done = _done(words)
    if done.returncode:
        reason = (done.stderr or done.stdout).strip().partition("\n")[0]
        raise UserError(f"{words[0]}: {reason or f'ended with {done.returncode}'}")
    return done.stdout


def _done(words: list[str]) -> subprocess.CompletedProcess[str]:
    try:
        return subprocess.run(
            words,
            stdin=subprocess.DEVNULL,
            capture_output=True,
            text=True,
            errors="replace",
            timeout=TIMEOUT_S,
        )
    except OSError as error:
        raise UserError(f"{words[0]}: can't be started: is Slurm installed here?") from error
    except subprocess.TimeoutExpired as error:
        raise UserError(f"{words[0]}: no answer in {TIMEOUT_S:g} s") from error
