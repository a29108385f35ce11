"""Says how far scores over few seeds can be trusted: interquartile means, and intervals.

These are the measures of Agarwal et al., "Deep Reinforcement Learning at the Edge of the
Statistical Precipice" (NeurIPS 2021). The resampling is scipy's: within each task by itself, which
makes the bootstrap stratified. Scores are given by task, each an array (seeds,).
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Any, NamedTuple

import numpy as np
from scipy import stats

from sde_harl.record.schema import Array

RESAMPLES = 2000
BATCH = 200
"""Resamples that are held in memory together."""
CONFIDENCE = 0.95
CUT = 0.25
"""The share that an interquartile mean leaves out at each end."""
SEED = 0
"""Of the resampling, so that a report of the same runs says the same."""


class Interval(NamedTuple):
    """A value, or an array of values, and the ends of its 95 % interval."""

    value: Array
    low: Array
    high: Array


def iqm(scores: Sequence[Array]) -> Interval:
    """Returns the interquartile mean of scores (seeds, ...) of each task, along the first axis.

    Of fewer than four scores it is the mean. The ends are NaN where a task has one seed alone.
    """

    def mean(*samples: Array, axis: int) -> Array:
        joined: Array = stats.trim_mean(np.concatenate(samples, axis), CUT, axis=axis)
        return joined

    return _bootstrap(scores, mean)


def profile(scores: Sequence[Array], thresholds: Array) -> Interval:
    """Returns the share of runs whose score is above each threshold (K,), the mean over tasks."""

    def share(*samples: Array, axis: int) -> Array:
        above: Array = np.mean([each.mean(axis) for each in samples], axis=0)
        return above

    above = [(each[:, None] > thresholds).astype(float) for each in scores]  # (seeds, K)
    return _bootstrap(above, share)


def improvement(ours: Sequence[Array], theirs: Sequence[Array]) -> Interval:
    """Returns the probability that a run of ours beats one of theirs, the mean over tasks.

    An equal score counts half.
    """
    tasks = len(ours)

    def probability(*samples: Array, axis: int) -> Array:
        # The task's axis of seeds is moved to the end, where each pair is compared.
        moved = [np.moveaxis(each, axis, -1) for each in samples]
        wins = [_wins(x, y) for x, y in zip(moved[:tasks], moved[tasks:], strict=True)]
        mean: Array = np.mean(wins, axis=0)
        return mean

    return _bootstrap([*ours, *theirs], probability)


def _wins(x: Array, y: Array) -> Array:
    """x: (..., seeds of ours), y: (..., seeds of theirs); returns (...)."""
    apart = x[..., :, None] - y[..., None, :]
    wins: Array = (0.5 * (1 + np.sign(apart))).mean((-2, -1))
    return wins


def _bootstrap(samples: Sequence[Array], statistic: Callable[..., Any]) -> Interval:
    value = np.asarray(statistic(*samples, axis=0))
    # One seed can't be resampled: it says nothing about how far others would be from it.
    if any(len(each) < 2 for each in samples):
        unknown = np.full(value.shape, np.nan)
        return Interval(value=value, low=unknown, high=unknown)
    result = stats.bootstrap(
        tuple(samples),
        statistic,
        n_resamples=RESAMPLES,
        batch=BATCH,
        vectorized=True,
        axis=0,
        confidence_level=CONFIDENCE,
        method="percentile",
        random_state=np.random.default_rng(SEED),
    )
    ends = result.confidence_interval
    return Interval(value=value, low=np.asarray(ends.low), high=np.asarray(ends.high))
