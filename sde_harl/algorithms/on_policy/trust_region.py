"""The mathematics of trust-region steps on flat vectors: Fisher-vector products and conjugate gradients."""

from __future__ import annotations

from collections.abc import Callable

import torch
from torch import Tensor, nn

Product = Callable[[Tensor], Tensor]
"""A symmetric matrix as what it makes of a vector."""


def flat_gradient(
    value: Tensor, parameters: list[nn.Parameter], create_graph: bool = False
) -> Tensor:
    """Gradient of a scalar in all parameters as one vector; the graph is kept."""
    parts = torch.autograd.grad(value, parameters, retain_graph=True, create_graph=create_graph)
    return torch.cat([part.reshape(-1) for part in parts])


def fisher_product(kl: Tensor, parameters: list[nn.Parameter], damping: float) -> Product:
    """v -> (F + damping I) v, where F is the Hessian of `kl` (Pearlmutter, Neural Computation 6(1), 1994).

    At the old policy the Hessian of the mean KL(old || new) is the Fisher matrix. The gradient's graph is built once:
    a product costs one backward pass through it.
    """
    gradient = flat_gradient(kl, parameters, create_graph=True)
    return lambda vector: flat_gradient(gradient @ vector, parameters) + damping * vector


def conjugate_gradient(
    product: Product, target: Tensor, steps: int, tolerance: float = 1e-10
) -> Tensor:
    """x with product(x) = target, nearly (Hestenes and Stiefel, 1952), in at most `steps` products."""
    x = torch.zeros_like(target)
    residual, direction, norm = target.clone(), target.clone(), target @ target
    for _ in range(steps):
        if norm < tolerance:
            break
        image = product(direction)
        length = norm / (direction @ image)
        x += length * direction
        residual -= length * image
        norm, before = residual @ residual, norm
        direction = residual + norm / before * direction
    return x
