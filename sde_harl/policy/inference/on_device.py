"""A policy that runs on its device from the observation to the action: nothing is sent up but what was done.

It is the local net of all blocks, the GRU if it is recurrent, and the agent's head. Every agent draws from a random
stream of its own, so that it decides the same however agents are dealt over devices.

n agents of one executor, E environments, W width, H memory, A outputs of a head, D numbers of an action.
"""

from __future__ import annotations

from math import prod
from typing import Any, NamedTuple

import numpy as np

from sde_harl.policy.inference.acting import ActingPolicy, Decision, GruArrays
from sde_harl.policy.inference.local_nets import LocalNets, MakeNets, split_above
from sde_harl.policy.shapes import LocalShape, OnDeviceShape, on_device_parameter_shapes


class ActRequest(NamedTuple):
    """What whole policies are told beside their observations."""

    available: np.ndarray
    """(n, E, A) bool."""
    begins: np.ndarray
    """(E,) bool, where an episode begins: what was before is forgotten."""
    greedy: bool
    recall: bool
    """Whether to send, with what is done, the memory that it is done with."""

    def to_bytes(self, agents: list[int]) -> bytes:
        """Of some of the agents, or of all in their order."""
        available = self.available if len(agents) == len(self.available) else self.available[agents]
        return available.tobytes() + self.begins.tobytes() + bytes([self.greedy | self.recall << 1])


def request_bytes(whole: OnDeviceShape, agents: int, rows: int) -> int:
    """Length of `ActRequest.to_bytes`."""
    return rows * (agents * sum(whole.branches) + 1) + 1


def read_request(payload: memoryview, whole: OnDeviceShape, agents: int, rows: int) -> ActRequest:
    """What `ActRequest.to_bytes` wrote, `request_bytes` long."""
    shape = (agents, rows, sum(whole.branches))
    available: np.ndarray = np.ndarray(shape, np.bool_, payload)
    begins: np.ndarray = np.ndarray(rows, np.bool_, payload, prod(shape))
    return ActRequest(available, begins, bool(payload[-1] & 1), bool(payload[-1] & 2))


class Streams:
    """The random streams of some agents as one generator: row i of what it draws is agent i's."""

    def __init__(self, seed: int, agents: tuple[int, ...]) -> None:
        sequences = [np.random.SeedSequence(seed, spawn_key=(agent,)) for agent in agents]
        generators = [np.random.Generator(np.random.PCG64(each)) for each in sequences]
        self._exponential = [each.standard_exponential for each in generators]
        self._normal = [each.standard_normal for each in generators]

    def standard_exponential(self, shape: tuple[int, ...], dtype: type) -> np.ndarray:
        return _drawn(self._exponential, shape, dtype)

    def standard_normal(self, shape: tuple[int, ...], dtype: type) -> np.ndarray:
        return _drawn(self._normal, shape, dtype)


def _drawn(sources: list[Any], shape: tuple[int, ...], dtype: type) -> np.ndarray:
    """An array whose rows are filled by one source each."""
    values: np.ndarray = np.empty(shape, dtype)
    for source, row in zip(sources, values):
        source(dtype=dtype, out=row)
    return values


class OnDevicePolicy:
    """The policies of an executor's agents, stacked. The caller keeps their memory."""

    def __init__(
        self,
        *,
        shape: LocalShape,
        on_device: OnDeviceShape,
        weights: np.ndarray,
        nets: MakeNets = LocalNets,
    ) -> None:
        """`weights`: float32 vector of all parameters in wire order; `nets` makes the local nets.

        Raises ValueError where the vector's length or a value is not right.
        """
        above = on_device_parameter_shapes(shape, on_device)
        of_local, parts = split_above(shape, above, weights)
        self._local = nets(shape, of_local, on_device=True)
        upper = iter([part if part.ndim == 3 else part[:, None] for part in parts])
        gru = None
        if on_device.memory:
            gru = GruArrays(
                weight_in=next(upper),
                bias_in=next(upper),
                weight_memory=next(upper),
                bias_memory=next(upper),
            )
        # The same class as at the server. Its trunk is empty: the local net is all of the blocks.
        self._upper = ActingPolicy(
            trunk=[],
            head_weight=next(upper),
            head_bias=next(upper),
            branches=on_device.branches,
            std=next(upper, None),
            gru=gru,
            layer_norm=shape.layer_norm,
        )

    def act(
        self,
        obs: np.ndarray,
        available: np.ndarray,
        streams: Streams | None,
        memory: np.ndarray | None = None,
    ) -> Decision:
        """Decides on observations (n, E, O); takes the most likely actions where `streams` is None.

        available (n, E, A) bool; memory (n, E, H) as the last decision left it, None where nothing
        is remembered or the policy is not recurrent.
        """
        return self._upper.act(self._local(obs), available, streams, memory)
