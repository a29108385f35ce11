"""Whole runs in this process, small enough for tests."""

from __future__ import annotations

from pathlib import Path

import h5py
import numpy as np

from sde_harl.config.arguments import parse
from sde_harl.executor.in_process import loopback
from sde_harl.link.wire import Header, Kind
from sde_harl.training.build import build
from sde_harl.training.trainer import Trainer

SMALL = [
    "train.envs=4",
    "train.rollout=30",
    "train.steps=240",
    "eval.episodes=4",
    "record.tensorboard=false",
]
SMALL += ["algo.epochs=2", "policy.width=16", "policy.latent=8", "codec.rate_rows=32"]


def made(folder: Path, *words: str) -> Trainer:
    config = parse(["env.workers=0", *SMALL, *words, f"record.dir={folder}"]).config
    assert config is not None
    return Trainer(build(config, loopback()))


def play(folder: Path, *words: str) -> dict[str, np.ndarray]:
    learner = made(folder, *words)
    learner.run()
    with h5py.File(learner.logger.folder / "run.h5") as file:
        tables = {name: file["training"][name][:] for name in file["training"]}
        assert len(file["evaluations"]["step"]) >= 1
        assert (learner.logger.folder / "models" / "last.pt").exists()
    if not learner.config.train.steps:
        return tables
    assert np.isfinite(tables["value_loss"]).all()
    if "ratio_error" in tables:
        assert tables["ratio_error"].max() < 1e-3, "what acted is not what is trained"
    return tables


TRAINED = [
    "--env",
    "pettingzoo",
    "--algo",
    "happo",
    *SMALL,
    "env.factory=mpe2.simple_spread_v3:parallel_env",
]
TRAINED += ["train.envs=2", "record.trajectories=eval", "policy.head_gain=1.0", "train.steps=60"]


def run(*words: str, sensor: str = "none") -> Path:
    """Runs a configuration to its end; returns the run's folder."""
    config = parse(list(words)).config
    assert config
    transport = loopback(sensor)
    learner = Trainer(build(config, transport))
    learner.run()
    transport.send(1, Header(kind=Kind.BYE))
    transport.flush(1.0)
    return learner.logger.folder


def acting(folder: Path, out: Path, sensor: str, *words: str) -> list[str]:
    """Returns the command line by which the policies of a run's folder act in the world."""
    given = [
        "env.name=devices",
        f"env.spec={folder}/spec.json",
        f"train.load={folder}/models/last.pt",
    ]
    given += ["train.steps=0", "train.envs=1", "train.slots=1", "env.steps=25", "eval.episodes=1"]
    given += ["record.trajectories=none"]
    return [
        f"{folder}/config.yaml",
        *given,
        f"record.dir={out}",
        f"executor.sensor={sensor}",
        *words,
    ]
