"""The server's half of the policy in numpy: decoded latents in, sampled actions out, all agents in one batched product.

N agents, E environments, Z latent, A actions.
"""

from __future__ import annotations

from typing import NamedTuple

import numpy as np

from sde_harl.policy.local import forward

_TINY = np.finfo(np.float32).tiny
_NEVER = np.float32(-1e30)


class Decision(NamedTuple):
    actions: np.ndarray
    """(N, E, 1) int32."""
    log_probs: np.ndarray
    """(N, E, 1) float32, log-probability of each agent's own action."""


class ActingPolicy:
    """Trunks and heads of all agents, stacked; a group's shared trunk is repeated for its agents."""

    def __init__(self, layers: list[tuple[np.ndarray, np.ndarray]]) -> None:
        """`layers`: weight (N, in, out) and bias (N, 1, out) of each block; the last one is the head."""
        self._layers = layers

    def logits(self, latents: np.ndarray) -> np.ndarray:
        """Logits (N, E, A) of decoded latents (N, E, Z)."""
        return forward(latents, self._layers)

    def act(self, latents: np.ndarray, available: np.ndarray, generator: np.random.Generator | None) -> Decision:
        """Sample actions, or take the most likely ones where `generator` is None.

        latents (N, E, Z); available (N, E, A) bool. Sampling is an exponential race: with X_a ~ Exp(1), the largest
        p_a / X_a is action a with probability p_a, and an unavailable action (p = 0) can never win.
        """
        logits = np.where(available, self.logits(latents), _NEVER)
        logits -= logits.max(-1, keepdims=True)
        weights = np.exp(logits)
        if generator is None:
            actions = weights.argmax(-1)
        else:
            race = generator.standard_exponential(weights.shape, np.float32)
            actions = (weights / np.maximum(race, _TINY)).argmax(-1)
        actions = actions[..., None]
        chosen = np.take_along_axis(logits, actions, -1)
        return Decision(actions.astype(np.int32), chosen - np.log(weights.sum(-1, keepdims=True)))
