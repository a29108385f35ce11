"""Entropy models with known densities, and latents for them."""

from __future__ import annotations

import numpy as np
import torch

from sde_harl.codec.entropy import LatentModel

AGENTS = 3
Z = 12


def trained_model(agents: int = AGENTS, latent: int = Z) -> LatentModel:
    """Returns a model whose densities differ in width and median, as do the rows of its tables."""
    torch.manual_seed(1)
    model = LatentModel(agents, latent)
    with torch.no_grad():
        bottleneck = model.bottleneck
        bottleneck.matrices[0] += torch.linspace(0, 3, agents * latent)[:, None, None]
        bottleneck.biases[0] += torch.linspace(-3, 3, agents * latent)[:, None, None]
        bottleneck._update_quantiles()
    return model


def latents(rows: int, scale: float = 3.0, seed: int = 0) -> np.ndarray:
    return (np.random.default_rng(seed).normal(size=(rows, Z)) * scale).astype(np.float32)


def rate_of(model: LatentModel, z: torch.Tensor, generator: torch.Generator) -> torch.Tensor:
    """Returns the mean bits per element of z (n, R, Z), with noise that `generator` draws."""
    rows = z.shape[1]
    return model.rate(z, model.noise(rows, generator), rows)
