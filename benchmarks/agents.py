"""Measures how the cost of a decision grows with the number of agents.

The agents of a toy world, split policies with coded latents, are dealt to eight executors (or to as
many as there are agents). A run's figure is the median over its decisions after the first updates.

* `agents/N/decision` is the time from a slot's observations to its actions. Its floor is that of
  the fewest agents times how many more there are, which is linear growth.
* `agents/N/agent` is that time for each agent.

`--agents 8,100` chooses the numbers, and keys are given as for a run. `--quick` measures too little
to mean anything, to see that it works.
"""

from __future__ import annotations

import argparse
import os
import sys
import tempfile
from pathlib import Path
from typing import Any, ClassVar

import h5py
import numpy as np
import pettingzoo
from decision import let_ranks_import_benchmarks, mpirun
from gymnasium import spaces
from rows import Row, report

AGENTS = "SDE_HARL_AGENTS"
"""Environment variable: how many agents the world has."""
EXECUTORS = 8
OBSERVATION = 32
EPISODE = 50
WORDS = ["--env", "pettingzoo", "--algo", "mappo", "env.factory=agents:Crowd", "env.workers=0"]
WORDS += ["placement.mode=agents", "train.threads=1", "algo.epochs=1", "eval.episodes=0"]
WORDS += ["record.tensorboard=false", "policy.local_blocks=1", "policy.blocks=2"]
WORDS += ["policy.width=64", "codec.name=entropy", "train.envs=8", "train.slots=2"]


class Crowd(pettingzoo.ParallelEnv):  # type: ignore[misc]  # the base's type is Any
    """Agents that see random numbers."""

    metadata: ClassVar[dict[str, Any]] = {"name": "crowd"}

    def __init__(self) -> None:
        self.possible_agents = [f"agent_{each}" for each in range(int(os.environ[AGENTS]))]
        self.agents: list[str] = []
        self.seen = spaces.Box(-1.0, 1.0, (OBSERVATION,), np.float32)
        self.choices: spaces.Space[Any] = spaces.Discrete(5)

    def observation_space(self, agent: str) -> spaces.Space[Any]:
        return self.seen

    def action_space(self, agent: str) -> spaces.Space[Any]:
        return self.choices

    def reset(self, seed: int | None = None, options: Any = None) -> tuple[Any, Any]:
        self.random = np.random.default_rng(seed)
        self.steps = 0
        self.agents = [*self.possible_agents]
        return self._observations(), {agent: {} for agent in self.agents}

    def step(self, actions: dict[str, Any]) -> tuple[Any, ...]:
        self.steps += 1
        seen = self._observations()
        rewards = dict.fromkeys(self.agents, 0.0)
        is_over = dict.fromkeys(self.agents, self.steps >= EPISODE)
        infos: dict[str, Any] = {agent: {} for agent in self.agents}
        return seen, rewards, is_over, dict.fromkeys(self.agents, False), infos

    def _observations(self) -> dict[str, Any]:
        numbers = self.random.random((len(self.agents), OBSERVATION), np.float32)
        return dict(zip(self.agents, numbers))


def decision_us(agents: int, words: list[str]) -> float:
    """Returns the median time of a decision in a run with so many agents."""
    os.environ[AGENTS] = str(agents)
    with tempfile.TemporaryDirectory() as folder:
        program = ["-m", "sde_harl.run", *words, f"record.dir={folder}"]
        ended = mpirun(min(EXECUTORS, agents) + 1, program)
        if ended.returncode:
            sys.exit(f"a run of {agents} agents ended with code {ended.returncode}")
        with h5py.File(next(Path(folder).rglob("run.h5"))) as file:
            taken_ns = file["decisions"]["t_decision"][:]
    return float(np.median(taken_ns[len(taken_ns) // 2 :])) * 1e-3


def main(argv: list[str]) -> None:
    parser = argparse.ArgumentParser(
        description=__doc__,
        formatter_class=argparse.RawDescriptionHelpFormatter,
        allow_abbrev=False,
    )
    parser.add_argument("--agents", default="8,16,32,64,100")
    parser.add_argument("--quick", action="store_true")
    parser.add_argument("--json", metavar="OUT")
    options, keys = parser.parse_known_args(argv)
    words = [*WORDS, "train.rollout=100", "train.steps=4000", *keys]
    if options.quick:
        options.agents = "2,4"
        words = [*WORDS, "train.rollout=8", "train.steps=128", *keys]
    let_ranks_import_benchmarks()
    counts = sorted(map(int, options.agents.split(",")))
    taken_us = {agents: decision_us(agents, words) for agents in counts}
    fewest = counts[0]
    rows = []
    for agents, value in taken_us.items():
        floor = taken_us[fewest] * agents / fewest
        rows.append(Row(f"agents/{agents}/decision", value, "us", floor, value / floor))
        rows.append(Row(f"agents/{agents}/agent", value / agents, "us", None, None))
    report(rows, argv)


if __name__ == "__main__":
    main(sys.argv[1:])
