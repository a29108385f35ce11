"""Two of nine ranks attack the server for minutes: the others go on learning, and both are named.

SDE_HARL_HOSTILE_MINUTES=10 python -m pytest -m slow tests/faults/test_hostile.py
"""

from __future__ import annotations

import os
import signal
import subprocess
import time
from pathlib import Path

import h5py
import numpy as np
import psutil
import pytest
import torch
from hostile_program import HOSTILE
from launch import command, environment, kill_all, needs_mpirun
from limits import hang_limit_s, wait_until

from sde_harl.record.checkpoint import load

MINUTES = float(os.environ.get("SDE_HARL_HOSTILE_MINUTES", "1"))
PROGRAM = Path(__file__).parents[1] / "helpers" / "hostile_program.py"
RUN = [
    "--env=pettingzoo",
    "placement.mode=agents",
    "link.on_fault=fallback",
    "link.deadline_ms=50",
    "record.tensorboard=false",
    "eval.episodes=0",
    "algo.epochs=2",
    "algo.minibatches=1",
    "train.threads=1",
    "train.envs=4",
    "train.rollout=25",
    "train.steps=1000000000",
]
SPLIT = ["policy.local_blocks=1", "env.factory=hostile_program:spread_of_eight"]
PLACEMENTS = {
    "split, float32": [*SPLIT, "codec.name=float32"],
    "split, entropy": [*SPLIT, "codec.name=entropy"],
    "on device": [
        "policy.blocks=2",
        "policy.local_blocks=2",
        "codec.name=none",
        "env.factory=hostile_program:continuous_spread_of_eight",
        "algo.action_aggregation=prod",
    ],
}
EXPECTED_KINDS = {"oversize", "json", "magic"}
"""Some of what the attacks of either rank must have been refused for."""
GROWTH = 200 << 20
"""Most bytes that rank 0 may have grown by at any time; one of the largest messages has more."""


def rank_0(job: subprocess.Popen[bytes]) -> psutil.Process:
    for each in psutil.Process(job.pid).children(recursive=True):
        if each.environ().get("OMPI_COMM_WORLD_RANK") == "0":
            return each
    raise AssertionError("no rank 0")


@needs_mpirun
@pytest.mark.slow
@pytest.mark.parametrize("placement", PLACEMENTS)
def test_two_of_nine_ranks_are_hostile(placement: str, tmp_path: Path) -> None:
    log = tmp_path / "log.txt"
    words = [*RUN, *PLACEMENTS[placement], f"record.dir={tmp_path}"]
    paths = f"{environment()['PYTHONPATH']}:{PROGRAM.parent}"
    with log.open("w") as out:
        job = subprocess.Popen(
            command(9, str(PROGRAM), *words),
            stdin=subprocess.DEVNULL,
            stdout=out,
            stderr=out,
            env={**environment(), "PYTHONPATH": paths},
            start_new_session=True,
        )
    try:
        wait_until(
            lambda: "of" in log.read_text(errors="replace").partition("run folder")[2],
            f"progress of the run ({log})",
            is_alive=lambda: job.poll() is None,
        )
        server = rank_0(job)
        before = server.memory_info().rss
        peak = before
        ends = time.monotonic() + 60 * MINUTES
        while time.monotonic() < ends:
            time.sleep(0.1)
            assert job.poll() is None, log.read_text(errors="replace")[-3000:]
            peak = max(peak, server.memory_info().rss)
        # It saves and ends the run.
        server.send_signal(signal.SIGUSR1)
        job.wait(hang_limit_s())
    finally:
        kill_all(job)
    text = log.read_text(errors="replace")
    assert "Traceback" not in text, text[-3000:]
    assert "interrupted" in text, text[-3000:]
    assert "\x1b" not in text
    assert peak - before < GROWTH, f"{peak - before:,} bytes more"
    check_record(next(tmp_path.rglob("run.h5")))
    check_weights(next(tmp_path.rglob("last.pt")))


def check_record(path: Path) -> None:
    """Checks that training went on with finite numbers, and that the faults name who did it."""
    with h5py.File(path) as run:
        training = {name: column[:] for name, column in run["training"].items()}
        ranks = run["faults"]["rank"][:]
        kinds = run["faults"]["kind"][:].astype(str)
    assert len(training["step"]) > 10 * MINUTES
    for name in ("policy_loss", "value_loss", "entropy"):
        assert np.isfinite(training[name]).all(), name
    for rank in HOSTILE:
        assert set(kinds[ranks == rank]) >= EXPECTED_KINDS, (rank, set(kinds[ranks == rank]))
    # A busy machine may make anyone late.
    innocent = kinds[~np.isin(ranks, HOSTILE)]
    assert set(innocent) <= {"absent", "back"}, set(innocent)


def check_weights(path: Path) -> None:
    tensors = {
        name: each for name, each in load(path).values.items() if isinstance(each, torch.Tensor)
    }
    assert len(tensors) > 10
    assert [name for name, each in tensors.items() if not torch.isfinite(each).all()] == []
