"""Compares states of a run's parts, as `state_dict` returns them."""

from __future__ import annotations

import torch

from sde_harl.record.checkpoint import State, flatten


def differing(one: State, other: State) -> list[str]:
    """Returns the full names of values that only one has, or that differ in any bit."""
    first, second = flatten(one), flatten(other)
    names = sorted(first.keys() | second.keys())
    return [name for name in names if not _equal(first.get(name), second.get(name))]


def _equal(one: object, other: object) -> bool:
    if isinstance(one, torch.Tensor) and isinstance(other, torch.Tensor):
        return one.dtype == other.dtype and torch.equal(one, other)
    return type(one) is type(other) and one == other
