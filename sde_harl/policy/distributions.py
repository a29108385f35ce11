"""Distributions of actions in torch: what the heads' outputs mean where it is learnt. acting.py has the numpy twin.

An action is D numbers, each with a log-probability of its own; what an agent lacks of the layout (`EnvSpec.branches`)
is padding and contributes exactly 0 to every sum.

n agents, B rows, A outputs of a head, D numbers of an action.
"""

from __future__ import annotations

import math
from typing import Protocol

import torch
from torch import Tensor

MASKED_LOGIT = -1e30
"""The logit of what is not available. Finite, so that its products with a probability of 0 are 0."""


class Distribution(Protocol):
    """Of the actions of n agents in B rows."""

    def log_probs(self, actions: Tensor) -> Tensor:
        """(n, B, D) of actions (n, B, D): int64, or float32 if continuous."""

    def entropy(self) -> Tensor:
        """(n, B) nats, summed over the numbers of an action."""

    def kl(self, old: Distribution) -> Tensor:
        """KL(old || this) in nats, (n, B); `old` is of the same kind, and a constant: no gradient reaches it."""


class Categoricals:
    """A choice in each of D branches, independent of each other."""

    def __init__(self, logits: Tensor, branches: tuple[int, ...], available: Tensor | None) -> None:
        """logits (n, B, A), the branches side by side; available (n, B, A) bool, or None where all is."""
        if available is not None:
            logits = logits.masked_fill(~available, MASKED_LOGIT)
        parts = logits.split(branches, -1) if len(branches) > 1 else (logits,)
        # Laid out by choice, torch takes a vector of rows at a time; by row, a dozen numbers: four times as long.
        self._log_probs = [part.mT.contiguous().log_softmax(-2).mT for part in parts]

    def log_probs(self, actions: Tensor) -> Tensor:
        chosen = [
            part.gather(-1, actions[..., d : d + 1]) for d, part in enumerate(self._log_probs)
        ]
        return torch.cat(chosen, -1) if len(chosen) > 1 else chosen[0]

    def entropy(self) -> Tensor:
        return sum(
            (torch.linalg.vecdot(part.exp(), part) for part in self._log_probs), torch.zeros(())
        ).neg()

    def kl(self, old: Distribution) -> Tensor:
        assert isinstance(old, Categoricals)
        pairs = zip(old._log_probs, self._log_probs)
        return sum(
            (torch.linalg.vecdot(was.detach().exp(), was.detach() - now) for was, now in pairs),
            torch.zeros(()),
        )


class Gaussians:
    """A diagonal Gaussian whose deviations don't depend on the row."""

    def __init__(self, means: Tensor, std: Tensor, available: Tensor | None) -> None:
        """means (n, B, D), std (n, 1, D); available (n, B, D) bool, False in an agent's padding, or None."""
        self._means, self._std, self._available = means, std, available

    def log_probs(self, actions: Tensor) -> Tensor:
        scaled = (actions - self._means) / self._std
        return self._own(-0.5 * scaled.square() - self._std.log() - 0.5 * math.log(2 * math.pi))

    def entropy(self) -> Tensor:
        each = self._std.log() + 0.5 * math.log(2 * math.pi * math.e)
        return self._own(each.expand_as(self._means)).sum(-1)

    def kl(self, old: Distribution) -> Tensor:
        assert isinstance(old, Gaussians)
        means, std = old._means.detach(), old._std.detach()
        squares = (std.square() + (means - self._means).square()) / self._std.square()
        return self._own(self._std.log() - std.log() + 0.5 * squares - 0.5).sum(-1)

    def _own(self, values: Tensor) -> Tensor:
        """(n, B, D) without what is padding."""
        return values if self._available is None else values * self._available
