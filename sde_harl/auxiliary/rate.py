"""The rate in a policy's loss, its weight lambda, and the entropy model's own training, of one role group.

n agents, B rows, Z latent.
"""

from __future__ import annotations

import torch
from torch import Tensor

from sde_harl.codec.entropy import LatentModel
from sde_harl.config.schema import CodecConfig


class RateTrainer:
    """An entropy model with the optimiser of its densities."""

    def __init__(self, model: LatentModel, codec: CodecConfig) -> None:
        self._model, self._rows = model, codec.rate_rows
        self._optimizer = torch.optim.Adam(model.density_parameters(), codec.lr, fused=True)

    def rate(self, latents: Tensor, generator: torch.Generator) -> Tensor:
        """Bits per latent element on a random sample of rows of `latents` (n, B, Z).

        The gradient stays unbiased and costs a fraction of the policy's.
        """
        rows = torch.randint(latents.shape[1], (self._rows,), generator=generator)
        return self._model.rate(latents[:, rows], generator)

    def step(self) -> None:
        """Step the densities by the gradient that a rate has left in them."""
        self._optimizer.step()

    def settle(self) -> None:
        """To be called when the densities have been stepped for good: quantiles and medians move with them."""
        self._model.settle(MEDIAN_STEP)


MEDIAN_STEP = 0.05
"""What a median moves in an update at most, in quantisation steps."""

GAIN = 0.05
"""Of the controller's integral part, an update: nets follow lambda within tens of updates."""
BRAKE = 8.0
"""How hard lambda gives way below the target. Latents that have shrunk grow again only if the return asks for it: there
the integral alone would press on for tens of updates."""
LEAST_COEF, MOST_COEF = 1e-6, 1.0
"""Where a steered lambda stays: at the top the rate outweighs any return, and a target not reached there never is."""


class RateControl:
    """Lambda, update by update: it warms up from 0, then is `rate_coef`, or what brings the bytes sent to a target.

    The latter is integral control of log lambda: an update multiplies it by (bytes / target) ** GAIN, and, while bytes
    are below the target, for the time being by (bytes / target) ** BRAKE. Where bytes above it follow lambda at once,
    as c * lambda ** -k, log(bytes / target) shrinks by the factor 1 - GAIN * k an update, whatever c. The bytes are a
    payload's as sent: the coder's own overhead is in them, and the symbols make up for it.
    """

    def __init__(self, codec: CodecConfig) -> None:
        self._warmup, self._target, self._coef = (
            codec.rate_warmup,
            codec.target_bytes,
            codec.rate_coef,
        )

    def next(self, progress: float, sent: float) -> float:
        """Lambda of an update at `progress` in [0, 1] of the run; `sent`, bytes a decision of the rollout before it.

        While it warms up nothing is steered: bytes that lambda is not yet there to hold down would drive it up.
        """
        if progress < self._warmup:
            return self._coef * progress / self._warmup
        if not self._target or sent <= 0:
            return self._coef
        excess = sent / self._target
        self._coef = _bounded(self._coef * excess**GAIN)
        return _bounded(self._coef * min(excess, 1.0) ** BRAKE)


def _bounded(coef: float) -> float:
    return min(max(coef, LEAST_COEF), MOST_COEF)
