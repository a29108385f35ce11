"""Generalised advantage estimation."""

from __future__ import annotations

import numpy as np


def compute_gae(
    *,
    rewards: np.ndarray,
    values: np.ndarray,
    final_values: np.ndarray,
    terminated: np.ndarray,
    truncated: np.ndarray,
    gamma: float,
    gae_lambda: float,
) -> np.ndarray:
    """Returns the advantages (V, T, E) float32 of Schulman et al. (ICLR 2016, eq. 16).

        delta_t = r_t + gamma V(s_t+1) - V(s_t)
        A_t     = delta_t + gamma lambda A_t+1

    rewards, terminated, truncated: (T, E). values: (V, T + 1, E). final_values: (V, T, E), read
    where truncated.
    """
    ended = terminated | truncated
    # An environment resets itself when an episode ends, so values[:, t + 1] belongs to the next
    # episode there. The value of the state behind an ended episode is 0 if it terminated. If it was
    # only cut by a time limit, it would have gone on, and its last state's value stands for the
    # rest (Pardo et al., ICML 2018).
    next_values = np.where(ended, np.where(truncated, final_values, 0.0), values[:, 1:])
    deltas = rewards + gamma * next_values - values[:, :-1]
    decay = np.where(ended, 0.0, gamma * gae_lambda)  # (T, E), 0 at an end: no advantage crosses it
    advantages = np.empty_like(deltas)
    running = np.zeros_like(deltas[:, 0])  # (V, E)
    for t in range(len(decay) - 1, -1, -1):
        running = deltas[:, t] + decay[t] * running
        advantages[:, t] = running
    return advantages.astype(np.float32)
