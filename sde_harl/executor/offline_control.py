"""What an executor with sensors and actuators of its own does while the server is silent: its exit heads act.

From its first reading on, an executor waits `wait_s` for the server's next word. When none has come, it acts on the
reading that was not answered, or, where there is none, on a new one, and so on at that pace until the server speaks.
What it has acted on it does not act on again: an answer that comes later is dropped. Anything but a question or its
answer tells that no more questions will come for now: then nobody acts.

n agents of the executor, A outputs of a head, D numbers of an action.
"""

from __future__ import annotations

import math

import numpy as np

from sde_harl.link.wire import WireError
from sde_harl.meters.timing import now_ns
from sde_harl.policy.inference.fallback_head import FallbackPolicy, is_fallback_order
from sde_harl.policy.shapes import FallbackShape


class OfflineController:
    """The reading that is to be answered, and the time when that is too late."""

    def __init__(self, fallback_head: FallbackShape) -> None:
        self.decisions = 0
        """Taken so far without the server, for all agents."""
        self._fallback_head, self._wait_ns = fallback_head, int(fallback_head.wait_s * 1e9)
        self._due_ns = math.inf
        self._number: int | None = None  # of the question whose reading has not been acted on
        self._latents = np.zeros(0, np.float32)

    def saw(self, number: int | None, latents: np.ndarray) -> None:
        """Latents (n, 1, Z) of a reading, that of the server's question `number` or of nobody's."""
        self._number, self._latents = number, latents
        self._due_ns = now_ns() + self._wait_ns

    def rest(self) -> None:
        """Until the next reading nobody acts."""
        self._number, self._due_ns = None, math.inf

    def left_s(self) -> float:
        """Until it is too late for an answer."""
        return (self._due_ns - now_ns()) * 1e-9

    def answered(
        self, number: int, payload: memoryview, policy: FallbackPolicy
    ) -> np.ndarray | None:
        """Actions (n, D) of the answer to question `number`, the exit heads' where it says so; None if it is too late.

        Raises WireError for a payload that isn't the agents' actions.
        """
        self._due_ns = now_ns() + self._wait_ns
        if number != self._number:
            return None
        self._number = None
        told = np.frombuffer(payload, "<f4" if self._fallback_head.continuous else "<i4")
        if told.size != len(self._latents) * len(self._fallback_head.branches):
            raise WireError("length")
        told = told.reshape(len(self._latents), -1)
        own = is_fallback_order(told)
        return np.where(own, self._fallback(policy), told) if own.any() else told

    @property
    def unanswered(self) -> bool:
        """Whether there is a reading to act on."""
        return self._number is not None

    def act(self, policy: FallbackPolicy) -> np.ndarray:
        """Actions (n, D) of the exit heads on the last reading, which is done with then."""
        self._number = None
        self.decisions += 1
        self._due_ns = now_ns() + self._wait_ns
        return self._fallback(policy)

    def _fallback(self, policy: FallbackPolicy) -> np.ndarray:
        """A device doesn't know what is available: everything counts as such."""
        available = np.ones((len(self._latents), 1, sum(self._fallback_head.branches)), np.bool_)
        return policy.act(self._latents, available)[:, 0]
