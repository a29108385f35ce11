"""Sums up numbers of which some are unknown (NaN): mean and range, and quantiles."""

from __future__ import annotations

import math
from collections.abc import Iterable
from dataclasses import dataclass

import numpy as np

from sde_harl.record.schema import Array

QUANTILES = (50, 95, 99)


@dataclass(frozen=True, kw_only=True)
class Spread:
    """Holds a mean of a figure over several runs, and its range or interval; NaN: unknown."""

    mean: float
    low: float
    high: float

    def shown(self, form: str) -> str:
        """Returns "mean (low to high)", or the mean alone where these are equal or unknown."""
        if math.isnan(self.mean):
            return "-"
        mean = format(self.mean, form)
        low = format(self.low, form)
        high = format(self.high, form)
        # Compared as text: a range that rounds to one number tells the reader nothing.
        if low == high or math.isnan(self.low):
            return mean
        return f"{mean} ({low} to {high})"


def spread(values: Iterable[float]) -> Spread:
    """Returns mean and range of the values that are known."""
    known = [value for value in values if not math.isnan(value)]
    if not known:
        return Spread(mean=math.nan, low=math.nan, high=math.nan)
    return Spread(mean=float(np.mean(known)), low=min(known), high=max(known))


@dataclass(frozen=True, kw_only=True)
class Quantiles:
    """Holds quantiles of a time over messages, in microseconds; NaN where none was measured."""

    p50: float
    p95: float
    p99: float
    unknown: int  # messages without a measurement, left out


def quantiles(values: Array) -> Quantiles:
    """Returns the quantiles of the values (K,) that are known."""
    measured = values[~np.isnan(values)]
    unknown = len(values) - len(measured)
    if not len(measured):
        return Quantiles(p50=math.nan, p95=math.nan, p99=math.nan, unknown=unknown)
    p50, p95, p99 = np.percentile(measured, QUANTILES)
    return Quantiles(p50=float(p50), p95=float(p95), p99=float(p99), unknown=unknown)
