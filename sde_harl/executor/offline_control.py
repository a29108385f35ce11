"""Decides when an executor with sensors acts without the server, by its fallback heads.

From its first reading on, it waits `wait_s` for the server's next message. When none has come, it
acts on the reading that was not answered, or, where there is none, on a new one, and so on at that
pace until the server sends something. It acts on a reading only once: an answer that comes later is
dropped. Any message but a question or its answer shows that no more questions will come for now:
then no agent acts.

n agents of the executor, A outputs of a head, D numbers of an action.
"""

from __future__ import annotations

import math
from typing import Any

import numpy as np
from numpy.typing import NDArray

from sde_harl.link.wire import WireError
from sde_harl.meters.timing import now_ns
from sde_harl.policy.inference.fallback_head import FallbackPolicy, is_fallback_order
from sde_harl.policy.shapes import FallbackShape
from sde_harl.protocol.actions import action_dtype


class OfflineController:
    """Keeps the reading that is to be answered, and the time when that is too late."""

    def __init__(self, fallback_head: FallbackShape) -> None:
        self.decisions = 0
        """Decisions taken so far without the server, for all agents."""
        self._fallback_head = fallback_head
        self._wait_ns = int(fallback_head.wait_s * 1e9)
        self._due_ns = math.inf
        # Number of the server's question whose reading has not been acted on; None where there is
        # none.
        self._number: int | None = None
        self._latents = np.zeros(0, np.float32)

    def saw(self, number: int | None, latents: NDArray[np.float32]) -> None:
        """Takes the latents (n, 1, Z) of a reading.

        `number` is that of the server's question, None where the executor has read without one.
        """
        self._number = number
        self._latents = latents
        self._wait_anew()

    def rest(self) -> None:
        """Stops acting until the next reading."""
        self._number = None
        self._due_ns = math.inf

    def left_s(self) -> float:
        """Returns the seconds until it is too late for an answer."""
        return (self._due_ns - now_ns()) * 1e-9

    def answered(
        self, number: int, payload: memoryview, policy: FallbackPolicy
    ) -> NDArray[Any] | None:
        """Returns the actions (n, D) to do after the server's answer; None if it is too late.

        `number` is that of the question. Where the answer orders it, an agent's actions are its
        fallback head's. Raises WireError for a payload that isn't the agents' actions.
        """
        self._wait_anew()
        # The agents have already acted on that reading, or have a newer one.
        if number != self._number:
            return None
        self._number = None
        actions = np.frombuffer(payload, action_dtype(self._fallback_head.continuous))
        if actions.size != len(self._latents) * len(self._fallback_head.branches):
            raise WireError("length")
        actions = actions.reshape(len(self._latents), -1)
        ordered = is_fallback_order(actions)
        if not ordered.any():
            return actions
        return np.where(ordered, self._fallback(policy), actions)

    @property
    def is_unanswered(self) -> bool:
        """True where there is a reading that has not been acted on."""
        return self._number is not None

    def act(self, policy: FallbackPolicy) -> NDArray[Any]:
        """Returns the fallback heads' actions (n, D) on the last reading, once."""
        self._number = None
        self.decisions += 1
        self._wait_anew()
        return self._fallback(policy)

    def _wait_anew(self) -> None:
        self._due_ns = now_ns() + self._wait_ns

    def _fallback(self, policy: FallbackPolicy) -> NDArray[Any]:
        # A device doesn't know which actions are available, so all count as such.
        available = np.ones((len(self._latents), 1, sum(self._fallback_head.branches)), np.bool_)
        return policy.act(self._latents, available)[:, 0]
