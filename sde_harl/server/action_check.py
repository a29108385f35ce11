"""Checks the actions of policies that run on devices before the environments step with them.

N agents, n of one executor, E environments, A choices, D numbers of an action, H memory.
"""

from __future__ import annotations

import math
from typing import Any

import numpy as np
from numpy.typing import NDArray

from sde_harl.link.wire import WireError
from sde_harl.protocol.actions import ActionsMessage

# A GRU's memory lies between an earlier one and a tanh, so within [-1, 1]; the rest is rounding.
LARGEST_MEMORY = 1.001


class ActionCheck:
    """Knows what actions are possible."""

    def __init__(self, branches: tuple[int, ...], continuous: bool) -> None:
        """`branches`: choices in each branch of an action."""
        self._continuous = continuous
        self._choices = np.array(branches, np.uint32)  # (D,) in each branch
        self._first = np.cumsum((0, *branches))[:-1]  # (D,) where each branch begins among the A

    def check(
        self,
        message: ActionsMessage,
        agents: NDArray[np.integer[Any]],
        available: NDArray[np.bool_],
    ) -> None:
        """Raises WireError where `agents` (n,) can't have acted so; available (N, E, A) bool."""
        is_possible = self._is_possible(message.actions, agents, available)
        # One number that is NaN or infinite makes the sum so.
        if not (is_possible and math.isfinite(message.log_probs.sum())):
            raise WireError("action")
        memory = message.memory
        # Written so that NaN fails too.
        if memory.size and not (np.abs(memory) < LARGEST_MEMORY).all():
            raise WireError("memory")

    def _is_possible(
        self, actions: NDArray[Any], agents: NDArray[np.integer[Any]], available: NDArray[np.bool_]
    ) -> bool:
        """Returns whether actions (n, E, D) are finite, or available choices in their branches."""
        if self._continuous:
            return bool(np.isfinite(actions).all())
        # As unsigned numbers, so that -1 is huge.
        if not (actions.view(np.uint32) < self._choices).all():
            return False
        # The three indices broadcast to (n, E, D): each choice is looked up in its own branch.
        environments = np.arange(actions.shape[1])[:, None]
        return bool(available[agents[:, None, None], environments, actions + self._first].all())
