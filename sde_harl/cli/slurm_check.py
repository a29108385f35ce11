"""Says whether srun can start the MPI that is in use here; for doctor."""

from __future__ import annotations

from sde_harl.link.mpi import library_version
from sde_harl.slurm import commands

SPEAKS = {"Open MPI": "pmix", "MPICH": "pmi2", "Intel": "pmi2", "MVAPICH": "pmi2"}
"""What each MPI wants to be told by srun, by the beginning of its name."""


def slurm_line() -> str:
    """Returns the line about this cluster; empty where there is no Slurm."""
    if not commands.is_here():
        return ""
    library = library_version()
    kinds = commands.mpi_kinds()
    wanted = next((kind for name, kind in SPEAKS.items() if library.startswith(name)), "")
    listed = ", ".join(kinds) or "nothing"
    if any(kind.partition("_")[0] == wanted for kind in kinds):
        how = f"srun --mpi={wanted} may start its ranks, and mpirun in a job does"
    else:
        how = "start its ranks with mpirun in the job, not with srun; sde-harl submit does"
    return (
        f"Slurm: {library} wants {wanted or 'we do not know what'} of srun (here: {listed}): {how}"
    )
