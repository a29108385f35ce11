"""Sending observations and actions at every decision, in frames that are kept.

N agents, E environments of one slot, O observation, D numbers of an action.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from typing import NamedTuple

import numpy as np

from sde_harl.link.transport import Fan, Transport
from sde_harl.link.wire import Header, Kind
from sde_harl.protocol.requests import ActRequest, request_bytes
from sde_harl.protocol.session import SessionSpec
from sde_harl.server.settings import PoolSettings
from sde_harl.server.slot import Slot

# Looked up once: an Enum runs Python code to find a member.
SENSOR = Kind.SENSOR
ACTIONS = Kind.ACTIONS


class Frames(NamedTuple):
    """Frames of one kind to all executors."""

    fan: Fan
    places: dict[int, list[tuple[int, np.ndarray]]]
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
        agents = len(session.shape.obs_sizes)
        self._obs_dtype = session.shape.obs_dtype()
        self._obs_sizes = session.shape.obs_sizes
        if session.actions:
            # Executors read their own sensors: the frames only ask.
            self._obs_sizes = (0,) * agents
        self._action_dtype = np.dtype(settings.action_dtype)
        self._action_sizes = (settings.action_size,) * agents
        # An executor that answers in time has taken what it was sent before: with a deadline there
        # is nothing to wait for, and waiting would make the decision late.
        self._failure_timeout_s = settings.failure_timeout_s
        if settings.deadline_s:
            self._failure_timeout_s = 0.0
        self._sensors: dict[tuple[int, int], Frames] = {}
        self._actions: dict[tuple[int, int], Frames] = {}

    def sense(
        self, slot: Slot, obs: np.ndarray, *, version: int, request: ActRequest | None
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

    def act(self, slot: Slot, actions: np.ndarray, *, version: int) -> None:
        """Sends a slot's actions (N, E, D) to the executors that can take them."""
        frames = self._actions.get((slot.index, slot.rows)) or self._new_actions(slot)
        places = frames.places

        def write(rank: int) -> None:
            for agent, place in places[rank]:
                place[:] = actions[agent]

        self._send(frames, write, _header(ACTIONS, slot, version))

    def _send(self, frames: Frames, write: Callable[[int], None], header: Header) -> list[int]:
        return self._transport.send_fan(
            frames.fan, write, header=header, failure_timeout_s=self._failure_timeout_s
        )

    def _new_sensors(self, slot: Slot) -> Frames:
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
        self, rows: int, widths: tuple[int, ...], dtype: np.dtype, tails: dict[int, int]
    ) -> Frames:
        """Makes frames of (E, width) numbers of each agent, then each rank's `tails` bytes."""
        numbers = {
            rank: rows * sum(widths[agent] for agent in agents)
            for rank, agents in self._executors.items()
        }
        fan = self._transport.fan(
            {rank: dtype.itemsize * numbers[rank] + tails[rank] for rank in self._executors}
        )
        places: dict[int, list[tuple[int, np.ndarray]]] = {rank: [] for rank in self._executors}
        for rank, agents in self._executors.items():
            payload = fan.frames[rank].payload
            start = 0
            for agent in agents:
                # A view of the frame: writing the numbers is writing the message.
                place: np.ndarray = np.ndarray((rows, widths[agent]), dtype, payload, start)
                places[rank].append((agent, place))
                start += place.nbytes
        return Frames(fan=fan, places=places)


def _header(kind: Kind, slot: Slot, version: int) -> Header:
    """Returns the header of what a slot's decision sends."""
    return Header(
        kind=kind, step=slot.number, slot=slot.index, environments=slot.rows, version=version
    )
