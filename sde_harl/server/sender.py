"""Sends observations and actions at every decision, in frames that are kept.

N agents, E environments of one slot, O observation, D numbers of an action.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from typing import Any, NamedTuple

import numpy as np
from numpy.typing import NDArray

from sde_harl.link.transport import Fan, Transport
from sde_harl.link.wire import Header, Kind
from sde_harl.protocol.requests import ActRequest, request_bytes
from sde_harl.protocol.session import SessionSpec
from sde_harl.server.settings import PoolSettings
from sde_harl.server.slot import Slot

# Looked up once: an Enum runs Python code to find a member.
SENSOR = Kind.SENSOR
ACTIONS = Kind.ACTIONS


Place = tuple[int, NDArray[Any]]
"""An agent, and the view of a frame that its numbers are written to."""


class Frames(NamedTuple):
    """Frames of one kind to all executors."""

    fan: Fan
    places: dict[int, list[Place]]
    """By rank: each agent, and where its (E, O_i) observations or (E, D) actions go."""


class Sender:
    """Keeps frames by slot and rows, and writes one again when the slot's last one has left."""

    def __init__(
        self,
        transport: Transport,
        session: SessionSpec,
        *,
        settings: PoolSettings,
        executors: Mapping[int, tuple[int, ...]],
    ) -> None:
        """`executors` maps ranks to agents."""
        self._transport = transport
        self._on_device = session.on_device
        self._executors = executors
        self._obs_dtype = session.shape.obs_dtype()
        self._obs_sizes = _sent_obs_sizes(session)
        self._action_dtype = np.dtype(settings.action_dtype)
        self._action_sizes = (settings.action_size,) * len(self._obs_sizes)
        self._failure_timeout_s = settings.send_timeout_s
        # By slot and rows: an evaluation's slots have the same numbers, but rows of their own.
        self._sensors: dict[tuple[int, int], Frames] = {}
        self._actions: dict[tuple[int, int], Frames] = {}
        self._retired: list[Frames] = []

    def sense(
        self, slot: Slot, obs: NDArray[Any], *, version: int, request: ActRequest | None
    ) -> list[int]:
        """Sends a slot's observations (N, E, O), and to policies on devices a request.

        Returns the ranks that were left out, as `Transport.send_fan` does.
        """
        frames = self._sensors.get((slot.index, slot.rows)) or self._new_sensors(slot)
        fan = frames.fan
        places = frames.places

        def write(rank: int) -> None:
            for agent, place in places[rank]:
                # Without the padding, which is as long as the largest observation of the run.
                place[:] = obs[agent, :, : place.shape[1]]
            if request:
                tail = request.to_bytes(list(self._executors[rank]))
                fan.frames[rank].payload[-len(tail) :] = tail

        return self._send(frames, write, _header(SENSOR, slot, version))

    def act(self, slot: Slot, actions: NDArray[Any], *, version: int) -> None:
        """Sends a slot's actions (N, E, D) to the executors that can take them."""
        frames = self._actions.get((slot.index, slot.rows)) or self._new_actions(slot)
        places = frames.places

        def write(rank: int) -> None:
            for agent, place in places[rank]:
                place[:] = actions[agent]

        self._send(frames, write, _header(ACTIONS, slot, version))

    def forget_frames(self) -> None:
        """Makes new frames from now on: executors hold other agents."""
        # The old ones are kept, since MPI may still be reading them.
        self._retired += [*self._sensors.values(), *self._actions.values()]
        self._sensors.clear()
        self._actions.clear()

    def _send(self, frames: Frames, write: Callable[[int], None], header: Header) -> list[int]:
        return self._transport.send_fan(
            frames.fan, write, header=header, failure_timeout_s=self._failure_timeout_s
        )

    def _new_sensors(self, slot: Slot) -> Frames:
        # Room for the request, behind the observations.
        tails = dict.fromkeys(self._executors, 0)
        if self._on_device:
            for rank, agents in self._executors.items():
                tails[rank] = request_bytes(self._on_device, len(agents), slot.rows)
        frames = self._new(slot.rows, self._obs_sizes, self._obs_dtype, tails)
        self._sensors[slot.index, slot.rows] = frames
        return frames

    def _new_actions(self, slot: Slot) -> Frames:
        tails = dict.fromkeys(self._executors, 0)
        frames = self._new(slot.rows, self._action_sizes, self._action_dtype, tails)
        self._actions[slot.index, slot.rows] = frames
        return frames

    def _new(
        self, rows: int, widths: tuple[int, ...], dtype: np.dtype[Any], tails: dict[int, int]
    ) -> Frames:
        """Makes frames of (E, width) numbers of each agent, then each rank's `tails` bytes."""
        sizes = {
            rank: dtype.itemsize * rows * sum(widths[agent] for agent in agents) + tails[rank]
            for rank, agents in self._executors.items()
        }
        fan = self._transport.fan(sizes)
        places: dict[int, list[Place]] = {}
        for rank, agents in self._executors.items():
            shapes = {agent: (rows, widths[agent]) for agent in agents}
            places[rank] = _places(fan.frames[rank].payload, shapes, dtype)
        return Frames(fan=fan, places=places)


def _sent_obs_sizes(session: SessionSpec) -> tuple[int, ...]:
    """Returns the numbers of each agent's observation that a frame carries."""
    sizes = session.shape.obs_sizes
    if session.actions:
        # These executors read their own sensors: the frames only ask.
        return (0,) * len(sizes)
    return sizes


def _places(
    payload: memoryview, shapes: Mapping[int, tuple[int, int]], dtype: np.dtype[Any]
) -> list[Place]:
    """Returns where in a payload each agent's array of these `shapes` lies, one behind another."""
    places: list[Place] = []
    start = 0
    for agent, shape in shapes.items():
        # A view of the frame: writing the numbers is writing the message.
        place: NDArray[Any] = np.ndarray(shape, dtype, payload, start)
        places.append((agent, place))
        start += place.nbytes
    return places


def _header(kind: Kind, slot: Slot, version: int) -> Header:
    """Returns the header of what a slot's decision sends."""
    return Header(
        kind=kind, step=slot.number, slot=slot.index, environments=slot.rows, version=version
    )
