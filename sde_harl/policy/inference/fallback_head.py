"""The fallback heads in numpy: an agent's action from its device's own latent, without the server.

One linear layer an agent (the paper's early exit), from the output of its local net before it is
quantised to the outputs of an action. It acts where the server's answer doesn't come. It takes the
most likely action and never draws, so that the device and the server, which both hold the weights,
know what it does. auxiliary/distillation.py trains it.

n agents, E environments, O observation, Z latent, A outputs of a head, D numbers of an action.
"""

from __future__ import annotations

from typing import Any

import numpy as np
from numpy.typing import NDArray

from sde_harl.policy.inference.acting import ActingPolicy
from sde_harl.policy.inference.arrays import BoolArray, FloatArray
from sde_harl.policy.inference.local_nets import LocalNets, MakeNets, split_above
from sde_harl.policy.shapes import FallbackShape, LocalShape, fallback_parameter_shapes


class FallbackPolicy:
    """Local nets and fallback heads of some agents, stacked."""

    def __init__(
        self,
        *,
        shape: LocalShape,
        fallback: FallbackShape,
        weights: FloatArray,
        nets: MakeNets = LocalNets,
    ) -> None:
        """`weights`: float32 vector of all parameters in wire order; `nets` makes the local nets.

        Raises ValueError where the vector's length or a value is not right.
        """
        above = fallback_parameter_shapes(shape, fallback)
        of_local, (weight, bias) = split_above(shape, above, weights)
        self.local = nets(shape, of_local)
        self._head = ActingPolicy(
            trunk=[],
            head_weight=weight,
            head_bias=bias[:, None],
            branches=fallback.branches,
            std=_deviations(fallback, len(weight)),
        )

    def act(self, latents: FloatArray, available: BoolArray) -> NDArray[Any]:
        """Returns actions (n, E, D), int32 or float32, of latents (n, E, Z) as `local` gives them.

        available (n, E, A) bool.
        """
        return self._head.act(latents, available, None).actions


def _deviations(fallback: FallbackShape, agents: int) -> FloatArray | None:
    """Returns (n, 1, D) for `ActingPolicy`; None where actions are choices."""
    if not fallback.continuous:
        return None
    # Any number does: the head takes the most likely action, which is the mean.
    return np.ones((agents, 1, len(fallback.branches)), np.float32)


USE_FALLBACK = -1
"""Sent to a device in place of a discrete action: act by the fallback head. NaN does so where
actions are continuous."""


def fallback_orders(shape: tuple[int, ...], continuous: bool) -> NDArray[Any]:
    """Returns actions of a shape that all tell a device to act by its fallback head."""
    if continuous:
        return np.full(shape, np.nan, np.float32)
    return np.full(shape, USE_FALLBACK, np.int32)


def is_fallback_order(actions: NDArray[Any]) -> BoolArray:
    """Returns (..., 1) bool, True where actions (..., D) tell to act by the fallback head."""
    first = actions[..., :1]
    if first.dtype.kind == "f":
        asked: BoolArray = np.isnan(first)  # a NaN equals nothing, not even itself
    else:
        asked = first == USE_FALLBACK
    return asked
