"""The mathematics of trust-region steps on flat vectors: Fisher-vector products and conjugate
gradients.

P parameters.
"""

from __future__ import annotations

from collections.abc import Callable

import torch
from torch import Tensor, nn

from sde_harl.auxiliary.peers import ALONE, Peers

Product = Callable[[Tensor], Tensor]
"""A symmetric matrix (P, P), too large to hold, as a function: its product with a vector (P,)."""


def flat_gradient(
    value: Tensor, parameters: list[nn.Parameter], create_graph: bool = False
) -> Tensor:
    """Returns the gradient (P,) of a scalar in all parameters, and keeps the graph."""
    parts = torch.autograd.grad(value, parameters, retain_graph=True, create_graph=create_graph)
    return torch.cat([part.reshape(-1) for part in parts])


def fisher_product(
    kl: Tensor, parameters: list[nn.Parameter], damping: float, peers: Peers = ALONE
) -> Product:
    """Returns v -> (F + damping I) v, where F is the Hessian of the sum of the peers' `kl`.

    At the old policy the Hessian of the mean KL(old || new) is the Fisher matrix. F v is the
    gradient of (gradient of kl)^T v (Pearlmutter, Neural Computation 6(1), 1994).
    """
    # Built once for all products: each then costs one backward pass through this gradient's own
    # graph.
    gradient = flat_gradient(kl, parameters, create_graph=True)

    def product(vector: Tensor) -> Tensor:
        image = flat_gradient(gradient @ vector, parameters)
        peers.sum([image])
        return image + damping * vector

    return product


def conjugate_gradient(
    product: Product, target: Tensor, steps: int, tolerance: float = 1e-10
) -> Tensor:
    """Returns x with product(x) close to target (Hestenes and Stiefel, 1952)."""
    x = torch.zeros_like(target)
    residual = target.clone()  # target - product(x)
    direction = target.clone()
    norm = target @ target  # of the residual, squared
    for _ in range(steps):
        if norm < tolerance:
            break
        image = product(direction)
        length = norm / (direction @ image)
        x += length * direction
        residual -= length * image
        previous = norm
        norm = residual @ residual
        direction = residual + norm / previous * direction
    return x
