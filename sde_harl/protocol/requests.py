"""The tail of a SENSOR payload: what policies on devices need beside their observations.

n agents of one executor, E environments of one slot, A choices of an action.
"""

from __future__ import annotations

import struct
from math import prod
from typing import NamedTuple

import numpy as np
from numpy.typing import NDArray

from sde_harl.policy.shapes import OnDeviceShape

# Without padding, and last in the payload, so that its place doesn't depend on what is before it.
STEP_AND_FLAGS = struct.Struct("<QB")
GREEDY = 1
SEND_MEMORY = 2


class ActRequest(NamedTuple):
    """Asks policies that run on devices for their actions."""

    available: NDArray[np.bool_]
    """(n, E, A) bool."""
    begins: NDArray[np.bool_]
    """(E,) bool, where an episode begins: the policy forgets what was before."""
    greedy: bool
    """Take the most likely action instead of drawing one."""
    send_memory: bool
    """Send the recurrent memory that the actions were chosen with, too."""
    step: int = 0
    """Steps of the slot's environments so far, which the random draws depend on."""

    def to_bytes(self, agents: list[int]) -> bytes:
        """Returns the request to some of the agents, or to all in their order."""
        available = self.available
        # One executor that holds all agents, as in one process, needs no copy.
        if len(agents) != len(available):
            available = available[agents]
        # In arithmetic True is 1, so each product is the flag or 0.
        flags = self.greedy * GREEDY | self.send_memory * SEND_MEMORY
        tail = STEP_AND_FLAGS.pack(self.step, flags)
        return available.tobytes() + self.begins.tobytes() + tail


def request_bytes(on_device: OnDeviceShape, agents: int, rows: int) -> int:
    """Returns the length of `ActRequest.to_bytes` for so many agents and environments."""
    return rows * (agents * sum(on_device.branches) + 1) + STEP_AND_FLAGS.size


def read_request(
    payload: memoryview, on_device: OnDeviceShape, *, agents: int, rows: int
) -> ActRequest:
    """Reads what `ActRequest.to_bytes` wrote; `payload` is `request_bytes` long."""
    # The caller has checked the length, so all reads below lie within the payload.
    shape = (agents, rows, sum(on_device.branches))
    # Views of the message, which is not overwritten before it has been answered.
    available: NDArray[np.bool_] = np.ndarray(shape, np.bool_, payload)
    begins: NDArray[np.bool_] = np.ndarray(rows, np.bool_, payload, prod(shape))
    step, flags = STEP_AND_FLAGS.unpack(payload[-STEP_AND_FLAGS.size :])
    return ActRequest(
        available=available,
        begins=begins,
        greedy=bool(flags & GREEDY),
        send_memory=bool(flags & SEND_MEMORY),
        step=step,
    )
