"""Environment steps per second of training, by the run's own record, with learning, coding and recording included.

`train/ALGO/TASK/BACKEND` is one process, the median over the updates after the first two (which compile); its floor is
the bare environment: the same slots stepped in turn by random actions, in the same session. Below it stand the
shares of time of its stages. Battles (the default) are also trained on a rank for each agent, `.../agents9`, which has
the first figure as its floor; `--config configs/mpe_spread.yaml` is HARL's own setting.

`--config FILE`, and keys as for a run (`env.map=8m algo.name=mappo`); `--quick` measures little, to see that it works.
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
from rows import Row, report

from sde_harl.config.arguments import parse
from sde_harl.config.schema import Config
from sde_harl.envs.base import EnvSpec, VectorEnv
from sde_harl.envs.registry import make, resolve_backend

ROOT = Path(__file__).resolve().parents[1]
WARM_UP = 2  # updates, and steps of a bare environment
STEPS = 65536
BARE_S = 3.0
QUICK = ["train.envs=8", "train.rollout=16", "algo.epochs=2", "train.steps=512"]
SILENT = ["record.tensorboard=false", "eval.episodes=0"]


class Trained(NamedTuple):
    """What one run's record says."""

    steps_per_s: float
    shares: dict[str, float]


def read(path: Path) -> Trained:
    with h5py.File(path) as file:
        training = file["training"]
        columns = {
            name: training[name][WARM_UP:]
            for name in training
            if name == "steps_per_s" or "share" in name
        }
    speed = float(np.median(columns.pop("steps_per_s")))
    return Trained(speed, {name: float(np.median(values)) for name, values in columns.items()})


def train(ranks: int, words: list[str]) -> Trained:
    """One run of `ranks` ranks, in a folder of its own that is gone afterwards."""
    with tempfile.TemporaryDirectory() as folder:
        mode = "agents" if ranks > 1 else "local"
        program = ["-m", "sde_harl.run", *words, f"placement.mode={mode}", f"record.dir={folder}"]
        if ranks > 1:
            ended = mpirun(ranks, program)
        else:
            ended = subprocess.run(
                [sys.executable, *program], stdin=subprocess.DEVNULL, check=False
            )
        if ended.returncode:
            sys.exit(f"training on {ranks} rank(s) ended with code {ended.returncode}")
        return read(next(Path(folder).rglob("run.h5")))


def bare(config: Config, seconds: float) -> tuple[EnvSpec, float]:
    """The task, and its environments' steps per second: slots in turn, as a run has them."""
    slots, rows = config.train.slots, config.train.envs // config.train.slots
    vectors = [
        make(config.env, num_envs=rows, seed=config.seed, first_env=slot * rows)
        for slot in range(slots)
    ]
    spec, rng = vectors[0].spec, np.random.default_rng(0)
    steps = [vector.reset() for vector in vectors]
    count, started = 0, time.perf_counter()
    while count < WARM_UP or time.perf_counter() - started < seconds:
        if count == WARM_UP:
            started = time.perf_counter()
        for slot, vector in enumerate(vectors):
            if count:
                steps[slot] = vector.recv()
            vector.send(at_random(vector, steps[slot].available_actions, rng))
        count += 1
    elapsed = time.perf_counter() - started
    for vector in vectors:
        vector.recv()
        vector.close()
    return spec, (count - WARM_UP) * config.train.envs / elapsed


def at_random(vector: VectorEnv, available: np.ndarray, rng: np.random.Generator) -> np.ndarray:
    """(E, N, D) actions; available (E, N, A)."""
    if vector.spec.continuous:
        return rng.uniform(-1.0, 1.0, available.shape).astype(np.float32) * available
    edges = np.cumsum((0, *vector.spec.branches))
    draws = rng.random(available.shape, np.float32) * available
    branches = [draws[..., start:end].argmax(-1) for start, end in zip(edges[:-1], edges[1:])]
    return np.stack(branches, -1).astype(np.int32)


def rows_of(name: str, trained: Trained, floor: float) -> list[Row]:
    speed = Row(name, trained.steps_per_s, "steps/s", floor, trained.steps_per_s / floor)
    return [
        speed,
        *(
            Row(f"{name}/{share}", value, "1", None, None)
            for share, value in trained.shares.items()
        ),
    ]


def main(argv: list[str]) -> None:
    parser = argparse.ArgumentParser(
        description=__doc__,
        formatter_class=argparse.RawDescriptionHelpFormatter,
        allow_abbrev=False,
    )
    parser.add_argument("--config", default=str(ROOT / "configs" / "smac.yaml"))
    parser.add_argument("--quick", action="store_true")
    parser.add_argument("--json", metavar="OUT")
    options, keys = parser.parse_known_args(argv)
    words = [
        options.config,
        f"train.steps={STEPS}",
        *SILENT,
        *(QUICK if options.quick else []),
        *keys,
    ]
    config = parse(words).config
    assert config is not None
    spec, floor = bare(config, 0.1 if options.quick else BARE_S)
    local = train(1, words)
    task, (backend, _) = spec.name.split("/", 1)[1], resolve_backend(config.env)
    prefix = f"train/{config.algo.name}/{task}/{backend}"
    rows = rows_of(prefix, local, floor)
    if config.placement.mode == "agents":
        ranks = len(spec.agents) + 1
        rows += rows_of(f"{prefix}/agents{ranks}", train(ranks, words), local.steps_per_s)
    report(rows, ["--json", options.json] if options.json else [])


if __name__ == "__main__":
    main(sys.argv[1:])
