"""Collects the scalars of the updates that follow one rollout."""

from __future__ import annotations

import math

import torch
from torch import Tensor


class Reports:
    """Scalars of updates; those that there were none of are NaN, under the same names."""

    def __init__(self, names: tuple[str, ...]) -> None:
        """`names` of what groups report."""
        self._groups: dict[str, list[Tensor]] = {name: [] for name in names}
        self._losses: list[Tensor] = []
        self._ages: list[float] = []

    def update(self, loss: Tensor, age: float) -> None:
        """Takes the critics' loss in an update, and the mean age of its rows in steps."""
        self._losses.append(loss)
        self._ages.append(age)

    def group(self, report: dict[str, Tensor]) -> None:
        """Takes what a group reports."""
        for name, values in self._groups.items():
            values.append(report[name])

    def means(self) -> dict[str, float]:
        """Returns the means of all of them, and how many updates there were."""
        return {
            **{name: _mean(values) for name, values in self._groups.items()},
            "value_loss": _mean(self._losses),
            "replay_age": sum(self._ages) / len(self._ages) if self._ages else math.nan,
            "updates": float(len(self._losses)),
        }


def _mean(values: list[Tensor]) -> float:
    if not values:
        return math.nan
    return float(torch.stack(values).mean())
