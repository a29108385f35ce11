"""Sequences: the unit of a rollout that is shuffled and split into minibatches.

A recurrent policy learns from sequences of L = `algo.chunk` steps of one environment. For any other
policy L is 1: every row is a sequence of its own, and the same code serves both.

k agents or values, T time, E environments, L steps of a sequence, S = T * E / L sequences, B = S *
L = T * E rows, H numbers of memory. Rows lie in the order of (S, L), and sequences in the order of
(T / L, E).
"""

from __future__ import annotations

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from sde_harl.policy.gru import RecurrentState


def flatten_rows(x: Tensor, length: int) -> Tensor:
    """Returns x (k, T, E, ...) as rows (k, B, ...).

    The `length` steps of each sequence lie side by side.
    """
    if length == 1:
        return x.flatten(1, 2)  # (k, T * E, ...): a view, which the general way below would copy
    chunks = x.unflatten(1, (-1, length)).transpose(2, 3)  # (k, T / L, E, L, ...)
    rows: Tensor = chunks.flatten(1, 3)  # (k, B, ...)
    return rows


def keep_masks(ended: NDArray[np.bool_]) -> Tensor:
    """Returns (1, T + 1, E) float32 masks of the memory, from `ended` (T, E).

    A mask is 0.0 where an episode begins, which is one step after another has ended. The first
    step's is 1.0: the memory at the start of a rollout has been reset already if an episode begins
    there.
    """
    steps, envs = ended.shape
    keep = np.ones((1, steps + 1, envs), np.float32)
    keep[0, 1:] = ~ended
    return torch.from_numpy(keep)


def chunk_states(memory: Tensor, ended: NDArray[np.bool_], length: int) -> RecurrentState:
    """Returns the recurrent state of every chunk of a rollout.

    memory: (k, T / L, E, H) before the first step of each chunk. ended: (T, E).
    """
    keep = keep_masks(ended)[:, :-1]  # (1, T, E)
    keep = flatten_rows(keep, length).unflatten(1, (-1, length))  # (1, S, L)
    return RecurrentState(memory=memory.flatten(1, 2), keep=keep)


def take_sequences(rows: Tensor, sequences: slice | Tensor, length: int) -> Tensor:
    """Returns some sequences of rows (k, B, ...), or all of them in another order."""
    if isinstance(sequences, slice):
        return rows[:, sequences.start * length : sequences.stop * length]
    if length == 1:
        return rows[:, sequences]
    taken: Tensor = rows.unflatten(1, (-1, length))[:, sequences].flatten(1, 2)
    return taken


def minibatch_slices(sequences: int, count: int) -> list[slice]:
    """Returns the `count` minibatches of an epoch over `sequences`.

    They are slices of an order that was shuffled once for all epochs, because slices copy nothing;
    HARL draws a new permutation every epoch and copies every minibatch.
    """
    edges = np.linspace(0, sequences, count + 1).astype(int).tolist()
    return [slice(start, stop) for start, stop in zip(edges[:-1], edges[1:])]


def shuffled(sequences: int, count: int, generator: torch.Generator) -> slice | Tensor:
    """Returns a random order of the sequences for `count` minibatches.

    One minibatch holds all sequences, so their order doesn't matter: then no number is drawn and
    nothing is copied.
    """
    if count == 1:
        return slice(0, sequences)
    return torch.randperm(sequences, generator=generator)
