"""Reduces a rollout's or an evaluation's episodes and decisions to the scalars that are logged.

N agents, K decisions of a slot.
"""

from __future__ import annotations

import math
from collections.abc import Mapping
from typing import Any

import numpy as np
from numpy.typing import NDArray

from sde_harl.server.decision_log import Decisions
from sde_harl.training.episodes import Episodes


def summarise_episodes(episodes: Episodes) -> dict[str, float]:
    """Returns means over episodes; NaN without any, and for a game that can't be won."""
    return {
        "return": _mean(episodes.returns),
        "length": _mean(episodes.length),
        "win_rate": _mean(episodes.won[episodes.won >= 0]),
    }


def summarise_link(decisions: Decisions, latent_sizes: NDArray[Any]) -> dict[str, float]:
    """Returns what crossed the link, and what came too late.

    bytes_per_decision: payload for one decision of one agent. bits_per_element: for an element of a
    latent by the entropy model; NaN where the codec has none. link/missed, /idle, /fallback: shares
    of the decisions whose latents came too late, in which the agent did nothing, and in which its
    fallback head acted. link/late: late messages. latent_sizes: (N,) elements of a latent.
    """
    agents = decisions.payload_bytes.shape[1]
    # At least 1: without a decision the shares are 0, not the result of a division by 0.
    made = max(int(decisions.environments.sum()) * agents, 1)
    return {
        "bytes_per_decision": decisions.bytes_per_decision(),
        "bits_per_element": _bits_per_element(decisions, latent_sizes),
        "link/missed": float(decisions.missed.sum() / made),
        "link/idle": float(decisions.idle.sum() / made),
        "link/fallback": float(decisions.fallback.sum() / made),
        "link/late": float(decisions.late.sum()),
    }


def result_line(means: Mapping[str, float], decisions: Decisions, float32_bytes: float) -> str:
    """Returns what an evaluation, or a rollout, came to, in one line.

    means: as `summarise_episodes` and `summarise_link` return them together. float32_bytes: of a
    latent, sent as it is; 0 where none is sent. What is unknown is left out.
    """
    parts = []
    if not math.isnan(means["win_rate"]):
        parts.append(f"{means['win_rate']:.1%} won")
    elif not math.isnan(means["return"]):
        parts.append(f"return {means['return']:.2f}")
    sent = means["bytes_per_decision"]
    if sent > 0:
        parts.append(f"{sent:.1f} bytes/decision")
    if sent > 0 and float32_bytes > 0:
        parts.append(f"{float32_bytes / sent:.1f} times less than float32")
    milliseconds = _message_ms(decisions)
    if not math.isnan(milliseconds):
        parts.append(f"{milliseconds:.2f} ms a message")
    return " · ".join(parts)


def _message_ms(decisions: Decisions) -> float:
    """Returns the median time of a message, from the observation at the device to the action."""
    local, encode, round_trip = np.moveaxis(decisions.device_ns.astype(np.float64), -1, 0)
    # A device that decides by itself encodes nothing and waits for no answer.
    whole = np.where(round_trip > 0, local + encode + round_trip, local)[local > 0]
    if not len(whole):
        return math.nan
    return float(np.median(whole)) / 1e6


def _bits_per_element(decisions: Decisions, latent_sizes: NDArray[Any]) -> float:
    # Only decisions that were answered in time: the ideal bits of a late answer are not known.
    answered = decisions.answers > decisions.late
    ideal_bits = decisions.ideal_bits[answered]
    if (ideal_bits < 0).any():
        return math.nan
    elements = (decisions.environments[:, None] * latent_sizes)[answered].sum()
    return float(ideal_bits.sum() / max(elements, 1))


def _mean(values: NDArray[Any]) -> float:
    if not len(values):
        return math.nan
    return float(values.mean())
