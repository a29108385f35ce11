"""A run that was interrupted goes on as if it had not been."""

from __future__ import annotations

import random
import shutil
import signal
from pathlib import Path

import pytest
from launch import kill_all, launch, needs_mpirun
from running import Running
from same_runs import assert_same

SMALL = [
    "train.threads=1",
    "record.tensorboard=false",
    "train.envs=8",
    "train.slots=2",
    "train.rollout=33",
    "train.steps=2640",
    "algo.epochs=2",
    "eval.interval=600",
    "eval.episodes=4",
    "record.checkpoint_interval=264",
    "record.keep=3",
]
"""Rollouts end in the middle of episodes, updates with and without an evaluation alternate."""
MPE = ["configs/mpe_spread.yaml", "env.backend=mpe2", "env.workers=0", *SMALL]
MPE += ["policy.local_blocks=1", "codec.name=entropy"]
SMAX = ["configs/sde_harl.yaml", *SMALL, "roles.steps=2000"]
LEARNS_SOON = ["algo.warmup_steps=264", "algo.batch_size=64", "algo.updates=0.2"]
"""Off-policy: with the warm-up of the preset these runs would be random play to their end."""
CASES = {
    "coded": MPE,
    "recurrent": [*MPE, "policy.recurrent=true", "algo.chunk=11"],
    "plain": [*MPE[:-1], "codec.name=float32"],
    "hatrpo": [*MPE, "algo.name=hatrpo"],
    "hasac": [*MPE, "algo.name=hasac", *LEARNS_SOON],
    "workers": [*MPE, "env.workers=2"],
    "full method": SMAX,
}
KILLED_AND_ASKED = (3, 4)
"""Seeds of an interruption of each kind."""


def interrupted(
    folder: Path, words: list[str], *, ranks: int, seed: int, mode: str = "agents"
) -> str:
    """Interrupts a run after a random update and goes on; returns what the second part said.

    A signal asks for the end, or all of its processes are killed: `seed` decides.
    `mode`: the placement of more than one rank.
    """
    draw = random.Random(seed)
    if ranks == 1:
        mode = "local"
    run = Running(folder, "-m", "sde_harl.run", *words, f"placement.mode={mode}", ranks=ranks)
    try:
        run.wait_for(lambda: [*folder.rglob("*.pt")], "a checkpoint")
        rows = run.updates() + draw.randint(0, 3)
        run.wait_for(lambda: run.updates() >= rows, f"{rows} rows")
        if draw.choice([True, False]):
            # kill -9 of mpirun alone would reach no rank.
            kill_all(run.process)
        else:
            # mpirun passes SIGUSR1 on.
            run.process.send_signal(signal.SIGUSR1)
            run.end()
    finally:
        kill_all(run.process)
    (file,) = folder.rglob("run.h5")
    ended = launch(ranks, "-m", "sde_harl.run", "--resume", str(file.parent))
    assert ended.code == 0, ended.err
    return ended.err


@pytest.fixture(scope="module")
def uninterrupted(tmp_path_factory: pytest.TempPathFactory) -> dict[str, Path]:
    """Returns the folders of runs that were not interrupted, which are made when asked for."""
    return {}


def whole(name: str, runs: dict[str, Path], folders: pytest.TempPathFactory) -> Path:
    if name not in runs:
        folder = folders.mktemp("whole")
        words = ["-m", "sde_harl.run", *CASES[name], "placement.mode=local", f"record.dir={folder}"]
        ended = launch(1, *words)
        assert ended.code == 0, ended.err
        runs[name] = folder
    return runs[name]


def test_a_run_goes_on_bit_for_bit(
    uninterrupted: dict[str, Path], tmp_path_factory: pytest.TempPathFactory, tmp_path: Path
) -> None:
    output = interrupted(tmp_path, CASES["recurrent"], ranks=1, seed=1)
    assert "resumed at" in output
    assert_same(whole("recurrent", uninterrupted, tmp_path_factory), tmp_path)
    numbered = [path for path in tmp_path.rglob("*.pt") if path.stem != "last"]
    assert len(numbered) == 3


@pytest.mark.slow
@pytest.mark.parametrize("seed", range(10))
@pytest.mark.parametrize("name", CASES)
def test_every_kind_of_run_goes_on_bit_for_bit(
    name: str,
    seed: int,
    uninterrupted: dict[str, Path],
    tmp_path_factory: pytest.TempPathFactory,
    tmp_path: Path,
) -> None:
    interrupted(tmp_path, CASES[name], ranks=1, seed=seed)
    assert_same(whole(name, uninterrupted, tmp_path_factory), tmp_path)


@needs_mpirun
@pytest.mark.slow
@pytest.mark.parametrize("seed", KILLED_AND_ASKED)
@pytest.mark.parametrize(
    ("mode", "name", "ranks"),
    [
        ("agents", "coded", 4),
        ("agents", "hatrpo", 4),
        ("agents", "hasac", 4),
        ("agents", "full method", 9),
        ("envs", "recurrent", 3),
        ("envs", "hatrpo", 2),
        ("envs", "hasac", 3),
        ("envs", "full method", 3),
    ],
)
def test_ranks_go_on_bit_for_bit(
    mode: str,
    name: str,
    ranks: int,
    seed: int,
    uninterrupted: dict[str, Path],
    tmp_path_factory: pytest.TempPathFactory,
    tmp_path: Path,
) -> None:
    interrupted(tmp_path, CASES[name], ranks=ranks, seed=seed, mode=mode)
    assert_same(whole(name, uninterrupted, tmp_path_factory), tmp_path)


@needs_mpirun
@pytest.mark.slow
@pytest.mark.parametrize("seed", KILLED_AND_ASKED)
@pytest.mark.parametrize("name", ["recurrent", "hatrpo", "hasac", "full method"])
def test_rollouts_that_are_played_ahead_go_on_bit_for_bit(
    name: str,
    seed: int,
    uninterrupted: dict[str, Path],
    tmp_path_factory: pytest.TempPathFactory,
    tmp_path: Path,
) -> None:
    words = [*CASES[name], "train.overlap=true"]
    # One process can't play ahead.
    ahead = f"{name}, ahead"
    if ahead not in uninterrupted:
        folder = tmp_path_factory.mktemp("ahead")
        run = ["-m", "sde_harl.run", *words, "placement.mode=envs", f"record.dir={folder}"]
        ended = launch(2, *run)
        assert ended.code == 0, ended.err
        uninterrupted[ahead] = folder
    interrupted(tmp_path, words, ranks=3, seed=seed, mode="envs")
    assert_same(uninterrupted[ahead], tmp_path)


def test_a_torn_checkpoint_is_refused_and_the_one_before_it_is_taken(tmp_path: Path) -> None:
    words = [*MPE, "train.steps=528", "placement.mode=local", f"record.dir={tmp_path}"]
    assert launch(1, "-m", "sde_harl.run", *words).code == 0
    (last,) = tmp_path.rglob("last.pt")
    last.write_bytes(last.read_bytes()[:-100])
    folder = last.parents[1]
    ended = launch(1, "-m", "sde_harl.run", "--resume", str(folder), "train.steps=792")
    assert ended.code == 0, ended.err
    assert "not a checkpoint of ours: " in ended.err
    assert "the one before it is taken" in ended.err
    assert "resumed at 528 steps" in ended.err
    for file in (folder / "models").iterdir():
        file.unlink()
    ended = launch(1, "-m", "sde_harl.run", "--resume", str(folder))
    assert ended.code == 2
    assert "can't go on: there is no checkpoint" in ended.err


def test_auto_goes_on_with_the_unfinished_run_and_else_begins(tmp_path: Path) -> None:
    words = [*MPE, "placement.mode=local", f"record.dir={tmp_path}", "train.resume=auto"]
    run = ["-m", "sde_harl.run", *words]
    assert launch(1, *run, "train.steps=264").code == 0
    assert "resumed at 264 steps" in launch(1, *run, "train.steps=528").err
    assert "resumed at" not in launch(1, *run, "train.steps=528").err
    assert len([*tmp_path.rglob("run.h5")]) == 2
    shutil.rmtree(tmp_path / "mpe")
    ended = launch(1, "-m", "sde_harl.run", "--resume", "latest", f"record.dir={tmp_path}")
    assert ended.code == 2
    assert "there is none" in ended.err
