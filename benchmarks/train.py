"""Measures environment steps per second of training, by the run's own record.

Learning, coding and recording are included. A run's figure is the median over its updates after the
first two, which compile.

* `train/ALGO/TASK/BACKEND` is a run in one process. Its floor is the bare environment: the same
  slots stepped in turn by random actions, in the same session. Below it are its stages' shares of
  the time.
* `train/ALGO/TASK/BACKEND/agentsR` is a run on R ranks, one for each agent and the server, if the
  configuration places agents on ranks (battles, the default, do). Its floor is the first figure.

`--config FILE` takes another configuration (`configs/mpe_spread.yaml` is HARL's own setting), and
keys are given as for a run (`env.map=8m algo.name=mappo`). `--quick` measures too little to mean
anything, to see that it works.
"""

from __future__ import annotations

import argparse
import subprocess
import sys
import tempfile
import time
from pathlib import Path
from typing import NamedTuple

import h5py
import numpy as np
from decision import mpirun
from numpy.typing import NDArray
from rows import Row, report

from sde_harl.config.arguments import parse
from sde_harl.config.schema import Config
from sde_harl.envs.base import EnvSpec, VectorEnv
from sde_harl.envs.registry import make, resolve_backend

ROOT = Path(__file__).resolve().parents[1]
WARM_UP = 2  # updates of a run, and steps of a bare environment, that aren't counted
STEPS = 65536
BARE_S = 3.0
QUICK_BARE_S = 0.1
QUICK = ["train.envs=8", "train.rollout=16", "algo.epochs=2", "train.steps=512"]
SILENT = ["record.tensorboard=false", "eval.episodes=0"]


class Trained(NamedTuple):
    """Holds the speed that one run recorded."""

    steps_per_s: float
    shares: dict[str, float]  # of the time, by stage


def read(path: Path) -> Trained:
    """Reads medians over the updates of a run.h5."""
    with h5py.File(path) as file:
        training = file["training"]
        columns = {
            name: training[name][WARM_UP:]
            for name in training
            if name == "steps_per_s" or "share" in name
        }
    speed = float(np.median(columns.pop("steps_per_s")))
    shares = {name: float(np.median(values)) for name, values in columns.items()}
    return Trained(steps_per_s=speed, shares=shares)


def train(ranks: int, words: list[str]) -> Trained:
    """Trains once on `ranks` ranks, in a folder of its own that is removed afterwards."""
    with tempfile.TemporaryDirectory() as folder:
        program = ["-m", "sde_harl.run", *words, f"record.dir={folder}"]
        if ranks > 1:
            ended = mpirun(ranks, [*program, "placement.mode=agents"])
        else:
            command = [sys.executable, *program, "placement.mode=local"]
            ended = subprocess.run(command, stdin=subprocess.DEVNULL, check=False)
        if ended.returncode:
            sys.exit(f"training on {ranks} rank(s) ended with code {ended.returncode}")
        return read(next(Path(folder).rglob("run.h5")))


class Bare(NamedTuple):
    """Holds a task, and how fast its environments step with neither policy nor learning."""

    spec: EnvSpec
    steps_per_s: float


def bare(config: Config, seconds: float) -> Bare:
    """Steps the environments by random actions for so many seconds."""
    slots = config.train.slots
    rows = config.train.envs // slots
    vectors = [
        make(config.env, num_envs=rows, seed=config.seed, first_env=slot * rows)
        for slot in range(slots)
    ]
    rng = np.random.default_rng(0)
    for vector in vectors:
        vector.send(at_random(vector, vector.reset().available_actions, rng))
    rounds = 1 - WARM_UP  # the sends above are the first
    started = time.perf_counter()
    while rounds <= 0 or time.perf_counter() - started < seconds:
        if rounds == 0:
            started = time.perf_counter()
        # in turn, as a run has them: while one slot waits to be received, the others step
        for vector in vectors:
            vector.send(at_random(vector, vector.recv().available_actions, rng))
        rounds += 1
    elapsed = time.perf_counter() - started
    for vector in vectors:
        vector.recv()
        vector.close()
    return Bare(spec=vectors[0].spec, steps_per_s=rounds * config.train.envs / elapsed)


def at_random(
    vector: VectorEnv, available: NDArray[np.bool_], rng: np.random.Generator
) -> NDArray[np.generic]:
    """Returns random actions (E, N, D) that are available (E, N, A)."""
    if vector.spec.continuous:
        numbers: NDArray[np.float32] = rng.random(available.shape, np.float32) * 2 - 1
        return numbers * available
    edges = np.cumsum((0, *vector.spec.branches))
    # the largest of uniform numbers, the unavailable ones set to 0, is at a random available place
    draws = rng.random(available.shape, np.float32) * available
    branches = [draws[..., start:end].argmax(-1) for start, end in zip(edges[:-1], edges[1:])]
    choices: NDArray[np.intp] = np.stack(branches, -1)
    return choices.astype(np.int32)


def rows_of(name: str, trained: Trained, floor: float) -> list[Row]:
    """Returns the lines of one run: its speed against `floor`, and its stages' shares."""
    speed = trained.steps_per_s
    rows = [Row(name=name, value=speed, unit="steps/s", floor=floor, ratio=speed / floor)]
    for share, value in trained.shares.items():
        rows.append(Row(name=f"{name}/{share}", value=value, unit="1", floor=None, ratio=None))
    return rows


def options_of(argv: list[str]) -> tuple[argparse.Namespace, list[str]]:
    """Returns this program's own options, and the keys that go to the run."""
    parser = argparse.ArgumentParser(
        description=__doc__,
        formatter_class=argparse.RawDescriptionHelpFormatter,
        allow_abbrev=False,
    )
    parser.add_argument("--config", default=str(ROOT / "configs" / "smac.yaml"))
    parser.add_argument("--quick", action="store_true")
    parser.add_argument("--json", metavar="OUT")
    return parser.parse_known_args(argv)


def main(argv: list[str]) -> None:
    options, keys = options_of(argv)
    words = [options.config, f"train.steps={STEPS}", *SILENT]
    seconds = BARE_S
    if options.quick:
        words += QUICK
        seconds = QUICK_BARE_S
    words += keys  # last, so that they win
    config = parse(words).config
    assert config is not None
    floor = bare(config, seconds)
    local = train(1, words)
    task = floor.spec.name.split("/", 1)[1]
    prefix = f"train/{config.algo.name}/{task}/{resolve_backend(config.env).backend}"
    rows = rows_of(prefix, local, floor.steps_per_s)
    if config.placement.mode == "agents":
        ranks = len(floor.spec.agents) + 1
        rows += rows_of(f"{prefix}/agents{ranks}", train(ranks, words), local.steps_per_s)
    to_json = []
    if options.json:
        to_json = ["--json", options.json]
    report(rows, to_json)


if __name__ == "__main__":
    main(sys.argv[1:])
