"""Starting MPI: which rank this process is, and its end of the link.

Importing this module does not import mpi4py.
"""

from __future__ import annotations

import os
from typing import Any

from sde_harl.errors import UserError
from sde_harl.link.mpi_end import MpiEnd
from sde_harl.link.mpi_executor import MpiExecutor
from sde_harl.link.mpi_server import MpiServer
from sde_harl.link.transport import SERVER
from sde_harl.link.waiting import Waiter, sharpen_sleeps


def join(waiter: Waiter | None = None) -> MpiEnd:
    """Starts MPI and returns this rank's end.

    Call it once in a process; only the thread that called it may use the end. Raises UserError
    where MPI knows fewer ranks than were launched.
    """
    free_single_core_binding()
    sharpen_sleeps()
    mpi = _initialised_mpi()
    _check_size(launched_ranks()[1], mpi.COMM_WORLD.Get_size())
    waiter = waiter or Waiter()
    if mpi.COMM_WORLD.Get_rank() == SERVER:
        return MpiServer(mpi, waiter)
    return MpiExecutor(mpi, waiter)


def _imported_mpi() -> Any:
    """Imports mpi4py's MPI module without starting MPI, which importing it does by default."""
    import mpi4py

    # The caller may still fork, or fail before any rank started.
    mpi4py.rc.initialize = False
    from mpi4py import MPI

    return MPI


def _initialised_mpi() -> Any:
    mpi = _imported_mpi()
    # FUNNELED: one thread talks, others (the record's writer) don't; MULTIPLE would lock around
    # every call.
    mpi.Init_thread(mpi.THREAD_FUNNELED)
    return mpi


def library_version() -> str:
    """Returns the MPI library's name and version, such as "Open MPI v5.0.11"."""
    return str(_imported_mpi().Get_library_version()).partition(",")[0].strip("\0 \n")


def launched_ranks() -> tuple[int, int]:
    """Returns this process's rank and the number of ranks; (0, 1) without an MPI launcher.

    Raises UserError where srun has started several tasks and no MPI.
    """
    # Slurm's own variables are no sign of a launcher: a batch script, which runs once, has them
    # too.
    env = os.environ
    for rank, size in (
        ("OMPI_COMM_WORLD_RANK", "OMPI_COMM_WORLD_SIZE"),
        ("PMI_RANK", "PMI_SIZE"),
        ("PMIX_RANK", "SLURM_STEP_NUM_TASKS"),
    ):
        if rank in env and size in env:
            return int(env[rank]), int(env[size])
    # A step of Slurm's, which a batch script is not: without a launcher, each of its tasks would be
    # a run of its own.
    _check_size(int(env.get("SLURM_STEP_NUM_TASKS", 1)), 1)
    return 0, 1


def _check_size(launched: int, world: int) -> None:
    """Raises UserError where the ranks that were launched don't know each other."""
    if launched != world:
        raise UserError(
            f"MPI: expected a world of {launched} ranks, got {world}: the launcher speaks another"
            " MPI than mpi4py's; use the mpirun of that MPI, or the srun --mpi=pmix or pmi2 that"
            " sde-harl doctor names"
        )


def free_single_core_binding() -> None:
    """Lets this process use all cores if a launcher bound it to one without being asked to."""
    # Open MPI binds a rank to one core where it thinks that cores suffice, which starves the rank's
    # other threads. Under Slurm, or with a binding policy in the environment, somebody wanted the
    # binding.
    asked = {"SLURM_JOB_ID", "PRTE_MCA_hwloc_default_binding_policy"} & set(os.environ)
    if asked or not hasattr(os, "sched_setaffinity") or len(os.sched_getaffinity(0)) != 1:
        return
    os.sched_setaffinity(0, range(os.cpu_count() or 1))
