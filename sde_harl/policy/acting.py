"""The server's half of the policy in numpy: decoded latents in, sampled actions out, all agents in one batched product.

N agents, E environments, Z latent, A outputs of a head, D numbers of an action.
"""

from __future__ import annotations

import math
from typing import NamedTuple

import numpy as np

from sde_harl.policy.local import forward

_TINY = np.finfo(np.float32).tiny
_NEVER = np.float32(-1e30)
_HALF_LOG_2PI = np.float32(0.5 * math.log(2 * math.pi))


class Decision(NamedTuple):
    actions: np.ndarray
    """(N, E, D) int32, or float32 if continuous; 0 in an agent's padding."""
    log_probs: np.ndarray
    """(N, E, D) float32, log-probability of each number of an agent's own action; 0 in its padding."""


class ActingPolicy:
    """Trunks and heads of all agents, stacked; what agents share is repeated for each."""

    def __init__(
        self, layers: list[tuple[np.ndarray, np.ndarray]], branches: tuple[int, ...], std: np.ndarray | None = None
    ) -> None:
        """`layers`: weight (N, in, out) and bias (N, 1, out) of each block; the last one is the head.

        `branches` as in `EnvSpec`; `std` (N, 1, D) if actions are continuous.
        """
        self._layers, self._std = layers, std
        edges = np.cumsum((0, *branches)).tolist()
        self._branches = [slice(*edge) for edge in zip(edges[:-1], edges[1:])]

    def outputs(self, latents: np.ndarray) -> np.ndarray:
        """Logits, or means if continuous, (N, E, A) of decoded latents (N, E, Z)."""
        return forward(latents, self._layers)

    def act(self, latents: np.ndarray, available: np.ndarray, generator: np.random.Generator | None) -> Decision:
        """Sample actions, or take the most likely ones where `generator` is None.

        latents (N, E, Z); available (N, E, A) bool.
        """
        outputs = self.outputs(latents)
        if self._std is not None:
            return _gaussian(outputs, self._std, available, generator)
        logits = np.where(available, outputs, _NEVER)
        if len(self._branches) == 1:
            return _categorical(logits, generator)
        parts = [_categorical(logits[..., branch], generator) for branch in self._branches]
        return Decision(*(np.concatenate(each, -1) for each in zip(*parts)))


def _categorical(logits: np.ndarray, generator: np.random.Generator | None) -> Decision:
    """A choice in one branch of `logits` (N, E, branch), which this overwrites.

    Sampling is an exponential race: with X_a ~ Exp(1), the largest p_a / X_a is action a with probability p_a, and an
    unavailable action (p = 0) can never win.
    """
    logits -= logits.max(-1, keepdims=True)
    weights = np.exp(logits)
    if generator is None:
        actions = weights.argmax(-1)
    else:
        race = generator.standard_exponential(weights.shape, np.float32)
        actions = (weights / np.maximum(race, _TINY)).argmax(-1)
    rows = logits.reshape(-1, logits.shape[-1])  # take_along_axis would take as long as all else here
    chosen = rows[np.arange(len(rows)), actions.ravel()].reshape(actions.shape)
    log_probs = chosen - np.log(weights.sum(-1))
    return Decision(actions[..., None].astype(np.int32), log_probs[..., None])


def _gaussian(
    means: np.ndarray, std: np.ndarray, available: np.ndarray, generator: np.random.Generator | None
) -> Decision:
    """Means (N, E, D) plus noise of deviation `std` (N, 1, D); the mean is the most likely action."""
    noise = generator.standard_normal(means.shape, np.float32) if generator else np.zeros_like(means)
    log_probs = np.float32(-0.5) * noise * noise - np.log(std) - _HALF_LOG_2PI
    return Decision((means + std * noise) * available, log_probs * available)
