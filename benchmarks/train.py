"""Environment steps per second of training, by the run's own record: one process, and nine ranks against it.

`train/happo/3s5z/smax/local` is the median over the updates after the first two (which compile), learning, coding and
recording included; `.../agents9` has the local figure as its floor. Below each stand the shares of time of its stages.

`--map M` and `--steps N` choose another battle or length; `--quick` measures little, to see that it works.
"""

from __future__ import annotations

import argparse
import json
import subprocess
import sys
import tempfile
from pathlib import Path
from typing import NamedTuple

import h5py
import numpy as np
from decision import mpirun
from rows import Row, report

ROOT = Path(__file__).resolve().parents[1]
WARM_UP = 2  # updates
QUICK = ["train.envs=8", "train.rollout=16", "algo.epochs=2"]


class Trained(NamedTuple):
    """What one run's record says."""

    env: str
    """Such as smax/3s5z."""
    agents: int
    steps_per_s: float
    shares: dict[str, float]


def read(path: Path) -> Trained:
    with h5py.File(path) as file:
        training = file["training"]
        columns = {name: training[name][WARM_UP:] for name in training if name == "steps_per_s" or "share" in name}
        env, agents = str(file["meta"].attrs["env"]), len(json.loads(file["meta"].attrs["agents"]))
    speed = float(np.median(columns.pop("steps_per_s")))
    return Trained(env, agents, speed, {name: float(np.median(values)) for name, values in columns.items()})


def train(ranks: int, words: list[str]) -> Trained:
    """One run of `ranks` ranks, in a folder of its own that is gone afterwards."""
    with tempfile.TemporaryDirectory() as folder:
        mode = "agents" if ranks > 1 else "local"
        program = ["-m", "sde_harl.run", str(ROOT / "configs" / "smac.yaml"), f"placement.mode={mode}"]
        program += [f"record.dir={folder}", "record.tensorboard=false", "eval.episodes=0", *words]
        if ranks > 1:
            ended = mpirun(ranks, program)
        else:
            ended = subprocess.run([sys.executable, *program], stdin=subprocess.DEVNULL, check=False)
        if ended.returncode:
            sys.exit(f"training on {ranks} rank(s) ended with code {ended.returncode}")
        return read(next(Path(folder).rglob("run.h5")))


def rows_of(name: str, trained: Trained, floor: float | None) -> list[Row]:
    ratio = None if floor is None else trained.steps_per_s / floor
    speed = Row(name, trained.steps_per_s, "steps/s", floor, ratio)
    return [speed, *(Row(f"{name}/{share}", value, "1", None, None) for share, value in trained.shares.items())]


def main(argv: list[str]) -> None:
    parser = argparse.ArgumentParser(allow_abbrev=False)
    parser.add_argument("--map", default="3s5z")
    parser.add_argument("--steps", type=int)
    parser.add_argument("--quick", action="store_true")
    options = parser.parse_known_args(argv)[0]
    steps = options.steps or (512 if options.quick else 65536)
    words = [f"env.map={options.map}", f"train.steps={steps}", *(QUICK if options.quick else [])]
    local = train(1, words)
    ranks = local.agents + 1
    agents = train(ranks, words)
    backend, name = local.env.split("/", 1)
    prefix = f"train/happo/{name}/{backend}"
    rows = rows_of(f"{prefix}/local", local, None)
    report(rows + rows_of(f"{prefix}/agents{ranks}", agents, local.steps_per_s), argv)


if __name__ == "__main__":
    main(sys.argv[1:])
