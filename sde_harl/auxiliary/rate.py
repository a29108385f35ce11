"""The rate in a policy's loss, and the training of the entropy model that gives it, for one role
group.

n agents, B rows, R of them, Z latent.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any, NamedTuple

import torch
from torch import Tensor

from sde_harl.auxiliary.optimizer_state import load_optimizer_state, optimizer_state
from sde_harl.auxiliary.peers import Part
from sde_harl.codec.entropy import LatentModel
from sde_harl.config.schema import CodecConfig

MEDIAN_STEP = 0.05
"""The most that a median moves in an update, in quantisation steps."""


class RateSample(NamedTuple):
    """Random rows that a rate is estimated on, and the noise that rounds their latents."""

    rows: Tensor
    """(R,), numbers of the rows."""
    noise: Tensor
    """(n, R, Z)."""
    drawn: int
    """R of all learners, of which this sample may have a share."""

    def of(self, part: Part | None) -> RateSample:
        """Returns the rows that lie in a learner's part of all rows; None is all of them."""
        if part is None:
            return self
        own = (self.rows >= part.rows.start) & (self.rows < part.rows.stop)
        rows = self.rows[own] - part.rows.start
        return self._replace(rows=rows, noise=self.noise[:, own])


class RateTrainer:
    """An entropy model with the optimiser of its densities."""

    def __init__(self, model: LatentModel, codec: CodecConfig) -> None:
        self._model = model
        self._rows = codec.rate_rows
        self._optimizer = torch.optim.Adam(model.density_parameters(), codec.lr, fused=True)

    def sample(self, rows: int, generator: torch.Generator) -> RateSample:
        """Draws which of B = `rows` rows the rate is estimated on, and the noise.

        The gradient of a sample is unbiased, and costs a fraction of the policy's.
        """
        return RateSample(
            rows=torch.randint(rows, (self._rows,), generator=generator),
            noise=self._model.noise(self._rows, generator),
            drawn=self._rows,
        )

    def rate(self, latents: Tensor, sample: RateSample) -> Tensor:
        """Returns the bits per latent element (scalar) on a sample of the rows of `latents` (n, B,
        Z).

        Of a share of the sample it is the share's part of the mean.
        """
        return self._model.rate(latents[:, sample.rows], sample.noise, sample.drawn)

    def step(self) -> None:
        """Steps the densities by the gradient that the backward pass of a rate has left in them."""
        self._optimizer.step()

    def settle(self) -> None:
        """Moves quantiles and medians to where the densities are now.

        To be called once an update, after its last `step`: latents are rounded to the medians, so
        the policy changes.
        """
        self._model.settle(MEDIAN_STEP)

    def state_dict(self) -> dict[str, Any]:
        """Returns the optimiser's state; the model's own is part of the policy's."""
        return {"optimizer": optimizer_state(self._optimizer)}

    def load_state_dict(self, state: Mapping[str, Any]) -> None:
        """Takes over what `state_dict` returned."""
        load_optimizer_state(self._optimizer, state["optimizer"])
