"""A sensor that replays a recorded episode, and tells at the end whether its agent was made to do what it did then.

A run with record.trajectories=eval leaves greedy episodes in run.h5. This writes the first of them as plain arrays:

    python -m sde_harl.examples.replay RUN/run.h5 0 episode.npz

and any executor, on any board, plays the part of the recorded agents (docs/boards.md has the whole command):

    SDE_HARL_REPLAY=episode.npz python -m sde_harl.run ... executor.sensor=sde_harl.examples.replay:Replay
"""

from __future__ import annotations

import os
import sys
from pathlib import Path

import numpy as np

FILE = "SDE_HARL_REPLAY"
"""The variable that names the file; `mpirun -x SDE_HARL_REPLAY` hands it to all hosts."""


class Replay:
    """One recorded agent. Sees what it saw, (T + 1, O), and compares with what it did, (T,) or (T, D)."""

    def __init__(self, agent: int) -> None:
        with np.load(os.environ[FILE], allow_pickle=False) as file:
            self._seen, self._did = file[f"seen_{agent}"], file[f"did_{agent}"]
        self._agent, self._step, self._equal = agent, 0, 0

    def read(self) -> np.ndarray:
        if self._step >= len(self._seen):
            raise EOFError(f"the episode has {len(self._did)} steps")
        return self._seen[self._step]

    def act(self, action: np.ndarray) -> None:
        if self._step < len(self._did):
            self._equal += np.allclose(action, self._did[self._step])
        self._step += 1

    def close(self) -> None:
        compared = min(self._step, len(self._did))
        print(f"agent {self._agent}: {self._equal} of {compared} decisions as recorded", flush=True)


def main(run: str, episode: str, out: str) -> None:
    """Write an episode of a run.h5: seen_<agent> and did_<agent>, by the agents' indices."""
    from sde_harl.record.reader import open_run  # needs h5py, which a board doesn't have

    record = open_run(Path(run))
    trajectory = record.trajectory(int(episode))
    arrays = {}
    for index, agent in enumerate(record.json_list("agents")):
        arrays[f"seen_{index}"] = trajectory.observations[agent]
        arrays[f"did_{index}"] = trajectory.actions[agent]
    np.savez(out, **arrays)


if __name__ == "__main__":
    if len(sys.argv) != 4:
        sys.exit("usage: python -m sde_harl.examples.replay RUN/run.h5 EPISODE OUT.npz")
    main(*sys.argv[1:])
