"""Chooses how a batch job starts its ranks: by mpirun within the allocation, or by srun."""

from __future__ import annotations

import shlex
import sys
from pathlib import Path
from typing import NamedTuple

from sde_harl.cli.launcher import find_mpirun
from sde_harl.errors import UserError
from sde_harl.slurm import commands

LAUNCHERS = ("auto", "mpirun", "pmix", "pmi2")


class Launch(NamedTuple):
    """How the job starts its ranks."""

    words: tuple[str, ...]
    setup: tuple[str, ...] = ()


def job_launch(launcher: str, *, ranks: int, is_hetjob: bool) -> Launch:
    """Returns the words before the run's own command. Raises UserError where they can't work."""
    if ranks == 1:
        return Launch(())
    mpirun = find_mpirun()
    if launcher == "auto":
        launcher = _chosen(mpirun)
    if launcher == "mpirun":
        return _by_mpirun(mpirun, is_hetjob=is_hetjob)
    there = commands.mpi_kinds()
    if launcher not in there:
        listed = ", ".join(there) or "none"
        raise UserError(
            f"--launcher: expected what srun --mpi=list shows ({listed}), got {launcher}"
        )
    words = ("srun", f"--mpi={launcher}", "--kill-on-bad-exit=1")
    if is_hetjob:
        # One world of ranks over both parts, each with its own number of cores.
        return Launch((*words, "--het-group=0,1"))
    # From 22.05 on srun doesn't take the number of cores from the job, but from here.
    return Launch(words, setup=('export SRUN_CPUS_PER_TASK="$SLURM_CPUS_PER_TASK"',))


def _chosen(mpirun: str | None) -> str:
    """Returns the launcher that fits: an mpirun of this Python's own, else as the cluster says."""
    if mpirun and Path(mpirun).parent == Path(sys.executable).parent:
        return "mpirun"
    default = "none"
    if commands.is_here():
        default = commands.default_mpi().partition("_")[0]
    return default if default in LAUNCHERS else "mpirun"


def _by_mpirun(mpirun: str | None, *, is_hetjob: bool) -> Launch:
    if is_hetjob:
        raise UserError(
            "--hetjob: mpirun sees the first part of such a job alone; use --launcher pmix or pmi2"
        )
    if not mpirun:
        raise UserError(
            "--launcher: mpirun is not installed; load the cluster's module of Open MPI"
        )
    # Unbound: rank 0 has threads and environments beside it. SRUN_CPUS_PER_TASK is not set here: it
    # would leave mpirun's daemons, one on each host, the cores of a single rank.
    return Launch((shlex.quote(mpirun), "--bind-to none", '-np "$SLURM_NTASKS"'))
