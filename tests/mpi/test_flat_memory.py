"""A run of many updates needs no more memory at its end than at its beginning."""

from __future__ import annotations

import os
import signal
import subprocess
import time
from pathlib import Path

import psutil
import pytest
from launch import ROOT, command, environment, kill_all
from limits import hang_limit_s

QUICK_UPDATES = [
    "-m",
    "sde_harl.run",
    "configs/quick.yaml",
    "env.name=mpe",
    "env.map=simple_spread",
    "env.backend=mpe2",
    "env.workers=0",
    "placement.mode=local",
    "train.threads=1",
    "train.envs=2",
    "train.slots=1",
    "train.rollout=5",
    "train.steps=1000000000000",
    "algo.epochs=1",
    "eval.interval=1000",
    "eval.episodes=2",
    "record.checkpoint_interval=0",
]
MINUTES = float(os.environ.get("SDE_HARL_MEMORY_MINUTES", "20"))


@pytest.mark.slow
def test_memory_stays_flat(tmp_path: Path) -> None:
    """From a tenth of the time on, when everything has been used once, RSS grows by 1 % at most."""
    with (tmp_path / "output.txt").open("w") as output:
        process = subprocess.Popen(
            command(1, *QUICK_UPDATES, f"record.dir={tmp_path}"),
            stdin=subprocess.DEVNULL,
            stdout=output,
            stderr=subprocess.STDOUT,
            env=environment(),
            cwd=ROOT,
        )
    samples = []
    try:
        for _ in range(60):
            time.sleep(MINUTES)  # a sixtieth of the minutes, in seconds
            samples.append(psutil.Process(process.pid).memory_info().rss)
        process.send_signal(signal.SIGTERM)
        process.wait(hang_limit_s())
    finally:
        kill_all(process)
    updates = sum(file.read_text().count("\n") for file in tmp_path.rglob("metrics.csv"))
    megabytes = [round(sample / 2**20, 1) for sample in samples]
    print(f"{updates} updates, RSS in MiB every {MINUTES:g} s: {megabytes}")
    assert samples[-1] <= 1.01 * samples[6], megabytes
