"""Distributions of actions in torch, over the outputs of the heads; used where the policy learns.

inference/acting.py has the numpy twin, which samples.

An action is D numbers, each with a log-probability of its own. Agents may have fewer numbers or
choices than the layout of the run (`EnvSpec.branches`); such padding contributes exactly 0 to every
sum.

n agents, B rows, A outputs of a head, D numbers of an action.
"""

from __future__ import annotations

import math
from typing import NamedTuple, Protocol

import torch
from torch import Tensor
from torch.nn import functional

from sde_harl.codec.entropy import straight_through
from sde_harl.policy.inference.exploring import LEAST_LOG_STD, MOST_LOG_STD

MASKED_LOGIT = -1e30
"""The logit of an unavailable choice. It is finite because the entropy and the KL multiply its
log-probability by its probability of 0: minus infinity would give NaN there, and in gradients."""


class Distribution(Protocol):
    """Distributions of the actions of n agents in B rows."""

    def log_probs(self, actions: Tensor) -> Tensor:
        """Returns (n, B, D) of actions (n, B, D), which are int64, or float32 if continuous."""

    def entropy(self) -> Tensor:
        """Returns (n, B) nats, summed over the numbers of an action."""

    def kl(self, old: Distribution) -> Tensor:
        """Returns KL(old || this) in nats, (n, B).

        `old` is of the same class and taken as a constant: no gradient reaches it.
        """


class Drawn(NamedTuple):
    """Actions of n agents in B rows through which gradients flow to the policies."""

    actions: Tensor
    """(n, B, A): one-hot in each branch, or numbers in -1 .. 1; 0 in padding."""
    surprise: Tensor
    """(n, B), whose mean is the policy's entropy in nats."""


class Categoricals:
    """An independent choice in each of D branches."""

    def __init__(self, logits: Tensor, branches: tuple[int, ...], available: Tensor | None) -> None:
        """logits (n, B, A), the branches side by side; available (n, B, A) bool, None for all."""
        if available is not None:
            logits = logits.masked_fill(~available, MASKED_LOGIT)
        parts: tuple[Tensor, ...] = (logits,)
        if len(branches) > 1:
            parts = logits.split(branches, -1)
        # The softmax is taken over transposed memory, (choices, B): torch then computes a vector of
        # rows at a time. Over (B, choices) its vector is a dozen numbers, four times as slow.
        self._log_probs = [part.mT.contiguous().log_softmax(-2).mT for part in parts]

    def log_probs(self, actions: Tensor) -> Tensor:
        chosen = [
            part.gather(-1, actions[..., d : d + 1]) for d, part in enumerate(self._log_probs)
        ]
        if len(chosen) == 1:
            return chosen[0]
        return torch.cat(chosen, -1)

    def sample(self, generator: torch.Generator) -> Tensor:
        """Returns one-hot actions (n, B, A) with the gradient of the Gumbel-softmax.

        Its temperature is 1 (Jang et al., ICLR 2017: straight-through).
        """
        parts = [_gumbel_softmax(each, generator) for each in self._log_probs]
        return parts[0] if len(parts) == 1 else torch.cat(parts, -1)

    def draw(self, generator: torch.Generator) -> Drawn:
        """Returns what `sample` does, with the surprise.

        The surprise is the entropy itself, whose expectation over the choices needs no sample. But
        its gradient is that of -log p of the sample, through the same Gumbel-softmax as Q's. The
        Gumbel-softmax's slope is not that of the expectation, and where both have it the best
        policy is softmax(Q / alpha) as it should.
        """
        actions = self.sample(generator)
        log_probs = [each.detach() for each in self._log_probs]
        # 0, with a gradient.
        nothing = torch.linalg.vecdot(actions - actions.detach(), torch.cat(log_probs, -1))
        return Drawn(actions=actions, surprise=self.entropy().detach() - nothing)

    def entropy(self) -> Tensor:
        total = torch.zeros(())
        for part in self._log_probs:
            total = total + torch.linalg.vecdot(part.exp(), part)
        return total.neg()

    def kl(self, old: Distribution) -> Tensor:
        assert isinstance(old, Categoricals)
        total = torch.zeros(())
        for before, now in zip(old._log_probs, self._log_probs):
            before = before.detach()
            # vecdot: one pass, where a product and a sum would write an array in between.
            total = total + torch.linalg.vecdot(before.exp(), before - now)
        return total


class Gaussians:
    """A diagonal Gaussian whose deviations are the same in every row."""

    def __init__(self, means: Tensor, std: Tensor, available: Tensor | None) -> None:
        """means (n, B, D), std (n, 1, D); available (n, B, D) bool, False in padding, or None."""
        self._means = means
        self._std = std
        self._available = available

    def log_probs(self, actions: Tensor) -> Tensor:
        scaled = (actions - self._means) / self._std
        each = -0.5 * scaled.square() - self._std.log() - 0.5 * math.log(2 * math.pi)
        return self._without_padding(each)

    def entropy(self) -> Tensor:
        # The entropy depends on the deviations alone, so each row has the same.
        each = self._std.log() + 0.5 * math.log(2 * math.pi * math.e)
        return self._without_padding(each.expand_as(self._means)).sum(-1)

    def kl(self, old: Distribution) -> Tensor:
        assert isinstance(old, Gaussians)
        means = old._means.detach()
        std = old._std.detach()
        squares = (std.square() + (means - self._means).square()) / self._std.square()
        each = self._std.log() - std.log() + 0.5 * squares - 0.5
        return self._without_padding(each).sum(-1)

    def _without_padding(self, values: Tensor) -> Tensor:
        """Returns values (n, B, D) with 0 where a number is padding."""
        if self._available is None:
            return values
        return values * self._available


class SquashedGaussians:
    """tanh of a diagonal Gaussian whose means and log-deviations are outputs (Haarnoja et al., ICML
    2018)."""

    def __init__(self, outputs: Tensor, available: Tensor | None) -> None:
        """outputs (n, B, 2 D); available (n, B, D) bool, False in padding, or None."""
        self._means, log_std = outputs.chunk(2, -1)
        self._log_std = log_std.clamp(LEAST_LOG_STD, MOST_LOG_STD)
        self._available = available

    def sample(self, generator: torch.Generator) -> Tensor:
        """Returns actions (n, B, D) in -1 .. 1."""
        return self._squashed(self._numbers(self._noise(generator)))

    def draw(self, generator: torch.Generator) -> Drawn:
        """Returns samples in -1 .. 1, and minus the log-density of each."""
        noise = self._noise(generator)
        numbers = self._numbers(noise)
        # log(1 - tanh(x)^2), in a form that doesn't round to log 0.
        slope = 2.0 * (math.log(2.0) - numbers - functional.softplus(-2.0 * numbers))
        log_probs = -0.5 * noise.square() - self._log_std - 0.5 * math.log(2 * math.pi) - slope
        if self._available is not None:
            log_probs = log_probs * self._available
        return Drawn(actions=self._squashed(numbers), surprise=-log_probs.sum(-1))

    def _noise(self, generator: torch.Generator) -> Tensor:
        return torch.randn(self._means.shape, generator=generator)

    def _numbers(self, noise: Tensor) -> Tensor:
        """Returns normally distributed numbers; their tanh are the actions."""
        return self._means + self._log_std.exp() * noise

    def _squashed(self, numbers: Tensor) -> Tensor:
        actions = numbers.tanh()
        return actions if self._available is None else actions * self._available


def _gumbel_softmax(log_probs: Tensor, generator: torch.Generator) -> Tensor:
    """Returns one-hot samples (n, B, A) of one branch, with the gradient of their softmax."""
    uniform = torch.rand(log_probs.shape, generator=generator)
    # The clamp keeps both logarithms finite: a uniform number may be 0.
    gumbel = -torch.log(-torch.log(uniform.clamp(1e-20, 1.0 - 1e-7)))
    noisy = log_probs + gumbel
    chosen = noisy.contiguous().argmax(-1, keepdim=True)
    hard = torch.zeros(log_probs.shape).scatter_(-1, chosen, 1.0)
    if not torch.is_grad_enabled():
        return hard
    # Over transposed memory, as in `Categoricals`; argmax is fast over the other.
    soft = noisy.mT.contiguous().softmax(-2).mT
    return straight_through(soft, hard)
