"""Off-policy algorithms wherever their agents and environments are: the same numbers each time."""

from __future__ import annotations

from pathlib import Path

import pytest
from launch import PATIENT, launch, needs_mpirun
from same_runs import assert_same, assert_same_decisions

from sde_harl.record.reader import open_run

SHORT = [
    "train.threads=1",
    "record.tensorboard=false",
    "algo.batch_size=64",
    "algo.updates=0.2",
    "policy.local_blocks=1",
    "codec.name=entropy",
    PATIENT,
]
BATTLE = [
    "configs/smac.yaml",
    "env.backend=smax",
    "env.map=3s5z",
    "train.envs=8",
    "train.slots=8",
    "train.rollout=25",
    "train.steps=1600",
    "algo.warmup_steps=400",
    "eval.interval=800",
    "eval.episodes=3",
]
SPREAD = [
    "configs/mpe_spread_continuous.yaml",
    "env.backend=mpe2",
    "env.workers=0",
    "train.envs=8",
    "train.slots=4",
    "train.rollout=25",
    "train.steps=1200",
    "algo.warmup_steps=400",
    "eval.interval=600",
    "eval.episodes=3",
]
ALGORITHMS = {
    "hasac": BATTLE,
    "had3qn": BATTLE,
    "haddpg": SPREAD,
    "hatd3": SPREAD,
    "maddpg": SPREAD,
    "matd3": SPREAD,
}


@needs_mpirun
@pytest.mark.slow
@pytest.mark.parametrize("algo", ALGORITHMS)
def test_every_placement_gives_the_same_run(algo: str, tmp_path: Path) -> None:
    words = [*ALGORITHMS[algo], f"algo.name={algo}", *SHORT]
    agents = 8 if words[0] == BATTLE[0] else 3
    for mode, ranks in (("local", 1), ("agents", 1 + agents), ("envs", 3)):
        placed = [f"placement.mode={mode}", f"record.dir={tmp_path / mode}"]
        ended = launch(ranks, "-m", "sde_harl.run", *words, *placed)
        assert ended.code == 0, ended.err
    [record] = (tmp_path / "local").rglob("run.h5")
    assert open_run(record).table("training")["replay_age"][-1] > 0  # it has learnt
    for mode in ("agents", "envs"):
        assert_same(tmp_path / "local", tmp_path / mode)
        assert_same_decisions(tmp_path / "local", tmp_path / mode)
