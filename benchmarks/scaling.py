"""Measures how training grows with the number of executors that play environments.

Each executor plays one environment that only sleeps, so that any number of them has room on any
machine: what is missing to R times the speed of one is what the placement costs. Learning and
recording are included.

* `scaling/ranksR/steps` is the speed with R executors. Its floor is R times that of one, or the
  share of R of what the first of `--ranks` gave.
* `scaling/ranksR/STAGE` is the part of an update that rank 0 spends so: `environment` is waiting
  for executors and joining what they played, beyond the time that the environments sleep.
* `scaling/ranksR/bytes` is what an update sends and receives at rank 0.
* `scaling/ranksR/server_cpu` is the processor's time at rank 0 in an update, `executor_cpu` that of
  one executor in a step of its environment. They hold on a loaded machine, too.
* `scaling/ranksR/overlap`, with `--overlap`, is the speed where executors play the next rollout
  while rank 0 learns (`train.overlap`). Its floor is the speed without that.
* `scaling/fit/...` is what each further executor adds, by a line through all figures.

`--ranks 1,8,32` chooses the numbers of executors, `--sleep-ms` how long a step takes, and keys are
given as for a run. `--quick` measures too little to mean anything, to see that it works.
"""

from __future__ import annotations

import argparse
import os
import sys
import tempfile
import time
from pathlib import Path
from typing import Any, ClassVar, NamedTuple

import h5py
import numpy as np
import pettingzoo
from decision import let_ranks_import_benchmarks, mpirun
from gymnasium import spaces
from numpy.typing import NDArray
from rows import Row, report

SLEEP_MS = "SDE_HARL_SLEEP_MS"
"""Environment variable: how long a step of the environment sleeps."""
AGENTS = 3
OBSERVATION = 64
EPISODE = 50
WARM_UP = 1  # updates that aren't counted
UPDATES = 4
STAGES = ("environment", "learn", "publish", "report")
WORDS = ["--env", "pettingzoo", "--algo", "happo", "env.factory=scaling:Sleeper", "env.workers=0"]
WORDS += ["placement.mode=envs", "train.threads=1", "algo.epochs=1", "eval.episodes=0"]
WORDS += ["record.tensorboard=false", "record.decisions=false", "policy.local_blocks=1"]
WORDS += ["policy.blocks=2", "policy.width=64", "codec.name=entropy"]


class Sleeper(pettingzoo.ParallelEnv):  # type: ignore[misc]  # the base's type is Any
    """Sleeps in every step; its three agents see random numbers."""

    metadata: ClassVar[dict[str, Any]] = {"name": "sleeper"}
    possible_agents: ClassVar[list[str]] = [f"agent_{each}" for each in range(AGENTS)]

    def __init__(self) -> None:
        self.agents: list[str] = []
        self.sleep_s = 1e-3 * float(os.environ[SLEEP_MS])
        self.spaces: dict[str, tuple[spaces.Box, spaces.Space[Any]]] = {
            agent: (spaces.Box(-1.0, 1.0, (OBSERVATION,), np.float32), spaces.Discrete(5))
            for agent in self.possible_agents
        }

    def observation_space(self, agent: str) -> spaces.Space[Any]:
        return self.spaces[agent][0]

    def action_space(self, agent: str) -> spaces.Space[Any]:
        return self.spaces[agent][1]

    def reset(self, seed: int | None = None, options: Any = None) -> tuple[Any, Any]:
        self.random = np.random.default_rng(seed)
        self.steps = 0
        self.agents = [*self.possible_agents]
        return self._observations(), {agent: {} for agent in self.agents}

    def step(self, actions: dict[str, Any]) -> tuple[Any, ...]:
        time.sleep(self.sleep_s)
        self.steps += 1
        seen = self._observations()
        is_over = dict.fromkeys(self.agents, self.steps >= EPISODE)
        rewards = dict.fromkeys(self.agents, float(self.random.random()))
        infos: dict[str, Any] = {agent: {} for agent in self.agents}
        return seen, rewards, is_over, dict.fromkeys(self.agents, False), infos

    def _observations(self) -> dict[str, Any]:
        return {agent: self.random.random(OBSERVATION, np.float32) for agent in self.agents}


class Scaled(NamedTuple):
    """Holds what a run with so many executors recorded, medians over its updates."""

    executors: int
    steps_per_s: float
    steps: int
    """Of one environment in an update."""
    bytes: float
    """Sent and received by rank 0 in an update."""
    server_cpu_s: float
    """Of an update."""
    executor_cpu_s: float
    """Of a step."""
    stages_s: dict[str, float]
    """Of an update, by stage."""


def read(path: Path, executors: int) -> Scaled:
    """Reads a run.h5."""
    with h5py.File(path) as file:
        training = {name: column[WARM_UP:] for name, column in file["training"].items()}
        played = np.diff(training["step"])[0]
        traffic = {name: column[:] for name, column in file["traffic"].items()}
        usage = {name: file["resources"][name][:] for name in ("rank", "cpu_s")}
    is_server = traffic["rank"] == 0
    sent_and_received = (traffic["sent_bytes"] + traffic["received_bytes"])[is_server]
    steps = played // executors
    speed = float(np.median(training["steps_per_s"]))
    shares = {
        name.rsplit("/", 1)[-1].rsplit(".", 1)[-1]: float(np.median(column))
        for name, column in training.items()
        if name.startswith("share")
    }
    return Scaled(
        executors=executors,
        steps_per_s=speed,
        steps=int(steps),
        bytes=_each_update(sent_and_received),
        server_cpu_s=_each_update(usage["cpu_s"][usage["rank"] == 0]),
        executor_cpu_s=_each_update(usage["cpu_s"][usage["rank"] == 1]) / steps,
        stages_s={name: shares[name] * played / speed for name in STAGES},
    )


def _each_update(total: NDArray[Any]) -> float:
    """Returns by how much a counter grows in an update."""
    return float(np.median(np.diff(total)[WARM_UP:]))


def train(executors: int, words: list[str]) -> Scaled:
    """Trains once, in a folder of its own that is removed afterwards."""
    envs = [f"train.envs={executors}", f"train.slots={executors}"]
    with tempfile.TemporaryDirectory() as folder:
        program = ["-m", "sde_harl.run", *words, *envs, f"record.dir={folder}"]
        ended = mpirun(executors + 1, program)
        if ended.returncode:
            sys.exit(f"training with {executors} executors ended with code {ended.returncode}")
        return read(next(Path(folder).rglob("run.h5")), executors)


def rows_of(scaled: Scaled, first: Scaled, sleep_s: float) -> list[Row]:
    """Returns the lines of one number of executors, whose environments sleep so long a step."""
    name = f"scaling/ranks{scaled.executors}"
    floor = first.steps_per_s * scaled.executors / first.executors
    ratio = scaled.steps_per_s / floor
    rows = [Row(f"{name}/steps", scaled.steps_per_s, "steps/s", floor, ratio)]
    for stage, seconds in scaled.stages_s.items():
        if stage == "environment":
            # A part of an update may be the share of another one: medians don't add up.
            seconds = max(seconds - sleep_s * scaled.steps, 0.0)
        rows.append(Row(f"{name}/{stage}", 1e3 * seconds, "ms", None, None))
    rows.append(Row(f"{name}/bytes", scaled.bytes, "bytes", None, None))
    rows.append(Row(f"{name}/server_cpu", 1e3 * scaled.server_cpu_s, "ms", None, None))
    rows.append(Row(f"{name}/executor_cpu", 1e3 * scaled.executor_cpu_s, "ms", None, None))
    return rows


def fitted(runs: list[Scaled]) -> list[Row]:
    """Returns what each further executor adds to an update: the slopes of straight lines."""
    executors = np.array([run.executors for run in runs])
    columns = {
        "bytes": np.array([run.bytes for run in runs]),
        "server_cpu": np.array([1e3 * run.server_cpu_s for run in runs]),
    }
    units = {"bytes": "bytes", "server_cpu": "ms"}
    for stage in STAGES:
        columns[stage] = np.array([1e3 * run.stages_s[stage] for run in runs])
        units[stage] = "ms"
    rows = []
    for name, column in columns.items():
        slope, _ = np.polyfit(executors, column, 1)
        # A stage that costs nothing may seem to get faster.
        rows.append(Row(f"scaling/fit/{name}", max(float(slope), 0.0), units[name], None, None))
    return rows


def main(argv: list[str]) -> None:
    parser = argparse.ArgumentParser(
        description=__doc__,
        formatter_class=argparse.RawDescriptionHelpFormatter,
        allow_abbrev=False,
    )
    parser.add_argument("--ranks", default="1,2,4,8,16,32,64")
    parser.add_argument("--sleep-ms", type=float, default=50.0)
    parser.add_argument("--rollout", type=int, default=128, help="steps of an update")
    parser.add_argument("--overlap", action="store_true", help="train a second time, playing ahead")
    parser.add_argument("--quick", action="store_true")
    parser.add_argument("--json", metavar="OUT")
    options, keys = parser.parse_known_args(argv)
    if options.quick:
        options.ranks = "1,2"
        options.sleep_ms = 1.0
        options.rollout = 8
    os.environ[SLEEP_MS] = str(options.sleep_ms)
    let_ranks_import_benchmarks()
    runs: list[Scaled] = []
    rows: list[Row] = []
    for executors in map(int, options.ranks.split(",")):
        steps = executors * options.rollout * (WARM_UP + UPDATES)
        words = [*WORDS, f"train.rollout={options.rollout}", f"train.steps={steps}", *keys]
        runs.append(train(executors, words))
        rows += rows_of(runs[-1], runs[0], 1e-3 * options.sleep_ms)
        if options.overlap:
            ahead = train(executors, [*words, "train.overlap=true"]).steps_per_s
            plain = runs[-1].steps_per_s
            name = f"scaling/ranks{executors}/overlap"
            rows.append(Row(name, ahead, "steps/s", plain, ahead / plain))
        print(f"{executors} executors: {runs[-1].steps_per_s:.1f} steps/s", file=sys.stderr)
    # A line needs two points.
    if len(runs) > 1:
        rows += fitted(runs)
    report(rows, argv)


if __name__ == "__main__":
    main(sys.argv[1:])
