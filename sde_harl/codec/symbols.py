"""Counts the symbols that were sent, beside what the entropy model expected of them.

The bits of a message say how well the coder does; whether the model behind it is right shows only
where the symbols themselves stand beside its probabilities. So each evaluation counts them:

* Rank 0 counts, in the latents that it has decoded anyway. A device sends and computes nothing
  more, and the wire stays as it is. Evaluations are played at rank 0 in every placement.
* An evaluation is played by one published model, so that one set of tables has coded all of it.
* Of each agent all latent elements are pooled. Each sends one symbol a decision: what the tables
  expect is the mean of the elements' probabilities.
* An evaluation adds BINS rows an agent to the record, 28 bytes each, however long it is.

N agents, E environments, Z latent.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import numpy as np
from numpy.typing import NDArray

from sde_harl.codec.tables import TOTAL, Tables

EDGE = 16
"""The outermost bins hold all symbols that are this far from 0, or farther.

Latents that a rate is paid for keep within 10 or so; of others it is enough to know that they
don't."""
BINS = 2 * EDGE + 1
SYMBOLS: NDArray[np.int32] = np.arange(-EDGE, EDGE + 1, dtype=np.int32)
"""The symbol of each bin."""
TOGETHER = 64
"""Decisions that are counted together: numpy takes about as long for one as for many."""


class SymbolCounts:
    """Counts the symbols of what N agents sent, as one set of tables has coded it."""

    def __init__(self, tables: Sequence[Tables]) -> None:
        agents = len(tables)
        self.expected = np.array([_expected(each) for each in tables])
        """(N, BINS) the probability of each symbol by the tables."""
        self._sent = np.zeros((agents, BINS), np.int64)
        self._waiting: list[NDArray[Any]] = []
        sizes = [len(each.medians) for each in tables]
        self._medians = np.zeros((agents, 1, max(sizes)), np.float32)
        # Where each agent's bins begin. Elements that it doesn't send count for an agent that
        # there isn't.
        self._first = np.full((agents, 1, max(sizes)), agents * BINS)
        for agent, (size, each) in enumerate(zip(sizes, tables)):
            self._medians[agent, 0, :size] = each.medians
            self._first[agent, 0, :size] = agent * BINS

    @property
    def sent(self) -> NDArray[np.int64]:
        """(N, BINS) how often each symbol was sent."""
        self._count_waiting()
        return self._sent

    def add(self, latents: NDArray[Any], ages: NDArray[np.int32] | None) -> None:
        """Counts decoded latents (N, E, Z); those whose age (N, E) isn't 0 were sent before."""
        if ages is not None:
            self._count(latents, ages == 0)
            return
        # The caller's array holds the next decision's soon.
        self._waiting.append(latents.copy())
        if len(self._waiting) == TOGETHER:
            self._count_waiting()

    def _count_waiting(self) -> None:
        if self._waiting:
            self._count(np.concatenate(self._waiting, axis=1))
            self._waiting.clear()

    def _count(self, latents: NDArray[Any], chosen: NDArray[np.bool_] | None = None) -> None:
        """Counts latents (N, R, Z), all of them or those `chosen` (N, R)."""
        agents = len(self._sent)
        # A decoded latent is its symbol plus the median, but for a rounding error.
        symbols = np.clip(np.rint(latents - self._medians), -EDGE, EDGE).astype(np.int64)
        places = symbols + (self._first + EDGE)
        if chosen is not None:
            places = places[chosen]
        counts = np.bincount(places.ravel(), minlength=(agents + 1) * BINS)
        self._sent += counts[: agents * BINS].reshape(agents, BINS)


def _expected(tables: Tables) -> NDArray[np.float64]:
    """Returns (BINS,) the mean of the elements' probabilities of each symbol."""
    frequencies = np.diff(tables.cdf, axis=1)  # (C, L - 1)
    column = np.arange(frequencies.shape[1])
    escape = tables.lengths[:, None] - 2  # (C, 1), the column of the escape symbol
    symbols = np.clip(tables.offsets[:, None] + column, -EDGE, EDGE)
    is_symbol = column < escape
    expected = np.bincount(
        symbols[is_symbol] + EDGE, frequencies[is_symbol], minlength=BINS
    ).astype(np.float64)
    # The escape code is for what lies beyond either end of a table: here, for half of it each.
    escaped = np.take_along_axis(frequencies, escape, 1).sum()
    expected[[0, -1]] += escaped / 2
    return expected / (TOTAL * len(tables.lengths))
