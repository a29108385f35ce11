"""The sensors and actuators of an executor's own agents, in place of environments at the server.

    mpirun -np 3 --hostfile BOARDS python -m sde_harl.run ... executor.sensor=my_robot:Arm

`my_robot` is imported on each executor's own host, and `Arm(agent)` makes one `Sensor` for each of
its agents. Importing a module runs it, so its name is never taken from the wire: the server says
only that the agents sense for themselves. Which module does it stands on the command line that
started this very process (`sensor_on_command_line`). mpirun gives one command line to all ranks, or
different ones to different robots (`python ... : python ...`).

n agents of one executor, O an agent's observation, D numbers of an action.
"""

from __future__ import annotations

import logging
from collections.abc import Sequence
from contextlib import AbstractContextManager
from typing import Any, Protocol

import numpy as np
from numpy.typing import NDArray

from sde_harl.config.entry_points import explained, function
from sde_harl.errors import UserError
from sde_harl.link.wire import WireError
from sde_harl.policy.shapes import LocalShape
from sde_harl.protocol.actions import action_dtype
from sde_harl.protocol.session import ActuatorSpec

log = logging.getLogger(__name__)

KEY = "executor.sensor"
NO_SENSOR = "none"


class Sensor(Protocol):
    """One agent's body. The user's factory makes it, called with the agent's index in the run.

    Each decision is one `read`, then one `act`. Whatever these raise ends this executor's part in
    the run, in one line at the server: a sensor that can go on without a reading returns its last
    one.
    """

    def read(self) -> NDArray[Any]:
        """Returns what the agent senses now, (O,), as in training.

        Finite float32, or uint8 where images are bytes. May wait until there is something new: that
        sets the run's pace.
        """

    def act(self, action: NDArray[Any]) -> None:
        """Does an action (D,): int32 choices, one a branch, or float32 if continuous."""

    def close(self) -> None:
        """Stands still. Called when the run is over.

        It is not called when the process is killed: a robot needs a watchdog of its own.
        """


def sensor_on_command_line(words: Sequence[str]) -> str:
    """Returns the sensor that a command line names, "none" where it names none.

    As for every key, the last one counts.
    """
    found = NO_SENSOR
    for word, following in zip(words, [*words[1:], NO_SENSOR]):
        name, equals, text = word.partition("=")
        if equals and name in (KEY, f"--{KEY}"):
            found = text
        elif name == f"--{KEY}":
            found = following
    return found


class Senses:
    """The sensors of an executor's agents."""

    def __init__(
        self,
        spelt: str,
        agents: tuple[int, ...],
        *,
        shape: LocalShape,
        actuators: ActuatorSpec,
    ) -> None:
        """Imports the module and makes a sensor for each agent. Raises UserError where that fails.

        `spelt` is the factory as module:function.
        """
        self._spelt = spelt
        self._agents = agents
        self._sizes = shape.obs_sizes
        self._dtype = shape.obs_dtype()
        self._actuators = actuators
        self._action_dtype = np.dtype(action_dtype(actuators.continuous))
        self._sensors: list[Sensor] = []
        make = function(KEY, spelt)
        try:
            for agent in agents:
                with self._explaining(f"making agent {agent}"):
                    self._sensors.append(make(agent))
        except UserError:
            # Those that are made already would stay open.
            self.close()
            raise

    def read(self) -> bytes:
        """Returns each agent's observation in turn, as they lie on the wire. Raises UserError."""
        return b"".join(map(self._read, range(len(self._agents))))

    def act(self, actions: bytes | memoryview) -> None:
        """Does actions (n, D), as they lie on the wire.

        Raises UserError where an actuator fails, and WireError for a wrong payload.
        """
        flat = np.frombuffer(actions, self._action_dtype)
        agents = len(self._agents)
        numbers = self._actuators.numbers
        if flat.size % agents or flat.size < agents * max(numbers):
            raise WireError("length")
        for row, action in enumerate(flat.reshape(agents, -1)):
            with self._explaining(f"act() of agent {self._agents[row]}"):
                # A copy without the padding: the user may keep it, and the frame is overwritten.
                self._sensors[row].act(action[: numbers[row]].copy())

    def close(self) -> None:
        """Closes all sensors."""
        while self._sensors:
            sensor = self._sensors.pop()
            agent = self._agents[len(self._sensors)]
            try:
                with self._explaining(f"close() of agent {agent}"):
                    sensor.close()
            except UserError as error:
                # Only logged, because the other sensors must be closed too.
                log.warning("%s", error)

    def _read(self, row: int) -> bytes:
        """Returns one agent's observation. Raises UserError where it is not what the nets take."""
        agent = self._agents[row]
        size = self._sizes[row]
        with self._explaining(f"read() of agent {agent}"):
            reading: NDArray[Any] = np.asarray(self._sensors[row].read())
        if reading.shape != (size,) or not np.can_cast(reading.dtype, self._dtype, "same_kind"):
            got = f"{reading.dtype} of shape {reading.shape}"
            raise self._misread(agent, f"{got}, expected {self._dtype} of shape ({size},)")
        values = reading.astype(self._dtype)
        if not np.isfinite(values).all():
            raise self._misread(agent, "a number that is not finite")
        return values.tobytes()

    def _misread(self, agent: int, got: str) -> UserError:
        return UserError(f"{KEY}: {self._spelt}: read() of agent {agent} gave {got}")

    def _explaining(self, what: str) -> AbstractContextManager[None]:
        """Turns whatever the user's code raises into one line that says where."""
        return explained(f"{KEY}: {self._spelt}: {what}")
