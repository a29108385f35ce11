"""Rows of a rollout as sequences, the unit that is shuffled and cut into minibatches.

A recurrent policy learns from sequences of `length` = `algo.chunk` steps; else every row is a sequence of its own.

T time, E environments, B = T * E rows, S = B / length sequences; B lies in the order of (S, length).
"""

from __future__ import annotations

import numpy as np
import torch
from torch import Tensor

from sde_harl.policy.gru import RecurrentState


def flat(x: Tensor, length: int) -> Tensor:
    """(k, T, E, ...) -> (k, B, ...)."""
    if length == 1:
        return x.flatten(1, 2)
    return (
        x.unflatten(1, (-1, length)).transpose(2, 3).flatten(1, 3)
    )  # (k, T / length, E, length, ...)


def kept(ended: np.ndarray) -> Tensor:
    """(1, T + 1, E) float32: 0.0 where an episode begins, which is where one `ended` (T, E) a step before."""
    keep = np.ones((1, len(ended) + 1, *ended.shape[1:]), np.float32)
    keep[0, 1:] = ~ended
    return torch.from_numpy(keep)


def recall_of(memory: Tensor, ended: np.ndarray, length: int) -> RecurrentState:
    """What the chunks of a rollout remember, of memory (k, T / length, E, H) at their starts and `ended` (T, E)."""
    keep = flat(kept(ended)[:, :-1], length).unflatten(1, (-1, length))
    return RecurrentState(memory.flatten(1, 2), keep)


def pick(rows: Tensor, sequences: slice | Tensor, length: int) -> Tensor:
    """Some sequences of rows (k, B, ...), or all in another order."""
    if isinstance(sequences, slice):
        return rows[:, sequences.start * length : sequences.stop * length]
    return (
        rows.unflatten(1, (-1, length))[:, sequences].flatten(1, 2)
        if length > 1
        else rows[:, sequences]
    )


def minibatches(sequences: int, count: int) -> list[slice]:
    """Selections of an epoch. Slices of what the caller has shuffled once, for slices copy nothing."""
    edges = np.linspace(0, sequences, count + 1).astype(int).tolist()
    return [slice(*edge) for edge in zip(edges[:-1], edges[1:])]


def shuffle(sequences: int, count: int, generator: torch.Generator) -> slice | Tensor:
    """An order of sequences for `count` minibatches; with one any order will do."""
    return slice(0, sequences) if count == 1 else torch.randperm(sequences, generator=generator)
