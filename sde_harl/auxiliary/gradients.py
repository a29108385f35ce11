"""A gradient's last check before an optimiser applies it."""

from __future__ import annotations

import math

from torch import Tensor

from sde_harl.errors import UserError


def check_gradient(norm: Tensor, what: str) -> None:
    """Raises UserError where the norm of a gradient isn't finite; `what` learns from it.

    One step with such a gradient would make every weight NaN.
    """
    value = float(norm)
    if not math.isfinite(value):
        raise UserError(
            f"learning has become unstable: the gradient of {what} is {value:g} "
            "(a smaller algo.lr may help)"
        )
