"""The settings that mpirun needs where `make venv` has not written them down.

mpirun reads them before it starts us. So the commands that start mpirun set them, and doctor prints
the line to type for mpiruns that are started by hand.
"""

from __future__ import annotations

import os
import shutil
import sys
from collections.abc import Mapping
from pathlib import Path

AS_ROOT = {"OMPI_ALLOW_RUN_AS_ROOT": "1", "OMPI_ALLOW_RUN_AS_ROOT_CONFIRM": "1"}
"""Open MPI refuses root without both."""
MAPPING = {
    # Ranks may be more than cores. By slot: OVERSUBSCRIBE alone fills the first host of a hostfile.
    "PRTE_MCA_rmaps_default_mapping_policy": "slot:OVERSUBSCRIBE",
    # Otherwise each rank is held to one core, environments and learner together.
    "PRTE_MCA_hwloc_default_binding_policy": "none",
}


def find_mpirun() -> str | None:
    """Returns the mpirun that belongs to this Python, else the one in PATH; None without any."""
    # The one beside this Python is the one that its mpi4py was installed with.
    search = f"{Path(sys.executable).parent}:{os.environ.get('PATH', '')}"
    return shutil.which("mpirun", path=search)


def environment() -> dict[str, str]:
    """Returns this process's environment with the settings, for a process that is mpirun."""
    return {**_needed(), **os.environ}


def advice() -> str:
    """Returns the line to type before mpirun is started by hand; empty where nothing is missing."""
    missing = {name: value for name, value in _needed().items() if name not in os.environ}
    if not missing:
        return ""
    words = " ".join(f"{name}={value}" for name, value in missing.items())
    return f"before you start mpirun by hand, type: export {words}"


def _needed() -> Mapping[str, str]:
    needed: dict[str, str] = {}
    if os.geteuid() == 0:
        needed |= AS_ROOT
    files = (
        Path(sys.prefix) / "etc" / "prte-mca-params.conf",
        Path.home() / ".prte" / "mca-params.conf",
    )
    written = "".join(file.read_text(errors="replace") for file in files if file.is_file())
    for name, value in MAPPING.items():
        if name.replace("PRTE_MCA_", "") not in written:
            needed[name] = value
    return needed
