"""The server's half of the policy in numpy: decoded latents in, sampled actions out, all agents in one batched product.

N agents, E environments, Z latent, A outputs of a head, D numbers of an action, H numbers of memory.
"""

from __future__ import annotations

import math
from typing import Any, NamedTuple, Protocol, Tuple

import numpy as np

from sde_harl.policy.inference import _blocks
from sde_harl.policy.inference.conv import ConvArrays
from sde_harl.policy.inference.local_nets import affine, block, normalise

_HALF_LOG_2PI = np.float32(0.5 * math.log(2 * math.pi))


Chosen = Tuple[np.ndarray, np.ndarray]
"""`Decision.actions` and `Decision.log_probs`."""


class Noise(Protocol):
    """What sampling needs of numpy's Generator."""

    def standard_exponential(self, shape: tuple[int, ...], dtype: Any) -> np.ndarray: ...

    def standard_normal(self, shape: tuple[int, ...], dtype: Any) -> np.ndarray: ...


class Decision(NamedTuple):
    actions: np.ndarray
    """(N, E, D) int32, or float32 if continuous; 0 in an agent's padding."""
    log_probs: np.ndarray
    """(N, E, D) float32, log-probability of each number of an agent's own action; 0 in its padding."""
    memory: np.ndarray | None = None
    """(N, E, H) for the next decision, the caller's to change; None where the policy is not recurrent."""


class GruArrays(NamedTuple):
    """The recurrent layer of all agents; policy/gru.py has the torch twin."""

    weight_in: np.ndarray
    """(N, W, 3 H): reset, update, new."""
    bias_in: np.ndarray
    """(N, 1, 3 H)."""
    weight_memory: np.ndarray
    """(N, H, 3 H)."""
    bias_memory: np.ndarray
    """(N, 1, 3 H)."""

    def __call__(self, x: np.ndarray, memory: np.ndarray) -> np.ndarray:
        """The memory (N, E, H) after x (N, E, W)."""
        gates = np.matmul(x, self.weight_in) + self.bias_in
        past = np.matmul(memory, self.weight_memory) + self.bias_memory
        size = memory.shape[-1]
        both = 1.0 / (1.0 + np.exp(-(gates[..., : 2 * size] + past[..., : 2 * size])))
        reset, update = both[..., :size], both[..., size:]
        new = np.tanh(gates[..., 2 * size :] + reset * past[..., 2 * size :])
        return new + update * (memory - new)


class ActingPolicy:
    """Trunks and heads of all agents, stacked; what agents share is repeated for each."""

    def __init__(
        self,
        trunk: list[tuple[np.ndarray, np.ndarray]],
        head: tuple[np.ndarray, np.ndarray],
        branches: tuple[int, ...],
        std: np.ndarray | None = None,
        gru: GruArrays | None = None,
        layer_norm: bool = False,
        conv: ConvArrays | None = None,
    ) -> None:
        """`trunk`, `head`: weight (N, in, out) and bias (N, 1, out) of each block and of the head.

        With an empty trunk, latents are what the head sees: a whole policy's.
        `branches` as in `EnvSpec`; `std` (N, 1, D) if actions are continuous; `conv` if latents are images.
        """
        self._trunk, self._head, self._std, self._gru, self._layer_norm = (
            trunk,
            head,
            std,
            gru,
            layer_norm,
        )
        self._conv = conv
        self._edges = np.cumsum((0, *branches), dtype=np.int32)

    def outputs(
        self, latents: np.ndarray, memory: np.ndarray | None = None
    ) -> tuple[np.ndarray, np.ndarray | None]:
        """Logits, or means if continuous, (N, E, A) of decoded latents (N, E, Z), and the memory after them."""
        x = self._conv(latents) if self._conv else latents
        for each in self._trunk:
            x = block(x, *each, self._layer_norm)
        if self._gru is None:
            return affine(x, *self._head), None
        if memory is None:
            memory = np.zeros((*x.shape[:2], self._gru.weight_memory.shape[1]), np.float32)
        memory = self._gru(x, memory)
        x = normalise(memory.copy()) if self._layer_norm else memory
        return affine(x, *self._head), memory

    def act(
        self,
        latents: np.ndarray,
        available: np.ndarray,
        generator: Noise | None,
        memory: np.ndarray | None = None,
    ) -> Decision:
        """Sample actions, or take the most likely ones where `generator` is None.

        latents (N, E, Z); available (N, E, A) bool; memory (N, E, H) as the last decision left it, None at the start.
        """
        outputs, memory = self.outputs(latents, memory)
        return Decision(*self._choose(outputs, available, generator), memory)

    def _choose(
        self, outputs: np.ndarray, available: np.ndarray, generator: Noise | None
    ) -> Chosen:
        if self._std is not None:
            return _gaussian(outputs, self._std, available, generator)
        return _categorical(outputs, available, self._edges, generator)


def _categorical(
    outputs: np.ndarray, available: np.ndarray, edges: np.ndarray, generator: Noise | None
) -> Chosen:
    """A choice in each of the branches of `outputs` (N, E, A) between `edges` (D + 1,).

    Sampling is an exponential race: with X_a ~ Exp(1), the largest p_a / X_a is action a with probability p_a, and an
    unavailable action (p = 0) can never win.
    """
    race = generator.standard_exponential(outputs.shape, np.float32) if generator else None
    shape = (*outputs.shape[:2], len(edges) - 1)
    actions, log_probs = np.empty(shape, np.int32), np.empty(shape, np.float32)
    _blocks.choose(outputs, np.ascontiguousarray(available), race, edges, actions, log_probs)
    return actions, log_probs


def _gaussian(
    means: np.ndarray, std: np.ndarray, available: np.ndarray, generator: Noise | None
) -> Chosen:
    """Means (N, E, D) plus noise of deviation `std` (N, 1, D); the mean is the most likely action."""
    noise = (
        generator.standard_normal(means.shape, np.float32) if generator else np.zeros_like(means)
    )
    log_probs = np.float32(-0.5) * noise * noise - np.log(std) - _HALF_LOG_2PI
    return (means + std * noise) * available, log_probs * available
