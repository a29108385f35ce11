"""A policy that runs on its device from the observation to the action: nothing is sent up but what was done.

It is the local net of all blocks, the last one's activation, and the agent's head. Every agent draws from a random
stream of its own, so that it decides the same however agents are dealt over devices.

n agents of one executor, E environments, W width, A outputs of a head, D numbers of an action.
"""

from __future__ import annotations

from math import prod
from typing import NamedTuple

import numpy as np

from sde_harl.policy.acting import ActingPolicy, Decision
from sde_harl.policy.local import LocalNets, LocalShape, activate, parameter_shapes


class WholeShape(NamedTuple):
    """What a device has to know beside the shape of its local nets."""

    branches: tuple[int, ...]
    """As in `EnvSpec`."""
    continuous: bool
    seed: int
    """Of the agents' random streams."""


def head_shapes(shape: LocalShape, whole: WholeShape) -> list[tuple[int, ...]]:
    """Shapes in wire order, behind the local nets': (n, W, A), (n, A) of heads; (n, D) deviations if continuous."""
    n, outputs = len(shape.obs_sizes), sum(whole.branches)
    heads: list[tuple[int, ...]] = [(n, shape.width, outputs), (n, outputs)]
    return [*heads, (n, outputs)] if whole.continuous else heads


class Streams:
    """The random streams of some agents as one generator: row i of what it draws is agent i's."""

    def __init__(self, seed: int, agents: tuple[int, ...]) -> None:
        sequences = [np.random.SeedSequence(seed, spawn_key=(agent,)) for agent in agents]
        self._generators = [np.random.Generator(np.random.PCG64(each)) for each in sequences]

    def standard_exponential(self, shape: tuple[int, ...], dtype: type) -> np.ndarray:
        return np.stack([each.standard_exponential(shape[1:], dtype) for each in self._generators])

    def standard_normal(self, shape: tuple[int, ...], dtype: type) -> np.ndarray:
        return np.stack([each.standard_normal(shape[1:], dtype) for each in self._generators])


class WholePolicy:
    """The policies of an executor's agents, stacked."""

    def __init__(self, shape: LocalShape, whole: WholeShape, flat: np.ndarray) -> None:
        """`flat`: all parameters in wire order. Raises ValueError where its length or a value is not right."""
        local = sum(prod(each) for each in parameter_shapes(shape))
        self._local, self._layer_norm = LocalNets(shape, flat[:local]), shape.layer_norm
        shapes = head_shapes(shape, whole)
        sizes = [prod(each) for each in shapes]
        if flat.size - local != sum(sizes) or not np.isfinite(flat[local:]).all():
            raise ValueError(f"{flat.size - local} weights of heads, expected {sum(sizes)} finite ones")
        parts = np.split(flat[local:], np.cumsum(sizes)[:-1])
        weight, bias, *std = (part.reshape(each) for part, each in zip(parts, shapes))
        self._head = ActingPolicy([], (weight, bias[:, None]), whole.branches, std[0][:, None] if std else None)

    def act(self, obs: np.ndarray, available: np.ndarray, streams: Streams | None) -> Decision:
        """Decide on observations (n, E, O) with available (n, E, A) bool; greedily where `streams` is None."""
        return self._head.act(activate(self._local(obs), self._layer_norm), available, streams)
