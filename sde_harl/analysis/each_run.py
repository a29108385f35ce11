"""Computes something of each run, where a damaged record gives an error that names its file."""

from __future__ import annotations

from collections.abc import Callable, Iterable
from typing import TypeVar

import numpy as np

from sde_harl.errors import UserError
from sde_harl.record.reader import Run

T = TypeVar("T")
NONSENSE = (ArithmeticError, LookupError, MemoryError, TypeError, ValueError)
"""What Python and numpy raise for numbers that are right one by one and wrong together."""


def of_each(runs: Iterable[Run], find: Callable[[Run], T]) -> list[T]:
    """Returns what `find` finds in each run. Raises UserError as `of_run` does."""
    return [of_run(run, find) for run in runs]


def of_run(run: Run, find: Callable[[Run], T]) -> T:
    """Returns what `find` finds in a run. Raises UserError where its values make no sense together.

    The reader has checked each column by itself. What is left are such things as decisions of no
    environments, by whose number a sum is divided.
    """
    try:
        # NaN stands for what is unknown, also where it comes out of unknown numbers.
        with np.errstate(over="raise", divide="raise", invalid="ignore"):
            return find(run)
    except NONSENSE as error:
        raise UserError(f"{run.path}: its values make no sense: {error}") from error
