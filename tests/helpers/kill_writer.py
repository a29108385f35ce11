"""Records episodes without end until test_record.py kills it.

Prints the number of episodes each time when they are flushed.

python kill_writer.py RUN.h5 [TRAJECTORIES]
"""

from __future__ import annotations

import itertools
import sys
from pathlib import Path

import numpy as np
from filled import add

from sde_harl.record.schema import Trajectory
from sde_harl.record.writer import RunFile


def short_trajectory(seed: int) -> Trajectory:
    """Returns three steps of two agents."""
    return Trajectory(
        observations={"a": np.full((4, 5), seed, np.float32), "b": np.zeros((4, 3), np.float32)},
        actions={"a": np.zeros(3, np.int64), "b": np.ones(3, np.int64)},
        rewards=np.full(3, 0.5, np.float32),
        terminations=np.zeros(3, bool),
        truncations=np.array([False, False, True]),
        seed=seed,
    )


def episode(file: RunFile, number: int, trajectories: bool) -> None:
    """Records an episode, the decisions that led to it and, now and then, an update."""
    add(
        file,
        "episodes",
        step=number,
        slot=number % 2,
        env=number % 32,
        train=True,
        seed=number,
        length=30,
        won=number % 2,
        policy_version=number // 100,
        **{"return": number / 2},
    )
    agents = np.arange(8)
    same = {
        name: np.full(8, number)
        for name in ("step", "version", "t_local", "t_encode", "t_round_trip")
    }
    add(
        file,
        "decisions",
        agent=agents,
        rank=agents + 1,
        environments=np.full(8, 32),
        payload_bytes=np.full(8, 100),
        wire_bytes=np.full(8, 132),
        train=np.ones(8, bool),
        ideal_bits=np.full(8, 790.0),
        t_decode=np.full(8, 5),
        t_policy=np.full(8, 6),
        **same,
    )
    if trajectories:
        file.trajectory(short_trajectory(number))
    if number % 50 == 0:
        file.add("training", step=number, policy_loss=0.1)


def main() -> None:
    file = RunFile(Path(sys.argv[1]), {"env": "smax/3m", "seed": 1}, "stop")
    print("ready", flush=True)
    for number in itertools.count():
        episode(file, number, trajectories=len(sys.argv) > 2)
        if number % 20 == 0:
            file.flush()()
            print(number + 1, flush=True)


if __name__ == "__main__":
    main()
