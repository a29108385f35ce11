"""Starts programs as a user does, with or without mpirun."""

from __future__ import annotations

import contextlib
import os
import shutil
import subprocess
import sys
import tempfile
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any, NamedTuple

import psutil
import pytest
from limits import WAIT_S, hang_limit_s

ROOT = Path(__file__).parents[2]
MPIRUN = shutil.which("mpirun", path=f"{Path(sys.executable).parent}:{os.environ.get('PATH', '')}")
needs_mpirun = pytest.mark.skipif(MPIRUN is None, reason="mpirun is not installed")


PATIENT = f"link.failure_timeout_s={hang_limit_s():.0f}"
"""Makes a run wait for slow executors for as long as a test waits for the run."""


class Ended(NamedTuple):
    """Holds the exit code and the output of a program that has ended."""

    code: int
    out: str
    err: str


def environment() -> dict[str, str]:
    """Returns the environment variables of programs under test."""
    extra = {
        "OMPI_ALLOW_RUN_AS_ROOT": "1",
        "OMPI_ALLOW_RUN_AS_ROOT_CONFIRM": "1",
        "PRTE_MCA_rmaps_default_mapping_policy": ":OVERSUBSCRIBE",
        "PYTHONPATH": str(ROOT),
    }
    return {**os.environ, **extra}


def command(ranks: int, *words: str, ulfm: bool = False) -> list[str]:
    """Returns the words of `python words...`, under mpirun where `ranks` is more than one.

    `ulfm`: ranks go on where one has ended.
    """
    launcher: list[str] = []
    if ranks > 1:
        tolerant = ["--with-ft", "ulfm"] if ulfm else []
        launcher = [str(MPIRUN), *tolerant, "-np", str(ranks)]
    return [*launcher, sys.executable, *words]


def launch(ranks: int, *words: str) -> Ended:
    """Runs `python words...` to its end, under mpirun where `ranks` is more than one."""
    return launch_command(command(ranks, *words))


def launch_command(
    words: Sequence[str | Path],
    *,
    cwd: Path = ROOT,
    env: dict[str, str] | None = None,
    base_s: float = WAIT_S,
    prepare: Callable[[], None] | None = None,
) -> Ended:
    """Runs a program to its end; one that hangs is killed with all its ranks and fails the test.

    `prepare` is called in the new process before the program.
    """
    # Files and not pipes: a rank that outlives its launcher would keep a pipe open for ever.
    with tempfile.TemporaryFile("w+") as out, tempfile.TemporaryFile("w+") as err:
        process = subprocess.Popen(
            words,
            stdin=subprocess.DEVNULL,
            stdout=out,
            stderr=err,
            cwd=cwd,
            env=env or environment(),
            start_new_session=True,
            preexec_fn=prepare,
        )
        hung = False
        try:
            process.wait(hang_limit_s(base_s))
        except subprocess.TimeoutExpired:
            hung = True
        finally:
            kill_all(process)
        texts = []
        for file in (out, err):
            file.seek(0)
            texts.append(file.read())
    if hung:
        pytest.fail(f"{words} hung\n{texts[0][-2000:]}\n{texts[1][-2000:]}")
    return Ended(process.returncode, *texts)


def kill_all(process: subprocess.Popen[Any]) -> None:
    """Kills a process that still runs, and all that it has started."""
    if process.poll() is not None:
        return
    # mpirun gives its ranks sessions of their own, so that killing its session would not do.
    launcher = psutil.Process(process.pid)
    for each in [launcher, *launcher.children(recursive=True)]:
        with contextlib.suppress(psutil.NoSuchProcess):
            each.kill()
    process.wait()
