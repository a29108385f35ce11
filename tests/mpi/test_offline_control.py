"""Agents of a whole run go on acting while the server is stopped."""

from __future__ import annotations

import signal
import subprocess
import time
from pathlib import Path

import h5py
import numpy as np
import psutil
import pytest
from launch import ROOT, command, environment, kill_all, needs_mpirun
from limits import hang_limit_s, slowness, wait_until
from small_runs import TRAINED, acting, run

LOG = "SDE_HARL_TEST_LOG"
LOGGING = f"""
import os, time
import numpy as np

class Arm:
    def __init__(self, agent):
        self.out = open(f"{{os.environ['{LOG}']}}-{{agent}}", "w", buffering=1)
    def read(self):
        time.sleep(0.002)
        return np.zeros(18, np.float32)
    def act(self, action):
        print(time.monotonic(), file=self.out)
    def close(self):
        self.out.close()
"""


@needs_mpirun
@pytest.mark.slow
def test_agents_go_on_while_the_server_is_stopped(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Rank 0 stands still three times; no agent's actions pause for a quarter as long."""
    stop_s = 2.0 * slowness()
    trained = run(
        *TRAINED, "policy.fallback_head=true", "policy.local_blocks=1", f"record.dir={tmp_path}"
    )
    (tmp_path / "logging_arm.py").write_text(LOGGING)
    monkeypatch.setenv(LOG, str(tmp_path / "acts"))
    words = acting(
        trained, tmp_path / "acted", "logging_arm:Arm", "env.steps=1000", "link.deadline_ms=50"
    )
    words += ["placement.mode=agents", "link.on_fault=fallback"]
    env = {**environment(), "PYTHONPATH": f"{ROOT}:{tmp_path}"}
    with (tmp_path / "log.txt").open("w") as log:
        job = subprocess.Popen(
            command(3, "-m", "sde_harl.run", *words),
            stdin=subprocess.DEVNULL,
            stdout=log,
            stderr=subprocess.STDOUT,
            cwd=ROOT,
            env=env,
            start_new_session=True,
        )
    try:
        server = rank_0(job, tmp_path / "acts-0")
        for _ in range(3):
            server.send_signal(signal.SIGSTOP)
            time.sleep(stop_s)
            server.send_signal(signal.SIGCONT)
            time.sleep(0.3)
        assert job.wait(hang_limit_s()) == 0, (tmp_path / "log.txt").read_text()
    finally:
        kill_all(job)
    for agent in range(3):
        times = np.loadtxt(tmp_path / f"acts-{agent}")
        assert len(times) > 1000, np.diff(times).max()
        assert np.diff(times).max() < stop_s / 4, np.diff(times).max()
    with h5py.File(next((tmp_path / "acted").rglob("run.h5"))) as file:
        counted = file["resources/alone"][:][file["resources/rank"][:] > 0]
        assert 22 < counted.max() / stop_s < 45, (
            "three stops, ten times a second at most, and a few"
        )


def rank_0(job: subprocess.Popen[bytes], acts: Path) -> psutil.Process:
    """The server, when an agent has begun to act."""
    wait_until(
        lambda: acts.exists() and acts.stat().st_size,
        "an agent's first action",
        is_alive=lambda: job.poll() is None,
    )
    children = psutil.Process(job.pid).children(recursive=True)
    return next(each for each in children if each.environ().get("OMPI_COMM_WORLD_RANK") == "0")
