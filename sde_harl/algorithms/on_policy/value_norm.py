"""Value normalisation: the critic predicts returns in units of their own running deviation."""

from __future__ import annotations

from collections.abc import Mapping

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor


class ValueNorm:
    """Tracks the mean and variance of returns.

    This is PopArt without its correction of the output layer (Yu et al., NeurIPS 2022).
    """

    def __init__(
        self, enabled: bool = True, beta: float = 0.99999, *, by_rows: bool = True
    ) -> None:
        """Starts with no data. A disabled one always reports mean 0 and deviation 1.

        `by_rows`: a batch counts for all its rows, so that the statistics move with the data and
        not with the number of calls. Else it counts once: rows of a replay, which come again and
        again, are no new data.
        """
        self._enabled = enabled
        self._beta = beta
        self._by_rows = by_rows
        # Exponentially decayed sums: of returns, of their squares, and of ones. The last is the
        # weight that the other two are divided by, which corrects their bias towards the initial 0,
        # as Adam does with its moments.
        self._moments = np.zeros(3)

    def update(self, returns: NDArray[np.float32]) -> None:
        """Takes in a batch of returns of any shape."""
        mean = returns.mean(dtype=np.float64)
        mean_square = np.square(returns, dtype=np.float64).mean()
        batch = np.array([mean, mean_square, 1.0])
        # HARL calls this once a minibatch and decays by beta whatever its size.
        weight = self._beta ** (returns.size if self._by_rows else 1)
        self._moments = weight * self._moments + (1.0 - weight) * batch

    def statistics(self) -> tuple[float, float]:
        """Returns mean and standard deviation of the returns so far; 0 and 1 before any."""
        total, total_squares, weight = self._moments
        if not self._enabled or not weight:
            return 0.0, 1.0
        mean = total / weight
        variance = total_squares / weight - mean**2
        # The floor keeps the division by the deviation harmless while all returns are alike.
        return mean, max(variance, 1e-4) ** 0.5

    def state_dict(self) -> dict[str, Tensor]:
        """Returns the decayed sums, (3,) float64."""
        return {"moments": torch.from_numpy(self._moments.copy())}

    def load_state_dict(self, state: Mapping[str, Tensor]) -> None:
        """Takes over what `state_dict` returned."""
        self._moments = state["moments"].numpy().astype(np.float64)
