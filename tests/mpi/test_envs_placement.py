"""Executors that play environments of their own: the same numbers as in one process."""

from __future__ import annotations

import random
import re
import signal
import time
from pathlib import Path

import psutil
import pytest
from launch import PATIENT, kill_all, launch, needs_mpirun
from running import Running
from same_runs import assert_same, assert_same_decisions

SHORT = ["train.threads=1", "record.tensorboard=false", "algo.epochs=2", PATIENT]
MPE = [
    "configs/mpe_spread.yaml",
    "env.backend=mpe2",
    "env.workers=0",
    "train.envs=4",
    "train.slots=2",
    "train.rollout=33",
    "train.steps=264",
    "eval.interval=132",
    "eval.episodes=3",
    "policy.local_blocks=1",
    "codec.name=entropy",
]
"""Rollouts end in the middle of episodes; two updates, an evaluation after each."""
SMAX = [
    "configs/3m.yaml",
    "train.envs=16",
    "train.slots=8",
    "train.rollout=32",
    "train.steps=1536",
    "eval.interval=1024",
    "eval.episodes=10",
]
CHEETAH = [
    "configs/halfcheetah_6x1.yaml",
    "algo.name=hatrpo",
    "train.envs=8",
    "train.slots=8",
    "train.rollout=32",
    "train.steps=768",
    "eval.interval=512",
    "eval.episodes=0",
    "policy.local_blocks=1",
    "codec.name=entropy",
]
CASES = {
    "happo on 3m": SMAX,
    "hatrpo on cheetah": CHEETAH,
    "recurrent": [*MPE, "policy.recurrent=true", "algo.chunk=11"],
    "on device": [*MPE, "policy.local_blocks=4", "policy.blocks=4", "codec.name=none"],
    "workers": [*MPE, "env.workers=2"],
    "full method": ["configs/sde_harl.yaml", *SMAX[1:], "roles.steps=2000"],
}


def run(folder: Path, words: list[str], *, ranks: int) -> str:
    """Plays a run alone, or with so many ranks; returns what it said."""
    mode = "placement.mode=envs"
    if ranks == 1:
        mode = "placement.mode=local"
    ended = launch(ranks, "-m", "sde_harl.run", *words, *SHORT, mode, f"record.dir={folder}")
    assert ended.code == 0, ended.err
    return ended.err


@needs_mpirun
def test_executors_that_play_environments_give_the_same_run(tmp_path: Path) -> None:
    run(tmp_path / "local", MPE, ranks=1)
    run(tmp_path / "envs", MPE, ranks=3)
    assert_same(tmp_path / "local", tmp_path / "envs")
    assert_same_decisions(tmp_path / "local", tmp_path / "envs")


@needs_mpirun
@pytest.mark.slow
@pytest.mark.parametrize("case", CASES)
def test_any_number_of_executors_gives_the_same_run(case: str, tmp_path: Path) -> None:
    words = CASES[case]
    run(tmp_path / "local", words, ranks=1)
    many = 9 if "train.slots=8" in words else 3
    for ranks in sorted({2, 3, many}):
        run(tmp_path / str(ranks), words, ranks=ranks)
        assert_same(tmp_path / "local", tmp_path / str(ranks))
        assert_same_decisions(tmp_path / "local", tmp_path / str(ranks))


LONG = [*MPE, "train.rollout=100000", "train.steps=400000", "record.tensorboard=false"]
"""Its first rollout takes minutes."""


def wait_until_it_plays(run: Running) -> list[psutil.Process]:
    """Waits until executors play; returns their processes."""
    run.wait_for(lambda: "run folder" in run.output(), "the run's folder")
    ranks = psutil.Process(run.process.pid).children(recursive=True)
    numbers = ("1", "2", "3")
    return [each for each in ranks if each.environ().get("OMPI_COMM_WORLD_RANK") in numbers]


@needs_mpirun
@pytest.mark.slow
def test_an_interrupted_run_waits_for_no_rollout(tmp_path: Path) -> None:
    run = Running(tmp_path, "-m", "sde_harl.run", *LONG, "placement.mode=envs", ranks=3)
    try:
        executors = wait_until_it_plays(run)
        run.process.send_signal(signal.SIGUSR1)
        run.end()
        assert not psutil.wait_procs(executors, 0)[1]
    finally:
        kill_all(run.process)
    assert "interrupted" in run.output()
    assert [*tmp_path.rglob("last.pt")]


@needs_mpirun
@pytest.mark.slow
def test_a_stopped_executor_ends_the_run_with_its_line(tmp_path: Path) -> None:
    words = [*LONG, "placement.mode=envs", "link.failure_timeout_s=10"]
    run = Running(tmp_path, "-m", "sde_harl.run", *words, ranks=3)
    try:
        first, _ = wait_until_it_plays(run)
        # It has given a sign of life by then, or is given the time to start.
        time.sleep(5.0)
        first.suspend()
        run.end()
    finally:
        kill_all(run.process)
    assert re.search(r"error: executor \d .*: nothing was heard of its games within", run.output())
    assert [*tmp_path.rglob("last.pt")]


REDEALT = {
    "mpe": [*MPE, "train.slots=4", "train.steps=6600", "eval.interval=1320"],
    "smax": [*SMAX, "train.slots=4", "train.steps=12288", "eval.interval=4096"],
}
"""Runs that are long enough for an executor to be lost at any of many moments."""


@pytest.fixture(scope="module")
def undisturbed(tmp_path_factory: pytest.TempPathFactory) -> dict[str, Path]:
    """Returns the folders of runs that nothing befell, which are made when asked for."""
    return {}


@needs_mpirun
@pytest.mark.slow
@pytest.mark.parametrize("seed", range(10))
@pytest.mark.parametrize(("case", "kind"), [("mpe", "kill"), ("smax", "kill"), ("mpe", "stop")])
def test_a_run_that_loses_an_executor_is_the_same_run(
    case: str,
    kind: str,
    seed: int,
    undisturbed: dict[str, Path],
    tmp_path_factory: pytest.TempPathFactory,
    tmp_path: Path,
) -> None:
    if case not in undisturbed:
        undisturbed[case] = tmp_path_factory.mktemp(case)
        run(undisturbed[case], REDEALT[case], ranks=1)
    draw = random.Random(seed)
    words = [*REDEALT[case], *SHORT, "placement.mode=envs", "link.on_fault=redeal"]
    if kind == "stop":
        words.append("link.failure_timeout_s=5")
    job = Running(tmp_path, "-m", "sde_harl.run", *words, ranks=4, ulfm=kind == "kill")
    try:
        executors = wait_until_it_plays(job)
        assert len(executors) == 3
        rows = draw.randint(0, 6)
        job.wait_for(lambda: job.updates() >= rows, f"{rows} rows")
        time.sleep(draw.uniform(0.0, 0.3))
        lost = draw.choice(executors)
        if kind == "stop":
            lost.suspend()
        else:
            lost.kill()
        job.end()
    finally:
        kill_all(job.process)
    assert "done, but without executors" in job.output(), job.output()
    assert "Traceback" not in job.output(), job.output()
    assert_same(undisturbed[case], tmp_path, ("training", "evaluations", "episodes"))
    assert_same_decisions(undisturbed[case], tmp_path)
