"""The rate in a policy's loss, and the entropy model's own training, of one role group.

n agents, B rows, Z latent.
"""

from __future__ import annotations

import torch
from torch import Tensor

from sde_harl.codec.entropy import LatentModel
from sde_harl.config import CodecConfig


class RateTrainer:
    """An entropy model with its two optimisers: of its densities, which the rate trains, and of its quantiles."""

    def __init__(self, model: LatentModel, codec: CodecConfig) -> None:
        self._model, self._rows = model, codec.rate_rows
        self._density = torch.optim.Adam(model.density_parameters(), codec.lr, fused=True)
        self._quantiles = torch.optim.Adam(model.quantile_parameters(), codec.aux_lr, fused=True)

    def rate(self, latents: Tensor, generator: torch.Generator) -> Tensor:
        """Bits per latent element on a random sample of rows of `latents` (n, B, Z).

        The gradient stays unbiased and costs a fraction of the policy's.
        """
        rows = torch.randint(latents.shape[1], (self._rows,), generator=generator)
        return self._model.rate(latents[:, rows], generator)

    def step(self) -> None:
        """Step the densities by the gradient that a rate has left in them, and the quantiles by their own loss."""
        self._density.step()
        self._quantiles.zero_grad()
        self._model.aux_loss().backward()
        self._quantiles.step()
