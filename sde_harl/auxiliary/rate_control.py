"""Lambda, the weight of the rate in the loss, update by update."""

from __future__ import annotations

from collections.abc import Mapping

from sde_harl.config.field_types import LARGEST
from sde_harl.config.schema import CodecConfig

GAIN = 0.05
"""The gain of the controller's integral part, per update.

It is small because nets follow lambda only within tens of updates.
"""
BRAKE = 8.0
"""How fast lambda gives way while the bytes are below the target, as an exponent.

Latents that have shrunk grow again only if the return asks for it. The integral part alone would
hold them down for tens of updates more.
"""
LEAST_COEF = 1e-6
MOST_COEF = 1.0
"""Bounds of a controlled lambda.

At the upper one the rate outweighs any return: a target that isn't reached there never is.
"""


class RateControl:
    """Gives lambda: it warms up from 0 and then is `rate_coef`, or the value that brings the bytes
    sent to a target.

    The latter is integral control of log lambda. Every update multiplies lambda by (bytes / target)
    ** GAIN; and, only for that update, by (bytes / target) ** BRAKE while the bytes are below the
    target. If the bytes followed lambda at once, as c * lambda ** -k, then log(bytes / target)
    would shrink by the factor 1 - GAIN * k an update, whatever c. Bytes are those of payloads as
    sent: they include the coder's own overhead, which the symbols then make up for.
    """

    def __init__(self, codec: CodecConfig) -> None:
        self._warmup = codec.rate_warmup
        self._target = codec.target_bytes
        self._coef = codec.rate_coef

    def next(self, progress: float, sent: float) -> float:
        """Returns lambda of the next update.

        progress: of the run before the rollout just played, 0 to below 1. sent: bytes per decision
        of that rollout.
        """
        if progress < self._warmup:
            # Nothing is controlled yet: bytes that a small lambda can't hold down would drive the
            # integral up.
            return self._coef * progress / self._warmup
        if not self._target or sent <= 0:
            return self._coef
        excess = sent / self._target
        self._coef = _bounded(self._coef * excess**GAIN)
        # Not stored: the brake must not wind up the integral.
        return _bounded(self._coef * min(excess, 1.0) ** BRAKE)

    def state_dict(self) -> dict[str, float]:
        """Returns the integral, which is lambda without the brake."""
        return {"coef": self._coef}

    def load_state_dict(self, state: Mapping[str, float]) -> None:
        """Takes over what `state_dict` returned.

        Raises ValueError for a number that it never returns.
        """
        coef = float(state["coef"])
        if not 0 <= coef <= LARGEST:
            raise ValueError(f"coef: expected a number from 0 to {LARGEST:g}, got {coef}")
        self._coef = coef


def _bounded(coef: float) -> float:
    return min(max(coef, LEAST_COEF), MOST_COEF)
