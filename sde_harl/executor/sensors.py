"""The sensors and actuators of an executor's own agents, in place of environments at the server.

    mpirun -np 3 --hostfile BOARDS python -m sde_harl.run ... executor.sensor=my_robot:Arm

`my_robot` is imported on each executor's own host, and `Arm(agent)` makes one `Sensor` for each of its agents. A module
that is imported runs, so its name is never taken from the wire: the server says only that the agents sense for
themselves, and which module does it stands on the command line that started this very process (`named`). mpirun gives
one command line to all ranks, or differing ones to differing robots (`python ... : python ...`).

n agents of one executor, O an agent's observation, D numbers of an action.
"""

from __future__ import annotations

import logging
import traceback
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from typing import NamedTuple, Protocol

import numpy as np

from sde_harl.config.entry_points import function
from sde_harl.errors import UserError
from sde_harl.link.wire import WireError
from sde_harl.policy.shapes import LocalShape

log = logging.getLogger(__name__)

KEY = "executor.sensor"
NO_SENSOR = "none"


class Sensor(Protocol):
    """One agent's body, made by the user's factory, which is called with the agent's index in the run.

    Each decision is one `read`, then one `act`. Whatever these raise ends this executor's part in the run, in one line
    at the server: a sensor that can go on without a reading gives its last one.
    """

    def read(self) -> np.ndarray:
        """What the agent senses now: (O,), as it was trained on; finite float32, or uint8 of images of bytes.

        May wait until there is something new: that is what sets the run's pace.
        """

    def act(self, action: np.ndarray) -> None:
        """Do an action (D,): int32 choices, one a branch, or float32 where actions are continuous."""

    def close(self) -> None:
        """Stand still. Called when the run is over, not when the process is killed: a robot needs a watchdog."""


class Actions(NamedTuple):
    """What the actions of agents that sense for themselves are made of."""

    numbers: tuple[int, ...]
    """(n,) D of each agent."""
    continuous: bool


def named(words: Sequence[str]) -> str:
    """The sensor that a command line names, "none" where it names none; the last one counts, as of every key."""
    found = NO_SENSOR
    for word, following in zip(words, [*words[1:], NO_SENSOR]):
        name, equals, text = word.partition("=")
        if name == f"--{KEY}" or (equals and name == KEY):
            found = text if equals else following
    return found


class Senses:
    """The sensors of an executor's agents."""

    def __init__(
        self, spelt: str, agents: tuple[int, ...], shape: LocalShape, actions: Actions
    ) -> None:
        """Imports the module and makes a sensor for each agent. Raises UserError where that fails."""
        self._spelt, self._agents = spelt, agents
        self._sizes, self._dtype, self._actions = shape.obs_sizes, shape.obs_dtype(), actions
        self._sensors: list[Sensor] = []
        with self._doing("import"):
            make = function(KEY, spelt)
        for agent in agents:
            with self._doing(f"making agent {agent}"):
                self._sensors.append(make(agent))

    def read(self) -> bytes:
        """Each agent's observation in turn, as the server would send them for one environment. Raises UserError."""
        return b"".join(map(self._read, range(len(self._agents))))

    def act(self, actions: bytes | memoryview) -> None:
        """Do actions (n, D), as they lie on the wire. Raises UserError, and WireError for a frame that is wrong."""
        dtype = np.dtype("<f4" if self._actions.continuous else "<i4")
        flat = np.frombuffer(actions, dtype)
        if flat.size % len(self._agents) or flat.size < len(self._agents) * max(
            self._actions.numbers
        ):
            raise WireError("length")
        for row, action in enumerate(flat.reshape(len(self._agents), -1)):
            with self._doing(f"act() of agent {self._agents[row]}"):
                self._sensors[row].act(action[: self._actions.numbers[row]].copy())

    def close(self) -> None:
        """Close all sensors. What one raises is logged: the others are to be closed too."""
        while self._sensors:
            sensor, agent = self._sensors.pop(), self._agents[len(self._sensors)]
            try:
                with self._doing(f"close() of agent {agent}"):
                    sensor.close()
            except UserError as error:
                log.warning("%s", error)

    def _read(self, row: int) -> bytes:
        agent, size = self._agents[row], self._sizes[row]
        with self._doing(f"read() of agent {agent}"):
            seen: np.ndarray = np.asarray(self._sensors[row].read())
        if seen.shape != (size,) or not np.can_cast(seen.dtype, self._dtype, "same_kind"):
            wanted, got = f"{self._dtype} of shape ({size},)", f"{seen.dtype} of shape {seen.shape}"
            raise UserError(
                f"{KEY}: {self._spelt}: read() of agent {agent} gave {got}, expected {wanted}"
            )
        values = seen.astype(self._dtype)
        if not np.isfinite(values).all():
            raise UserError(
                f"{KEY}: {self._spelt}: read() of agent {agent} gave a number that is not finite"
            )
        return values.tobytes()

    @contextmanager
    def _doing(self, what: str) -> Iterator[None]:
        """Whatever the user's code raises is one line that says where."""
        try:
            yield
        except UserError:
            raise
        except Exception as error:
            last = traceback.extract_tb(error.__traceback__)[-1]
            where = f"{last.filename}:{last.lineno}"
            raise UserError(
                f"{KEY}: {self._spelt}: {what}: {type(error).__name__}: {error} ({where})"
            ) from error
