"""A block of the nets in torch: a matrix product, and what blocks.c makes of it.

n agents, k sets of parameters (n, or 1 where they are shared), B rows, I inputs, W width.
"""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor
from torch.nn import functional

from sde_harl.policy.inference import _blocks
from sde_harl.policy.inference.local_nets import NORM_EPS


def block(x: Tensor, weight: Tensor, bias: Tensor, layer_norm: bool) -> Tensor:
    """x (n, B, I) times weight (k, I, W) plus bias (k, 1, W), ReLU, layer normalisation if asked: (n, B, W).

    HARL's normalisation has a gain and a shift of its own; here the next layer has both.
    """
    products = torch.bmm(x, weight.expand(len(x), -1, -1))
    if products.dtype is torch.float32:
        activated: Tensor = _Activation.apply(products, bias, layer_norm)[0]
        return activated
    y = torch.relu(products + bias)  # in float64, for a closer look at gradients
    return functional.layer_norm(y, y.shape[-1:], eps=NORM_EPS) if layer_norm else y


class _Activation(torch.autograd.Function):
    """All of a block but its product (n, B, W), which this overwrites, as it does the gradient that comes back.

    The factor by which each row was normalised is an output too, so that gradients can be differentiated, which a trust
    region needs.
    """

    @staticmethod
    def forward(ctx: Any, x: Tensor, bias: Tensor, layer_norm: bool) -> tuple[Tensor, Tensor]:
        stats = torch.empty(
            *x.shape[:2], 2 if layer_norm else 0
        )  # what 0 has become, and the factor
        told = (NORM_EPS, stats.numpy()) if layer_norm else (None, None)
        _blocks.activate(x.detach().numpy(), bias.detach().contiguous().numpy(), *told)
        factor = stats[..., 1:]
        ctx.mark_dirty(x)
        ctx.save_for_backward(x, bias, stats, factor)
        ctx.set_materialize_grads(False)
        return x, factor

    @staticmethod
    def backward(ctx: Any, *gradients: Tensor | None) -> tuple[Tensor, Tensor, None]:
        y, bias, stats, factor = ctx.saved_tensors
        of_y, of_factor = gradients
        if of_y is None or of_factor is not None or torch.is_grad_enabled():
            of_x = _differentiable(y, stats, factor, of_y, of_factor)
            return of_x, of_x.sum_to_size(bias.shape), None
        # Written over what came from the next layer's product, which is nobody else's: one array less to go through.
        of_x, of_bias = of_y.contiguous(), torch.zeros_like(bias)
        known = stats.numpy() if stats.numel() else None
        _blocks.gradients(of_x.numpy(), y.numpy(), known, of_bias.numpy())
        return of_x, of_bias, None


def _differentiable(
    y: Tensor, stats: Tensor, factor: Tensor, of_y: Tensor | None, of_factor: Tensor | None
) -> Tensor:
    """The gradient of the product, with a graph of its own."""
    result = torch.zeros_like(y) if of_y is None else of_y
    if not stats.numel():
        return result * (y > 0)
    result = (
        result - result.mean(-1, keepdim=True) - y * (result * y).mean(-1, keepdim=True)
    ) * factor
    if of_factor is not None:
        result = result - of_factor * factor.square() * y / y.shape[-1]
    return result * (y > stats[..., :1])
