"""The server's half of the policy in numpy: decoded latents in, sampled actions out.

    latents (N, E, Z) -> trunk -> [GRU] -> heads -> outputs (N, E, A) -> actions (N, E, D)

All agents are stacked, so that each layer is one batched product. It is numpy, because acting needs
no gradient and torch's calls cost more where rows are few. A policy that runs on its device uses
the same class there, without a trunk.

N agents, E environments, Z latent, W width of a block, A outputs of a head, D numbers of an action,
H numbers of memory.
"""

from __future__ import annotations

import math
from typing import Any, NamedTuple

import numpy as np
from numpy.typing import NDArray

from sde_harl.draws.counters import Draw
from sde_harl.policy.inference.arrays import BoolArray, FloatArray
from sde_harl.policy.inference.conv import ConvArrays
from sde_harl.policy.inference.exploring import Chosen, Exploration, choose
from sde_harl.policy.inference.local_nets import affine, block, normalise

_HALF_LOG_2PI = np.float32(0.5 * math.log(2 * math.pi))


class Decision(NamedTuple):
    """The actions of all agents in all environments at one step."""

    actions: NDArray[Any]
    """(N, E, D) int32, or float32 if continuous; 0 in an agent's padding."""
    log_probs: FloatArray
    """(N, E, D) float32 log-probability of each number of an agent's action; 0 in its padding."""
    memory: FloatArray | None = None
    """(N, E, H) for the next decision, the caller's to change; None if not recurrent."""


class GruArrays(NamedTuple):
    """The recurrent layers of all agents; policy/gru.py has the torch twin."""

    weight_in: FloatArray
    """(N, W, 3 H): reset, update, new."""
    bias_in: FloatArray
    """(N, 1, 3 H)."""
    weight_memory: FloatArray
    """(N, H, 3 H)."""
    bias_memory: FloatArray
    """(N, 1, 3 H)."""

    def __call__(self, x: FloatArray, memory: FloatArray) -> FloatArray:
        """Returns the memory (N, E, H) after x (N, E, W)."""
        inputs = np.matmul(x, self.weight_in) + self.bias_in  # (N, E, 3 H)
        past = np.matmul(memory, self.weight_memory) + self.bias_memory  # (N, E, 3 H)
        size = memory.shape[-1]
        # Reset and update gate are one sigmoid over two thirds of the columns.
        both = 1.0 / (1.0 + np.exp(-(inputs[..., : 2 * size] + past[..., : 2 * size])))
        reset = both[..., :size]
        update = both[..., size:]
        new = np.tanh(inputs[..., 2 * size :] + reset * past[..., 2 * size :])
        # The same as (1 - update) new + update memory, with one product less.
        after: FloatArray = new + update * (memory - new)
        return after


class ActingPolicy:
    """Trunks and heads of all agents, stacked; parameters that agents share are repeated."""

    def __init__(
        self,
        *,
        trunk: list[tuple[FloatArray, FloatArray]],
        head_weight: FloatArray,
        head_bias: FloatArray,
        branches: tuple[int, ...],
        std: FloatArray | None = None,
        gru: GruArrays | None = None,
        layer_norm: bool = False,
        conv: ConvArrays | None = None,
        exploration: Exploration | None = None,
    ) -> None:
        """`trunk`: weight (N, in, W) and bias (N, 1, W) of each block.

        The trunk is empty where the policy runs on its device: latents are the heads' inputs then.
        `head_weight` (N, W or H, A), `head_bias` (N, 1, A); `branches` as in `EnvSpec`; `std`
        (N, 1, D) if actions are continuous; `conv` if latents are images; `exploration` of policies
        that learn from a replay, which have no `std`.
        """
        self._trunk = trunk
        self._head_weight = head_weight
        self._head_bias = head_bias
        self._std = std
        self._gru = gru
        self._layer_norm = layer_norm
        self._conv = conv
        self._exploration = exploration
        # Branch d of the outputs lies between edges d and d + 1.
        self._edges = np.cumsum((0, *branches), dtype=np.int32)

    def arrays(self) -> list[FloatArray]:
        """Returns all parameters in wire order (`server_parameter_shapes`)."""
        arrays: list[FloatArray] = []
        if self._conv:
            arrays += [self._conv.weight, self._conv.bias]
        for layer in self._trunk:
            arrays += layer
        if self._gru:
            arrays += self._gru
        arrays += [self._head_weight, self._head_bias]
        if self._exploration:
            _, *published = self._exploration
            arrays += published
        if self._std is not None:
            arrays.append(self._std)
        return arrays

    def outputs(
        self, latents: FloatArray, memory: FloatArray | None = None
    ) -> tuple[FloatArray, FloatArray | None]:
        """Returns outputs (N, E, A) of decoded latents (N, E, Z), and the memory after them.

        Outputs are logits, or means if actions are continuous.
        """
        x = latents
        if self._conv:
            x = self._conv(latents)
        for weight, bias in self._trunk:
            x = block(x, weight, bias, layer_norm=self._layer_norm)
        if self._gru is None:
            return affine(x, self._head_weight, self._head_bias), None
        if memory is None:
            memory = np.zeros((*x.shape[:2], self._gru.weight_memory.shape[1]), np.float32)
        memory = self._gru(x, memory)
        x = memory
        if self._layer_norm:
            x = normalise(memory.copy())  # which overwrites, and the memory is kept as it is
        return affine(x, self._head_weight, self._head_bias), memory

    def act(
        self,
        latents: FloatArray,
        available: BoolArray,
        draw: Draw | None,
        memory: FloatArray | None = None,
    ) -> Decision:
        """Samples actions, or takes the most likely ones where `draw` is None.

        latents (N, E, Z); available (N, E, A) bool; memory (N, E, H) as the last decision left it,
        None at the start.
        """
        outputs, memory = self.outputs(latents, memory)
        actions, log_probs = self._choose(outputs, available, draw)
        return Decision(actions=actions, log_probs=log_probs, memory=memory)

    def _choose(self, outputs: FloatArray, available: BoolArray, draw: Draw | None) -> Chosen:
        """Returns actions and their log-probabilities, (N, E, D) each."""
        if self._exploration is not None:
            return self._exploration.choose(outputs, available, draw, self._edges)
        if self._std is not None:
            return _gaussian(outputs, available, draw, std=self._std)
        return choose(outputs, available, draw, self._edges)


def _gaussian(
    means: FloatArray,
    available: BoolArray,
    draw: Draw | None,
    *,
    std: FloatArray,
) -> Chosen:
    """Adds noise of deviation `std` (N, 1, D) to means (N, E, D); without one, takes the means."""
    if draw:
        noise = draw.standard_normal(*means.shape[1:])
    else:
        noise = np.zeros_like(means)
    # The noise is (action - mean) / std, so no action is needed to know its log-probability.
    # Padding is False in `available`, which makes both of its numbers 0.
    log_probs = np.float32(-0.5) * noise * noise - np.log(std) - _HALF_LOG_2PI
    return (means + std * noise) * available, log_probs * available
