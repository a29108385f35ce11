"""The exit heads in numpy: what an agent does of its device's own latent where the server's answer doesn't come.

One linear layer an agent, from what its local net gives, before it is quantised, to the outputs of an action: the same
kinds of actions as the heads at the server. It takes the most likely action and never draws, so that all who have the
weights do the same. algorithms/distillation.py trains it.

n agents, E environments, O observation, Z latent, A outputs of a head, D numbers of an action.
"""

from __future__ import annotations

from collections.abc import Callable

import numpy as np

from sde_harl.policy.inference.acting import ActingPolicy
from sde_harl.policy.inference.local_nets import LocalNets, Nets, split_above
from sde_harl.policy.shapes import FallbackShape, LocalShape, fallback_parameter_shapes


class FallbackPolicy:
    """Local nets and exit heads of some agents, stacked."""

    def __init__(
        self,
        shape: LocalShape,
        fallback_head: FallbackShape,
        flat: np.ndarray,
        nets: Callable[..., Nets] = LocalNets,
    ) -> None:
        """`flat`: all parameters in wire order; `nets` makes the local ones, as `LocalNets` is called.

        Raises ValueError where the vector's length or a value is not right.
        """
        of_local, (weight, bias) = split_above(
            shape, fallback_parameter_shapes(shape, fallback_head), flat
        )
        self.local = nets(shape, of_local)
        std = (
            np.ones((len(weight), 1, len(fallback_head.branches)), np.float32)
            if fallback_head.continuous
            else None
        )
        self._head = ActingPolicy([], (weight, bias[:, None]), fallback_head.branches, std)

    def act(self, latents: np.ndarray, available: np.ndarray) -> np.ndarray:
        """Actions (n, E, D), int32 or float32, of latents (n, E, Z) as `local` gives them; available (n, E, A) bool."""
        return self._head.act(latents, available, None).actions


USE_FALLBACK = -1
"""Tells a device, in place of an action's numbers, to do what its exit head says; NaN where actions are continuous."""


def fallback_orders(shape: tuple[int, ...], continuous: bool) -> np.ndarray:
    """`USE_FALLBACK` for actions of a shape."""
    return (
        np.full(shape, np.nan, np.float32) if continuous else np.full(shape, USE_FALLBACK, np.int32)
    )


def is_fallback_order(actions: np.ndarray) -> np.ndarray:
    """(..., 1) bool, which of actions (..., D) are `USE_FALLBACK`."""
    first = actions[..., :1]
    return np.isnan(first) if first.dtype.kind == "f" else first == USE_FALLBACK
