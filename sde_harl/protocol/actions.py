"""Latents of split policies and actions of devices, as rank 0 gets them.

N agents, n of one executor, E environments of one slot, Z latent, A choices, D numbers of an
action, H memory.
"""

from __future__ import annotations

from math import prod
from typing import Any, NamedTuple

import numpy as np
from numpy.typing import NDArray

from sde_harl.link.wire import WireError

NO_LATENT = -1
"""Age of a latent where there is none that may be used."""
FLOAT_BYTES = 4
"""Bytes of a number of an action (int32 or float32), a log-probability or a memory."""


def action_dtype(continuous: bool) -> str:
    """Returns numpy's name of the type of actions on the wire."""
    if continuous:
        return "<f4"
    return "<i4"


class ReceivedLatents(NamedTuple):
    """Holds the latents that a slot's decision is made on."""

    values: NDArray[np.float32]
    """(N, E, Z) decoded; 0 where there are none."""
    ages: NDArray[np.int32] | None = None
    """(N, E) int32, decisions since the latents were made; NO_LATENT where there are none. None
    where all are 0."""
    fallback: NDArray[np.bool_] | None = None
    """(N, E) bool, where there are none and the agent acts by its fallback head; None where no
    agent does."""


class DeviceActions(NamedTuple):
    """Holds what policies on devices have done in a slot."""

    available: NDArray[np.bool_]
    """(N, E, A) bool, the choices that they had."""
    actions: NDArray[Any]
    """(N, E, D)."""
    log_probs: NDArray[np.float32]
    """(N, E, D)."""
    memory: NDArray[np.float32]
    """(N, E, H) that the actions were chosen with; H = 0 where it was not asked for."""
    ages: NDArray[np.int32] | None = None
    """(N, E) int32: 0, or NO_LATENT where no answer came, so that what the agent did is unknown.
    None where all came."""

    @classmethod
    def empty(
        cls, available: NDArray[np.bool_], size: int, *, dtype: str, memory: int
    ) -> DeviceActions:
        """Returns room for the answers of all devices: D = `size`, H = `memory`, everything 0."""
        agents, rows, _ = available.shape
        # Not np.empty: the environments are stepped with these where no answer comes.
        return cls(
            available=available,
            actions=np.zeros((agents, rows, size), dtype),
            log_probs=np.zeros((agents, rows, size), np.float32),
            memory=np.zeros((agents, rows, memory), np.float32),
        )


class ActionsMessage(NamedTuple):
    """Holds a DEVICE_ACTIONS payload, taken apart; the arrays are views of it."""

    actions: NDArray[Any]
    """(n, E, D)."""
    log_probs: NDArray[np.float32]
    """(n, E, D)."""
    memory: NDArray[np.float32]
    """(n, E, H)."""


def pack_actions(
    actions: NDArray[Any], log_probs: NDArray[np.float32], memory: NDArray[np.float32] | None
) -> bytes:
    """Returns a DEVICE_ACTIONS payload of arrays as in `ActionsMessage`.

    `memory` is None where it was not asked for.
    """
    # No sizes go along: the server knows them, and refuses a message of another length.
    payload = actions.tobytes() + log_probs.tobytes()
    if memory is None:
        return payload
    return payload + memory.tobytes()


def unpack_actions(payload: memoryview, agents: int, expected: DeviceActions) -> ActionsMessage:
    """Takes apart the answer of an executor that has so many `agents`.

    Sizes and types are those of `expected`, which has all agents of the run. Raises
    WireError("length").
    """
    # All sizes are the server's own: a message can't claim others.
    shape = (agents, *expected.actions.shape[1:])
    memory_shape = (agents, *expected.memory.shape[1:])
    size = FLOAT_BYTES * prod(shape)
    if len(payload) != 2 * size + FLOAT_BYTES * prod(memory_shape):
        raise WireError("length")
    return ActionsMessage(
        actions=np.ndarray(shape, expected.actions.dtype, payload),
        log_probs=np.ndarray(shape, np.float32, payload, size),
        memory=np.ndarray(memory_shape, np.float32, payload, 2 * size),
    )
