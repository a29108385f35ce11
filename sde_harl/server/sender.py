"""What rank 0 tells the executors at every decision: observations and actions, written into frames that are kept.

N agents, E environments of one slot, O observation, A choices, D numbers of an action.
"""

from __future__ import annotations

from math import prod
from typing import NamedTuple

import numpy as np

from sde_harl.codec.tables import largest_bytes
from sde_harl.config.schema import LinkProfile
from sde_harl.executor.sensors import Actions
from sde_harl.link.transport import Fan, Transport
from sde_harl.link.wire import OVERHEAD, Kind, tables_head
from sde_harl.policy.inference.on_device import ActRequest, request_bytes
from sde_harl.policy.shapes import (
    FallbackShape,
    LocalShape,
    OnDeviceShape,
    fallback_parameter_shapes,
    local_parameter_shapes,
    on_device_parameter_shapes,
)

SENSOR, ACTIONS = Kind.SENSOR, Kind.ACTIONS  # at hand: an Enum looks them up in Python


class SessionPlan(NamedTuple):
    """What every executor is told alike."""

    shape: LocalShape
    """Of all N agents."""
    codec: str
    pack: int
    rows: int
    """Most environments in one message."""
    slots: int
    assign: dict[int, int]
    """Agent -> executor rank, where pinned by hand."""
    failure_timeout_s: float
    action_size: int = 1
    """D, numbers of an action."""
    continuous: bool = False
    """Actions are float32, else int32."""
    whole: OnDeviceShape | None = None
    """Of policies that run on the devices from end to end; None where they are split."""
    idle_s: float = 0.0
    """Pause before the run in which hosts measure their idle power."""
    deadline_s: float = 0.0
    """What a decision waits for its latents; 0 = as long as `failure_timeout_s`."""
    max_age: int = 0
    """Steps for which an agent's last latents may stand for those that have not come."""
    go_on: bool = False
    """Without executors that are lost; else the run ends."""
    profile: LinkProfile = LinkProfile()
    """Of the links to be emulated, if any."""
    seed: int = 0
    """Of the emulated links."""
    actions: Actions | None = None
    """Of agents that sense for themselves; None where observations are sent to them."""
    torch_device: str = ""
    """Where torch computes the local nets; "" where numpy does."""
    fallback_head: FallbackShape | None = None
    """Of what agents do without a latent; None where they do nothing."""

    @property
    def wait_s(self) -> float:
        """What a decision waits for its latents at most."""
        return min(self.deadline_s or self.failure_timeout_s, self.failure_timeout_s)

    def shape_of(self, agents: tuple[int, ...]) -> LocalShape:
        """Of some agents' local nets."""
        return self.shape._replace(obs_sizes=tuple(self.shape.obs_sizes[agent] for agent in agents))

    def actions_of(self, agents: tuple[int, ...]) -> Actions | None:
        """`actions` of some agents."""
        own = self.actions
        return own and own._replace(numbers=tuple(own.numbers[agent] for agent in agents))

    def sent_sizes(self) -> tuple[int, ...]:
        """(N,) numbers of an agent's observation that the server sends."""
        return (0,) * len(self.shape.obs_sizes) if self.actions else self.shape.obs_sizes


class Frames(NamedTuple):
    """Frames of one kind to all executors."""

    fan: Fan
    places: dict[int, list[tuple[int, np.ndarray]]]
    """Where in each executor's the agents' (E, O_i) observations or (E, D) actions go."""


class Sender:
    """Frames by slot and rows: one is written again only when the slot's last one has left."""

    def __init__(
        self, transport: Transport, plan: SessionPlan, executors: dict[int, tuple[int, ...]]
    ) -> None:
        """`executors`: agents by rank."""
        self._transport, self._plan, self._executors = transport, plan, executors
        # Who answers in time has taken what it was sent before: with a deadline there is nothing to wait for.
        self._patience_s = 0.0 if plan.deadline_s else plan.failure_timeout_s
        self._sensors: dict[tuple[int, int], Frames] = {}
        self._actions: dict[tuple[int, int], Frames] = {}

    def largest(self) -> int:
        """Bytes of the largest frame that any executor gets, of any kind; a WELCOME's or a reason's are few."""
        return OVERHEAD + max(
            1 << 16, *(self._largest(agents) for agents in self._executors.values())
        )

    def sense(
        self, slot: int, number: int, version: int, obs: np.ndarray, told: ActRequest | None
    ) -> list[int]:
        """Send observations (N, E, O), and to whole policies what they are told beside.

        Returns the ranks that were left out, as `Transport.send_fan` does.
        """
        rows = obs.shape[1]
        fan, places = self._sensors.get((slot, rows)) or self._new_sensors(slot, rows)

        def write(rank: int) -> None:
            for agent, place in places[rank]:
                place[:] = obs[agent, :, : place.shape[1]]
            if told:
                beside = told.to_bytes(list(self._executors[rank]))
                fan.frames[rank].payload[-len(beside) :] = beside

        return self._transport.send_fan(
            fan, write, SENSOR, number, slot, rows, version, self._patience_s
        )

    def act(self, slot: int, number: int, version: int, actions: np.ndarray) -> None:
        """Send actions (N, E, D) to those who can take them."""
        rows = actions.shape[1]
        fan, places = self._actions.get((slot, rows)) or self._new_actions(slot, rows)

        def write(rank: int) -> None:
            for agent, place in places[rank]:
                place[:] = actions[agent]

        self._transport.send_fan(fan, write, ACTIONS, number, slot, rows, version, self._patience_s)

    def _new_sensors(self, slot: int, rows: int) -> Frames:
        sizes, dtype = self._plan.sent_sizes(), self._plan.shape.obs_dtype()
        made = self._sensors[slot, rows] = self._new(rows, sizes, dtype, told=True)
        return made

    def _new_actions(self, slot: int, rows: int) -> Frames:
        dtype = np.dtype("<f4" if self._plan.continuous else "<i4")
        widths = (self._plan.action_size,) * len(self._plan.shape.obs_sizes)
        made = self._actions[slot, rows] = self._new(rows, widths, dtype, told=False)
        return made

    def _new(self, rows: int, widths: tuple[int, ...], dtype: np.dtype, told: bool) -> Frames:
        """Frames for (E, width) numbers of each agent, and what else whole policies are told."""
        sizes = {
            rank: dtype.itemsize * rows * sum(widths[agent] for agent in agents)
            + (self._told_bytes(agents, rows) if told else 0)
            for rank, agents in self._executors.items()
        }
        fan = self._transport.fan(sizes)
        places: dict[int, list[tuple[int, np.ndarray]]] = {rank: [] for rank in self._executors}
        for rank, agents in self._executors.items():
            at, payload = 0, fan.frames[rank].payload
            for agent in agents:
                places[rank].append((agent, np.ndarray((rows, widths[agent]), dtype, payload, at)))
                at += dtype.itemsize * rows * widths[agent]
        return Frames(fan, places)

    def _told_bytes(self, agents: tuple[int, ...], rows: int) -> int:
        return request_bytes(self._plan.whole, len(agents), rows) if self._plan.whole else 0

    def _largest(self, agents: tuple[int, ...]) -> int:
        """Payload bytes: observations, tables, weights or actions."""
        plan, shape = self._plan, self._plan.shape_of(agents)
        sensed = shape.obs_dtype().itemsize * plan.rows * sum(shape.obs_sizes) + self._told_bytes(
            agents, plan.rows
        )
        behind = on_device_parameter_shapes(shape, plan.whole) if plan.whole else []
        behind = (
            fallback_parameter_shapes(shape, plan.fallback_head) if plan.fallback_head else behind
        )
        weights = sum(prod(each) for each in [*local_parameter_shapes(shape), *behind])
        actions = plan.rows * len(agents) * plan.action_size
        tables = tables_head(len(agents)) + largest_bytes(shape.latent_max())
        return max(sensed, tables, 4 * weights, 4 * actions)
