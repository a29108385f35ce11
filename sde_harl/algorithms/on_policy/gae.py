"""Generalised advantage estimation."""

from __future__ import annotations

import numpy as np
from numpy.typing import NDArray


def compute_gae(
    *,
    rewards: NDArray[np.float32],
    values: NDArray[np.float32],
    final_values: NDArray[np.float32],
    terminated: NDArray[np.bool_],
    truncated: NDArray[np.bool_],
    gamma: float,
    gae_lambda: float,
) -> NDArray[np.float32]:
    """Returns the advantages (V, T, E) float32 of Schulman et al. (ICLR 2016, eq. 16).

        delta_t = r_t + gamma V(s_t+1) - V(s_t)
        A_t     = delta_t + gamma lambda A_t+1

    rewards, terminated, truncated: (T, E). values: (V, T + 1, E). final_values: (V, T, E), read
    where truncated.
    """
    ended = terminated | truncated
    # An environment resets itself when an episode ends, so values[:, t + 1] belongs to the next
    # episode there. The value of the state behind an ended episode is 0 if it terminated. If it was
    # only cut by a time limit, it would have gone on, and the value of its last state replaces the
    # rest (Pardo et al., ICML 2018).
    next_values = np.where(ended, np.where(truncated, final_values, 0.0), values[:, 1:])
    deltas = rewards + gamma * next_values - values[:, :-1]
    decay = np.where(ended, 0.0, gamma * gae_lambda)  # (T, E), 0 at an end: no advantage crosses it
    advantages = np.empty(deltas.shape, np.float32)
    running = np.zeros_like(deltas[:, 0])  # (V, E)
    for t in range(len(decay) - 1, -1, -1):
        running = deltas[:, t] + decay[t] * running
        advantages[:, t] = running
    return advantages
