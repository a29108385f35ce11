r"""A sensor that replays a recorded episode.

At the end it prints in how many decisions its agent was made to do what it did when it was
recorded. A run with record.trajectories=eval leaves greedy episodes in run.h5. This writes one of
them as plain arrays:

    python -m sde_harl.examples.replay RUN/run.h5 0 episode.npz

Then any executor, on any board, plays the part of the recorded agents (docs/boards.md has the
complete command):

    SDE_HARL_REPLAY=episode.npz \
        python -m sde_harl.run ... executor.sensor=sde_harl.examples.replay:Replay
"""

from __future__ import annotations

import os
import sys
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

FILE = "SDE_HARL_REPLAY"
"""Variable that names the file; `mpirun -x SDE_HARL_REPLAY` hands it to all hosts."""


class Replay:
    """Replays one recorded agent: its observations (T + 1, O), and its actions (T,) or (T, D)."""

    def __init__(self, agent: int) -> None:
        # Without pickle: the file may come from another machine, and a pickle runs code.
        with np.load(os.environ[FILE], allow_pickle=False) as file:
            self._observations = file[f"seen_{agent}"]
            self._actions = file[f"did_{agent}"]
        self._agent = agent
        self._step = 0
        self._equal = 0

    def read(self) -> NDArray[Any]:
        """Returns the next observation (O,). Raises EOFError after the episode's last."""
        if self._step >= len(self._observations):
            raise EOFError(f"the episode has {len(self._actions)} steps")
        observation: NDArray[Any] = self._observations[self._step]
        return observation

    def act(self, action: NDArray[Any]) -> None:
        """Compares an action with the recorded one."""
        # The episode has one more observation than actions: its last has no action to compare with.
        if self._step < len(self._actions):
            # Almost equal is enough: another processor may round otherwise.
            self._equal += np.allclose(action, self._actions[self._step])
        self._step += 1

    def close(self) -> None:
        """Prints how many decisions were as recorded."""
        compared = min(self._step, len(self._actions))
        print(f"agent {self._agent}: {self._equal} of {compared} decisions as recorded", flush=True)


def main(run: str, episode: str, out: str) -> None:
    """Writes an episode of a run.h5: seen_<agent> and did_<agent>, by the agents' indices."""
    # Not at the top, because it needs h5py, which a board that replays doesn't have.
    from sde_harl.record.reader import open_run

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
