"""Starting the program as a user does, with or without mpirun."""

from __future__ import annotations

import os
import shutil
import signal
import subprocess
import sys
from pathlib import Path
from typing import NamedTuple

import pytest

ROOT = Path(__file__).parents[2]
MPIRUN = shutil.which("mpirun", path=f"{Path(sys.executable).parent}:{os.environ.get('PATH', '')}")
needs_mpirun = pytest.mark.skipif(MPIRUN is None, reason="mpirun is not installed")


class Ended(NamedTuple):
    code: int
    out: str
    err: str


def environment() -> dict[str, str]:
    extra = {
        "OMPI_ALLOW_RUN_AS_ROOT": "1",
        "OMPI_ALLOW_RUN_AS_ROOT_CONFIRM": "1",
        "PRTE_MCA_rmaps_default_mapping_policy": ":OVERSUBSCRIBE",
        "PYTHONPATH": str(ROOT),
    }
    return {**os.environ, **extra}


def command(ranks: int, *words: str) -> list[str]:
    """`python words...`, under mpirun where `ranks` is more than one."""
    launcher = [str(MPIRUN), "-np", str(ranks)] if ranks > 1 else []
    return [*launcher, sys.executable, *words]


def launch(ranks: int, *words: str, timeout_s: float = 100.0) -> Ended:
    """Run to the end; a program that hangs is killed with all its ranks and fails the test."""
    return launch_command(command(ranks, *words), timeout_s)


def launch_command(
    words: list[str],
    timeout_s: float = 100.0,
    *,
    cwd: Path = ROOT,
    env: dict[str, str] | None = None,
) -> Ended:
    process = subprocess.Popen(
        words,
        stdin=subprocess.DEVNULL,
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        text=True,
        cwd=cwd,
        env=env or environment(),
        start_new_session=True,
    )
    try:
        out, err = process.communicate(timeout=timeout_s)
    except subprocess.TimeoutExpired:
        os.killpg(process.pid, signal.SIGKILL)
        out, err = process.communicate()
        pytest.fail(f"{' '.join(words)} hung for {timeout_s:.0f} s\n{out[-2000:]}\n{err[-2000:]}")
    return Ended(process.returncode, out, err)
