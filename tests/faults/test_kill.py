"""kill -9 of a whole job at a random moment: run.h5 opens, short of the last episode at most."""

from __future__ import annotations

import random
import subprocess
import time
from pathlib import Path
from typing import NamedTuple

import h5py
import numpy as np
import psutil
import pytest
from launch import PATIENT, command, environment, needs_mpirun
from limits import hang_limit_s, wait_until

# Rank 0 notes the seeds of the episodes that ended together, in one line, before the record gets
# them.
PROGRAM = """
import os, sys
from sde_harl.link.mpi import launched_ranks
from sde_harl.run import main

def note_episodes(path):
    from sde_harl.record.writer import RunFile
    log, add = os.open(path, os.O_WRONLY | os.O_CREAT | os.O_APPEND), RunFile.add
    def noted(self, table, **columns):
        if table == "episodes":
            os.write(log, (" ".join(map(str, columns["seed"])) + "\\n").encode())
        add(self, table, **columns)
    RunFile.add = noted

if launched_ranks()[0] == 0:
    note_episodes(sys.argv[1])
sys.exit(main(sys.argv[2:]))
"""
ENDLESS = [
    "configs/quick.yaml",
    "train.threads=1",
    "train.steps=1000000000",
    "record.tensorboard=false",
]
MOMENT_S = 4.0
"""Longest time from the first episode's end to the kill."""
SEEDS = [0, *(pytest.param(seed, marks=pytest.mark.slow) for seed in range(1, 22))]


class Killed(NamedTuple):
    run: Path
    ended: list[list[int]]
    """Seeds of the episodes that ended, a list each time some did."""


def kill_all(job: subprocess.Popen[bytes], choose: random.Random) -> int:
    """Kills a job's launcher and its ranks in random order; returns how many there were."""
    processes: list[psutil.Process] = []
    if job.poll() is None:
        launcher = psutil.Process(job.pid)
        processes = [launcher, *launcher.children(recursive=True)]
        choose.shuffle(processes)
        for process in processes:
            process.kill()
    job.wait()
    assert not psutil.wait_procs(processes, hang_limit_s())[1]
    return len(processes)


def kill(folder: Path, seed: int) -> Killed:
    """Starts three ranks, kills them at a moment drawn from `seed`; returns what they played."""
    choose, log = random.Random(seed), folder / "ended.txt"
    with (folder / "errors.txt").open("w") as errors:
        job = subprocess.Popen(
            command(3, "-c", PROGRAM, str(log), *ENDLESS, PATIENT, f"record.dir={folder}"),
            stdin=subprocess.DEVNULL,
            stdout=subprocess.DEVNULL,
            stderr=errors,
            env=environment(),
        )
    try:
        wait_until(
            lambda: log.exists() and log.stat().st_size,
            "the first episode's end",
            is_alive=lambda: job.poll() is None,
        )
        time.sleep(choose.uniform(0.0, MOMENT_S))
        assert job.poll() is None, (folder / "errors.txt").read_text()
    finally:
        gone = kill_all(job, choose)
    assert gone == 4, "mpirun and three ranks"
    lines = log.read_text().splitlines()
    return Killed(
        next(folder.rglob("run.h5")), [[int(word) for word in line.split()] for line in lines]
    )


@needs_mpirun
@pytest.mark.parametrize("seed", SEEDS)
def test_kill_nine_of_the_whole_job(seed: int, tmp_path: Path) -> None:
    killed = kill(tmp_path, seed)
    with h5py.File(killed.run) as run:
        tables = {
            name: {key: column[:] for key, column in run[name].items()}
            for name in run
            if name != "trajectories"
        }
    episodes = tables["episodes"]
    rows = min(
        len(values) for values in episodes.values()
    )  # a kill between two columns' headers leaves one longer
    ended = [each for together in killed.ended for each in together]
    assert len(ended) - len(killed.ended[-1]) <= rows <= len(ended)
    assert episodes["seed"][:rows].tolist() == ended[:rows]
    assert (episodes["length"][:rows] > 0).all()
    assert np.isfinite(episodes["return"][:rows]).all()
