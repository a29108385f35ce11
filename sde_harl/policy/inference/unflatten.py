"""Acting policies out of the flat vectors that they travel as.

N agents, E environments, W width of a block, D numbers of an action.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence

from sde_harl.policy.inference.acting import ActingPolicy, GruArrays
from sde_harl.policy.inference.arrays import FloatArray
from sde_harl.policy.inference.conv import ConvArrays
from sde_harl.policy.inference.exploring import Exploration
from sde_harl.policy.inference.local_nets import split
from sde_harl.policy.shapes import (
    SAMPLED,
    OnDeviceShape,
    ServerShape,
    server_parameter_shapes,
)


def server_policy(shape: ServerShape, weights: FloatArray) -> ActingPolicy:
    """Returns rank 0's part of the policies out of a vector of all its parameters in wire order.

    Raises ValueError where the vector's length or a value is not right.
    """
    arrays = _stacked(split(server_parameter_shapes(shape), weights))
    conv: ConvArrays | None = None
    if shape.conv:
        conv = ConvArrays(shape=shape.conv, weight=next(arrays), bias=next(arrays))
    trunk = [(next(arrays), next(arrays)) for _ in range(shape.blocks)]
    return _policy(arrays, shape.behind, trunk=trunk, conv=conv, layer_norm=shape.layer_norm)


def policy_behind(
    parts: Sequence[FloatArray], shape: OnDeviceShape, *, layer_norm: bool
) -> ActingPolicy:
    """Returns what follows the local nets of policies on devices: GRUs and heads of these arrays.

    They are in wire order.
    """
    return _policy(_stacked(parts), shape, trunk=[], conv=None, layer_norm=layer_norm)


def _stacked(parts: Sequence[FloatArray]) -> Iterator[FloatArray]:
    # Biases and deviations travel as (N, ...). Here they are (N, 1, ...): the same for all
    # environments.
    return iter([part.reshape(len(part), -1, part.shape[-1]) for part in parts])


def _policy(
    arrays: Iterator[FloatArray],
    shape: OnDeviceShape,
    *,
    trunk: list[tuple[FloatArray, FloatArray]],
    conv: ConvArrays | None,
    layer_norm: bool,
) -> ActingPolicy:
    """Takes what follows the trunk out of `arrays`."""
    gru: GruArrays | None = None
    # Python evaluates keyword arguments in the order in which they are written: the wire's.
    if shape.memory:
        gru = GruArrays(
            weight_in=next(arrays),
            bias_in=next(arrays),
            weight_memory=next(arrays),
            bias_memory=next(arrays),
        )
    head_weight = next(arrays)
    head_bias = next(arrays)
    exploration: Exploration | None = None
    if shape.heads != SAMPLED:
        exploration = Exploration(
            kind=shape.heads, chances=next(arrays), low=next(arrays), high=next(arrays)
        )
    return ActingPolicy(
        trunk=trunk,
        head_weight=head_weight,
        head_bias=head_bias,
        branches=shape.branches,
        std=next(arrays, None),
        gru=gru,
        layer_norm=layer_norm,
        conv=conv,
        exploration=exploration,
    )
