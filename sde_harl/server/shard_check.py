"""Checks what an executor has played before anything is learnt from it or recorded.

N agents, T time, E environments of the shard, L steps of an episode under way.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import numpy as np
from numpy.typing import NDArray

from sde_harl.buffers.played import Played, SlotState
from sde_harl.envs.vector.arrival import is_finite
from sde_harl.envs.vector.history import MOST_STEPS
from sde_harl.link.wire import WireError
from sde_harl.protocol.actions import ActionsMessage
from sde_harl.server.action_check import LARGEST_ACTION, LARGEST_MEMORY, ActionCheck

LARGEST_CHECKSUM = 2**32 - 1


class ShardCheck:
    """Knows what an executor can have played."""

    def __init__(self, branches: tuple[int, ...], continuous: bool) -> None:
        """`branches`: choices in each branch of an action."""
        self._actions = ActionCheck(branches, continuous)
        self._choices = np.array(branches)
        self._continuous = continuous

    def check(self, arrays: Mapping[str, NDArray[Any]], played: Played) -> None:
        """Raises WireError where these arrays of a shard can't have been played."""
        for name, array in arrays.items():
            if array.dtype == np.bool_ and array.size and array.view(np.uint8).max() > 1:
                raise WireError(name)
            if not is_finite(array.ravel()):
                raise WireError(name)
        if (arrays["terminated"] & arrays["truncated"]).any():
            raise WireError("truncated")
        self._check_actions(arrays)
        ended = (arrays["terminated"] | arrays["truncated"]) & ~arrays["void"]
        _check_episodes(played.episodes, int(ended.sum()))
        for slot in played.slots:
            self._check_slot(slot)

    def _check_actions(self, arrays: Mapping[str, NDArray[Any]]) -> None:
        agents = len(arrays["actions"])
        # Time and environments as one axis: each row is one decision.
        rows = {
            name: arrays[name].reshape(agents, -1, arrays[name].shape[-1])
            for name in ("actions", "log_probs", "available_actions")
        }
        memory = arrays["memory"]
        message = ActionsMessage(
            actions=rows["actions"], log_probs=rows["log_probs"], memory=memory
        )
        self._actions.check(message, np.arange(agents), rows["available_actions"])

    def _check_slot(self, state: SlotState) -> None:
        """Raises WireError where a slot can't stand so; a run may go on from it."""
        if state["episodes"].min() < 0:
            raise WireError("episodes")
        lengths = state.get("lengths")
        # Every slot has played by now.
        if lengths is None:
            raise WireError("lengths")
        steps = state["actions"].shape[1]
        if lengths.min() < 0 or lengths.max() != steps or steps > MOST_STEPS:
            raise WireError("lengths")
        if state["seen"].min() < 0 or state["seen"].max() > LARGEST_CHECKSUM:
            raise WireError("seen")
        actions = state["actions"]
        if self._continuous:
            possible = np.abs(actions) <= LARGEST_ACTION
        else:
            possible = (actions >= 0) & (actions < self._choices)
        if not possible.all():
            raise WireError("action")
        if state["began"].view(np.uint8).max() > 1:
            raise WireError("began")
        memory = state["memory"]
        if memory.size and not np.abs(memory).max() < LARGEST_MEMORY:
            raise WireError("memory")


def _check_episodes(episodes: NDArray[np.void], count: int) -> None:
    """Raises WireError unless there are `count` episodes that can have been played."""
    if len(episodes) != count:
        raise WireError("episodes")
    if not count:
        return
    if not is_finite(np.ascontiguousarray(episodes["returns"])):
        raise WireError("returns")
    if episodes["length"].min() < 1:
        raise WireError("length")
    if episodes["won"].min() < -1 or episodes["won"].max() > 1:
        raise WireError("won")
