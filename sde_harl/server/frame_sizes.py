"""Computes how large frames can get: both ends make room for that and refuse larger ones.

n agents of one executor, E environments of one slot, Z latent, D numbers of an action, H memory.
"""

from __future__ import annotations

from collections.abc import Mapping
from math import prod

import numpy as np
from numpy.typing import NDArray

from sde_harl.codec.tables import largest_bytes
from sde_harl.link.wire import OVERHEAD
from sde_harl.policy.shapes import LocalShape, device_parameter_shapes
from sde_harl.protocol.requests import request_bytes
from sde_harl.protocol.resources import METER_BYTES, TIMING_BYTES
from sde_harl.protocol.session import SessionSpec
from sde_harl.protocol.tables_message import tables_head
from sde_harl.server.settings import PoolSettings

# Room for a WELCOME, a HELLO or the reason of a BYE, whose sizes nothing else bounds.
LEAST_BYTES = 1 << 16
NUMBER_BYTES = 4
"""Bytes of a weight, a number of an action, a log-probability or a memory."""


def largest_sent(
    session: SessionSpec, settings: PoolSettings, executors: Mapping[int, tuple[int, ...]]
) -> int:
    """Returns the bytes of the largest frame that the server sends to any executor."""
    payloads = [_largest_sent(session, settings, agents) for agents in executors.values()]
    return OVERHEAD + max(LEAST_BYTES, *payloads)


def _largest_sent(session: SessionSpec, settings: PoolSettings, agents: tuple[int, ...]) -> int:
    """Returns the largest payload to one executor: observations, tables, weights or actions."""
    # Each kind is a message of its own, so the largest of them decides.
    shape = session.shape_of(agents)
    rows = settings.rows
    observations = shape.obs_dtype().itemsize * rows * sum(shape.obs_sizes)
    if session.on_device:
        observations += request_bytes(session.on_device, len(agents), rows)
    actions = NUMBER_BYTES * rows * len(agents) * settings.action_size
    tables = tables_head(len(agents)) + largest_bytes(shape.latent_max())
    return max(observations, tables, _weights_bytes(session, shape), actions)


def _weights_bytes(session: SessionSpec, shape: LocalShape) -> int:
    """Returns the bytes of the published weights of an executor's agents."""
    parameters = device_parameter_shapes(
        shape, on_device=session.on_device, fallback=session.fallback_head
    )
    return NUMBER_BYTES * sum(map(prod, parameters))


def largest_received(
    session: SessionSpec,
    settings: PoolSettings,
    executors: Mapping[int, tuple[int, ...]],
    *,
    decisions: int,
) -> int:
    """Returns the bytes of the largest frame that any executor may send by now.

    That is latents, actions, or a report on so many `decisions` since the last one.
    """
    most_agents = max(map(len, executors.values()))
    memory = 0
    if session.on_device:
        memory = session.on_device.memory
    # Symbols that all need the escape code stay under 16 bytes each.
    latents = 16 * session.shape.latent_max() + 64
    actions = NUMBER_BYTES * (2 * settings.action_size + memory)  # log-probabilities, too
    report = METER_BYTES + TIMING_BYTES * decisions * most_agents
    return OVERHEAD + max(
        LEAST_BYTES, settings.rows * latents, settings.rows * most_agents * actions, report
    )


def answer_overhead(executors: Mapping[int, tuple[int, ...]], *, as_one: bool) -> NDArray[np.int64]:
    """Returns (N,) bytes of an agent's answer beside its payload.

    That is a frame's overhead, or where an executor answers for all its agents `as_one`, the
    agent's share of it.
    """
    overhead = np.full(sum(map(len, executors.values())), OVERHEAD)
    if as_one:
        for agents in executors.values():
            # Differences of rounded sums, so that the shares of one frame add up to it.
            shares = np.diff(np.arange(len(agents) + 1) * OVERHEAD // len(agents))
            overhead[list(agents)] = shares
    return overhead
