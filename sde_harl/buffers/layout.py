"""Arrays that lie one behind another in one piece of memory, so that they travel as one message."""

from __future__ import annotations

from collections.abc import Mapping
from math import prod
from typing import Any, NamedTuple

import numpy as np
from numpy.typing import NDArray

ALIGNMENT = 4
"""Bytes of the largest number: every array begins at a multiple of it."""


class Field(NamedTuple):
    """Describes one array."""

    dtype: str
    shape: tuple[int, ...]

    @property
    def size(self) -> int:
        """Returns the number of its elements."""
        return prod(self.shape)

    def num_bytes(self) -> int:
        """Returns its size, rounded up so that the array behind it is aligned."""
        size = np.dtype(self.dtype).itemsize * self.size
        return -(-size // ALIGNMENT) * ALIGNMENT


def bytes_of(fields: Mapping[str, Field]) -> int:
    """Returns the bytes of all arrays together."""
    return sum(field.num_bytes() for field in fields.values())


def lay_out(fields: Mapping[str, Field], memory: memoryview) -> dict[str, NDArray[Any]]:
    """Returns the arrays as views of `memory`, which is `bytes_of(fields)` long."""
    arrays: dict[str, NDArray[Any]] = {}
    offset = 0
    for name, field in fields.items():
        arrays[name] = np.ndarray(field.shape, field.dtype, memory, offset)
        offset += field.num_bytes()
    return arrays
