"""Learner ranks under mpirun: the numbers of one learner, and how such a run ends."""

from __future__ import annotations

import re
import signal
from pathlib import Path

import numpy as np
import psutil
import pytest
from launch import PATIENT, kill_all, launch, needs_mpirun
from limits import hang_limit_s
from running import Running
from same_runs import TIMES

from sde_harl.config.arguments import parse
from sde_harl.executor.in_process import loopback
from sde_harl.record.reader import open_run
from sde_harl.training.build import build
from sde_harl.training.trainer import Trainer

SHORT = ["record.tensorboard=false", "eval.interval=0", "eval.episodes=1", PATIENT]
SPREAD = [
    "configs/mpe_spread.yaml",
    "env.backend=mpe2",
    "train.envs=4",
    "train.rollout=25",
    "policy.local_blocks=1",
    "codec.name=entropy",
    *SHORT,
]
# For twenty updates: no rounding of latents and, in the battle, small steps. What isn't continuous,
# such as a latent that lies between two symbols to the last bit or a ratio at the edge of its clip,
# is decided by the order of a sum. Some update sooner or later comes to such a place. That order
# also differs where one learner has two threads instead of one.
LATENTS = "codec.name=float32"
BATTLE = [
    "configs/smac.yaml",
    "env.backend=smax",
    "env.map=3s5z",
    LATENTS,
    "algo.lr=1e-4",
    "train.envs=8",
    "train.rollout=16",
    *SHORT,
]
LONG = [
    "-m",
    "sde_harl.run",
    *SPREAD,
    "train.steps=1000000000",
    "algo.epochs=20",
    "learner.ranks=2",
    "placement.mode=local",
]
"""A run that is learning most of the time."""


def assert_same_curves(folder: Path, other: Path, updates: int) -> None:
    """Checks that two runs have learnt the same within 1e-5, at each of so many updates."""
    (one,) = folder.rglob("run.h5")
    (two,) = other.rglob("run.h5")
    wanted = open_run(one).table("training")
    found = open_run(two).table("training")
    assert wanted.keys() == found.keys()
    assert len(wanted["policy_loss"]) == updates
    for name, values in wanted.items():
        # Ideal bits come from tables of 16-bit integers, whose entries are rounded.
        if not any(each in name for each in TIMES) and name != "bits_per_element":
            np.testing.assert_allclose(found[name], values, rtol=1e-5, atol=1e-5, err_msg=name)


def play(folder: Path, ranks: int, *words: str) -> Path:
    ended = launch(ranks, "-m", "sde_harl.run", *words, f"record.dir={folder}")
    assert ended.code == 0, ended.err
    return folder


@needs_mpirun
def test_two_learners_learn_what_one_learns(tmp_path: Path) -> None:
    words = [*SPREAD, "placement.mode=local", "train.steps=300", "algo.epochs=2"]
    config = parse([*words, f"record.dir={tmp_path / 'one'}"]).config
    assert config
    Trainer(build(config, loopback())).run()
    two = play(tmp_path / "two", 2, *words, "learner.ranks=2")
    assert_same_curves(tmp_path / "one", two, 3)
    (log,) = two.rglob("log.txt")
    assert re.search(
        r"learners: rank 0 with \d+ threads? on cores .*; rank 1 with", log.read_text()
    )


CASES = {
    "spread": (2, [*SPREAD, LATENTS, "placement.mode=local", "train.steps=2000"]),
    "3s5z": (2, [*BATTLE, "placement.mode=local", "train.steps=2560"]),
    "agents": (
        4,
        [*SPREAD, LATENTS, "placement.mode=agents", "train.steps=2000", "algo.minibatches=2"],
    ),
    "envs": (4, [*SPREAD, LATENTS, "placement.mode=envs", "train.steps=2000", "algo.name=mappo"]),
    "hatrpo": (
        2,
        [*SPREAD, LATENTS, "placement.mode=local", "train.steps=500", "algo.name=hatrpo"],
    ),
}


@needs_mpirun
@pytest.mark.slow
@pytest.mark.parametrize("case", CASES)
def test_learners_learn_the_same_on_every_placement(case: str, tmp_path: Path) -> None:
    ranks, words = CASES[case]
    one = play(tmp_path / "one", 1, *words, "placement.mode=local")
    two = play(tmp_path / "two", ranks, *words, "learner.ranks=2")
    (steps,) = [int(word.split("=")[1]) for word in words if word.startswith("train.steps=")]
    assert_same_curves(one, two, steps // (128 if case == "3s5z" else 100))


def ranks_of(run: Running) -> list[psutil.Process]:
    """Returns the processes of a run's ranks, in their order, when it is in the middle of it."""
    run.wait_for(lambda: run.updates() >= 2, "two updates")
    processes = psutil.Process(run.process.pid).children(recursive=True)
    return sorted(
        (each for each in processes if "OMPI_COMM_WORLD_RANK" in each.environ()),
        key=lambda each: int(each.environ()["OMPI_COMM_WORLD_RANK"]),
    )


@needs_mpirun
@pytest.mark.parametrize(
    "number", [signal.SIGTERM, pytest.param(signal.SIGINT, marks=pytest.mark.slow)]
)
def test_a_signal_to_rank_0_ends_all_learners_and_the_state_is_saved(
    number: signal.Signals, tmp_path: Path
) -> None:
    run = Running(tmp_path, *LONG, ranks=2)
    try:
        first, second = ranks_of(run)
        first.send_signal(number)
        run.end()
        assert not psutil.wait_procs([first, second], hang_limit_s())[1]
    finally:
        kill_all(run.process)
    assert run.process.returncode == 130, run.output()
    assert "Traceback" not in run.output()
    assert re.search(r"saved .*last\.pt", run.output())


@needs_mpirun
@pytest.mark.slow
def test_a_killed_learner_ends_the_run(tmp_path: Path) -> None:
    run = Running(tmp_path, *LONG, ranks=2)
    try:
        ranks_of(run)[1].kill()
        run.end()
    finally:
        kill_all(run.process)
    assert run.process.returncode
    assert "rank 1" in run.output(), "mpirun names it"


@needs_mpirun
@pytest.mark.slow
def test_a_stopped_learner_ends_the_run_with_a_line(tmp_path: Path) -> None:
    run = Running(tmp_path, *LONG, "link.failure_timeout_s=10", ranks=2)
    try:
        ranks_of(run)[1].suspend()
        run.end()
    finally:
        kill_all(run.process)
    assert run.process.returncode == 2, run.output()
    assert "error: a learner has not taken part in an update within" in run.output()
    assert [*tmp_path.rglob("last.pt")]
