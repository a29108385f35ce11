"""Executors that play environments of their own: the same numbers as in one process."""

from __future__ import annotations

from pathlib import Path

import pytest
from launch import PATIENT, launch, needs_mpirun
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
    "hasac": [*MPE, "algo.name=hasac", "algo.epochs=1"],
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
