"""A policy that runs on its device, from the observation to the action; only actions are sent up.

It is the local net with all blocks, the GRU if it is recurrent, and the agent's head. Actions are
drawn by seed, step, environment and agent alone, so that an agent decides the same whichever device
it is on and whichever agents are beside it.

n agents of one executor, E environments, W width of a block, H memory, A outputs of a head, D
numbers of an action.
"""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any

from numpy.typing import NDArray

from sde_harl.draws.counters import Draw
from sde_harl.policy.inference.acting import ActingPolicy, Decision, GruArrays
from sde_harl.policy.inference.arrays import BoolArray, FloatArray
from sde_harl.policy.inference.exploring import Exploration
from sde_harl.policy.inference.local_nets import LocalNets, MakeNets, split_above
from sde_harl.policy.shapes import SAMPLED, LocalShape, OnDeviceShape, on_device_parameter_shapes


class OnDevicePolicy:
    """The policies of an executor's agents, stacked. The caller keeps their memory."""

    def __init__(
        self,
        *,
        shape: LocalShape,
        on_device: OnDeviceShape,
        weights: FloatArray,
        nets: MakeNets = LocalNets,
    ) -> None:
        """`weights`: float32 vector of all parameters in wire order; `nets` makes the local nets.

        Raises ValueError where the vector's length or a value is not right.
        """
        above = on_device_parameter_shapes(shape, on_device)
        of_local, parts = split_above(shape, above, weights)
        self._local = nets(shape, of_local, on_device=True)
        self._upper = _upper_policy(shape, on_device, parts)

    def act(
        self,
        obs: NDArray[Any],
        available: BoolArray,
        draw: Draw | None,
        memory: FloatArray | None = None,
    ) -> Decision:
        """Decides on observations (n, E, O); takes the most likely actions where `draw` is None.

        available (n, E, A) bool; memory (n, E, H) as the last decision left it, None where nothing
        is remembered or the policy is not recurrent.
        """
        return self._upper.act(self._local(obs), available, draw, memory)


def _upper_policy(
    shape: LocalShape, on_device: OnDeviceShape, parts: list[FloatArray]
) -> ActingPolicy:
    """Returns what follows the local nets: GRUs and heads of these arrays, in wire order.

    It is the same class as at the server. Its trunk is empty, since the local net has all blocks.
    """
    # Biases and deviations travel as (n, ...). Here they are (n, 1, ...): the same for all
    # environments.
    arrays = iter([part.reshape(len(part), -1, part.shape[-1]) for part in parts])
    gru = None
    if on_device.memory:
        gru = _take_gru(arrays)
    head_weight = next(arrays)
    head_bias = next(arrays)
    exploration = None
    if on_device.heads != SAMPLED:
        exploration = Exploration(
            kind=on_device.heads, chances=next(arrays), low=next(arrays), high=next(arrays)
        )
    return ActingPolicy(
        trunk=[],
        head_weight=head_weight,
        head_bias=head_bias,
        branches=on_device.branches,
        std=next(arrays, None),
        gru=gru,
        layer_norm=shape.layer_norm,
        exploration=exploration,
    )


def _take_gru(arrays: Iterator[FloatArray]) -> GruArrays:
    """Takes the four arrays of the GRUs, which come first."""
    # Python evaluates keyword arguments in the order in which they are written: the wire's.
    return GruArrays(
        weight_in=next(arrays),
        bias_in=next(arrays),
        weight_memory=next(arrays),
        bias_memory=next(arrays),
    )
