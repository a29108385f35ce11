"""Checks the actions of policies that run on devices before the environments step with them.

N agents, n of one executor, E environments, A choices, D numbers of an action, H memory.
"""

from __future__ import annotations

from typing import Any

import numpy as np
from numpy.typing import NDArray

from sde_harl.link.wire import WireError
from sde_harl.protocol.actions import ActionsMessage

# A GRU's memory lies between an earlier one and a tanh, so within [-1, 1]; the rest is rounding.
LARGEST_MEMORY = 1.001
# A choice wins a race (inference/acting.py) whose random numbers are within [6e-8, 17]. So its
# probability is at least 3.6e-9 / A of A choices: its logarithm is above -32 for A up to 270,000.
# A normal draw is within +-5.5, which gives a density of e^-16 / std.
LEAST_LOG_PROB = -32.0
"""Log-probability of a number of an action, below which no policy acts."""
LARGEST_LOG_DENSITY = -LEAST_LOG_PROB
"""Log-probability of a continuous number, above which no policy acts: one with a standard deviation
below 5e-15 has broken down. A choice's is 0 at most."""
LARGEST_ACTION = 1e6
"""Magnitude of a continuous number that no policy exceeds. Environments clip to bounds of their
own, but what is learnt from is the number before that."""


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
        if self._continuous:
            # What an agent lacks is padding, False in `available`, where only 0 is left.
            _check_numbers(message, available[agents])
        else:
            self._check_choices(message, agents, available)
        memory = message.memory
        # Written so that NaN fails too, here and below: it makes the least and the largest NaN.
        if memory.size and not np.abs(memory).max() < LARGEST_MEMORY:
            raise WireError("memory")

    def _check_choices(
        self,
        message: ActionsMessage,
        agents: NDArray[np.integer[Any]],
        available: NDArray[np.bool_],
    ) -> None:
        """Raises WireError unless all choices (n, E, D) are available and can have been drawn."""
        actions = message.actions
        # As unsigned numbers, so that -1 is huge.
        if not (actions.view(np.uint32) < self._choices).all():
            raise WireError("action")
        # The three indices broadcast to (n, E, D): each choice is looked up in its own branch.
        environments = np.arange(actions.shape[1])[:, None]
        if not available[agents[:, None, None], environments, actions + self._first].all():
            raise WireError("action")
        log_probs = message.log_probs
        if not (log_probs.min() >= LEAST_LOG_PROB and log_probs.max() <= 0.0):
            raise WireError("log_prob")


def _check_numbers(message: ActionsMessage, available: NDArray[np.bool_]) -> None:
    """Raises WireError unless continuous actions are within bounds; available (n, E, D) bool."""
    actions = message.actions
    log_probs = message.log_probs
    if not np.abs(actions).max() <= LARGEST_ACTION:
        raise WireError("action")
    if not np.abs(log_probs).max() <= LARGEST_LOG_DENSITY:
        raise WireError("log_prob")
    # In most games no agent lacks a number.
    if available.all():
        return
    padding = ~available
    if actions[padding].any():
        raise WireError("action")
    if log_probs[padding].any():
        raise WireError("log_prob")
