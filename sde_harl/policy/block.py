"""Blocks of the nets in torch: a matrix product, and all else of it in one pass by blocks.c.

Bias, ReLU and normalisation are four operations of torch, each of which reads and writes all of the
array; blocks.c does them in one pass. Its gradient is written by hand, too.

A block computes in the type of its input: float32, or bfloat16, whose products take half the time
on processors that have them. Parameters are float32 in any case, and so are their gradients' sums.

n agents, k sets of parameters (n, or 1 where they are shared), B rows, I inputs, W width, A numbers
that a net puts out.
"""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor
from torch.nn import functional

from sde_harl.policy.inference import _blocks
from sde_harl.policy.inference.local_nets import NORM_EPS
from sde_harl.policy.layers import affine

FAST = (torch.float32, torch.bfloat16)
"""The types that blocks.c computes in."""


def block(x: Tensor, weight: Tensor, bias: Tensor, *, layer_norm: bool) -> Tensor:
    """Returns a block (n, B, W) of x (n, B, I): linear layer, ReLU, layer normalisation if asked.

    weight (k, I, W), bias (k, 1, W). HARL's normalisation has a gain and a shift of its own; here
    the linear layer behind it has both.
    """
    # A no-op where the types are equal.
    weights = weight.to(x.dtype).expand(len(x), -1, -1)
    return activate(torch.bmm(x, weights), bias, layer_norm=layer_norm)


def activate(products: Tensor, bias: Tensor, *, layer_norm: bool) -> Tensor:
    """Returns what follows the product (n, B, W) in a block, in the product's own memory."""
    if products.dtype in FAST and products.is_cpu:
        activated: Tensor = _Activation.apply(  # type: ignore[no-untyped-call]  # torch's
            products, bias, layer_norm
        )[0]
        return activated
    # blocks.c computes on the host, and not in float64, which is for tests: they check gradients by
    # differences.
    y = torch.relu(products + bias.to(products.dtype))
    if layer_norm:
        return functional.layer_norm(y, y.shape[-1:], eps=NORM_EPS)
    return y


def last_layer(x: Tensor, weight: Tensor, bias: Tensor) -> Tensor:
    """Returns (n, B, A), what a net's last layer makes of its last block x (n, B, W).

    weight (k, W, A), bias (k, 1, A), of the parameters' type as the result.
    """
    if x.dtype not in FAST or not x.is_cpu or weight.shape[-1] > _blocks.FEW_OUTPUTS:
        return affine(x.to(bias.dtype), weight, bias)
    n = len(x)
    # Contiguous out here, for autograd to see it: `backward` may be differentiated.
    result: Tensor = _LastLayer.apply(  # type: ignore[no-untyped-call]  # torch's
        x.contiguous(), weight.expand(n, -1, -1), bias.expand(n, -1, -1)
    )
    return result


def activate_in_place(x: Tensor, bias: Tensor, *, layer_norm: bool) -> Tensor:
    """Overwrites products x (n, B, W) with the block's output; returns statistics of each row.

    They are (n, B, 2): the value that a 0 has become by the normalisation, which tells the backward
    pass where the ReLU was closed, and the row's factor. (n, B, 0) without normalisation.
    """
    stats = torch.empty(*x.shape[:2], 2 if layer_norm else 0)
    biases = bias.detach().contiguous().numpy()
    if layer_norm:
        _blocks.activate(numbers(x.detach()), biases, NORM_EPS, stats.numpy())
    else:
        _blocks.activate(numbers(x.detach()), biases, None, None)
    return stats


class _Activation(torch.autograd.Function):
    """Everything of a block but its product.

    It overwrites the product (n, B, W) with the block's output, and in the backward pass the
    gradient of the output with that of the product. The factor that each row was multiplied by in
    the normalisation is a second output, so that gradients can be differentiated again: HATRPO's
    trust region needs second derivatives.
    """

    @staticmethod
    def forward(ctx: Any, x: Tensor, bias: Tensor, layer_norm: bool) -> tuple[Tensor, Tensor]:
        """Returns y (n, B, W), in the memory of x, and the factor (n, B, 1), empty without norm."""
        stats = activate_in_place(x, bias, layer_norm=layer_norm)
        factor = stats[..., 1:]
        ctx.mark_dirty(x)  # autograd has to know that the product is no more
        ctx.save_for_backward(x, bias, stats, factor)
        ctx.set_materialize_grads(False)  # no zeros for the factor, which seldom has a gradient
        return x, factor

    @staticmethod
    def backward(ctx: Any, *gradients: Tensor | None) -> tuple[Tensor, Tensor, None]:
        """Returns the gradients of the product and of the bias."""
        y, bias, stats, factor = ctx.saved_tensors
        of_y, of_factor = gradients
        if of_y is None or of_factor is not None or torch.is_grad_enabled():
            of_x = _differentiable(y=y, stats=stats, factor=factor, of_y=of_y, of_factor=of_factor)
            return of_x, of_x.sum_to_size(bias.shape), None
        # Written over the gradient of y, which the next layer's product has made and no other code
        # holds: one array less to read and write.
        of_x = of_y.contiguous()
        of_bias = torch.zeros_like(bias)
        rows = stats.numpy() if stats.numel() else None
        _blocks.gradients(numbers(of_x), numbers(y), rows, of_bias.numpy())
        return of_x, of_bias, None


class _LastLayer(torch.autograd.Function):
    """A layer of few outputs, as one pass over its input: a product of a matrix with so few columns
    takes longer, and bfloat16 would have to become float32 first."""

    @staticmethod
    def forward(ctx: Any, x: Tensor, weight: Tensor, bias: Tensor) -> Tensor:
        """Returns (n, B, A) of x (n, B, W), weight (n, W, A) and bias (n, 1, A)."""
        rows = weight.mT.contiguous()
        result = torch.empty(*x.shape[:2], weight.shape[-1])
        biases = bias.detach().contiguous().numpy()
        _blocks.outputs(numbers(x.detach()), rows.detach().numpy(), biases, result.numpy())
        ctx.save_for_backward(x, weight, rows)
        return result

    @staticmethod
    def backward(ctx: Any, of_y: Tensor) -> tuple[Tensor, Tensor | None, Tensor | None]:
        """Returns the gradients of x, the weight and the bias."""
        x, weight, rows = ctx.saved_tensors
        if torch.is_grad_enabled():  # these gradients will be differentiated themselves
            of_x = torch.bmm(of_y, weight.mT).to(x.dtype)
            return of_x, torch.bmm(x.to(of_y.dtype).mT, of_y), of_y.sum(1, keepdim=True)
        of_x, of_y = torch.empty_like(x), of_y.contiguous()
        given = of_y.numpy(), numbers(x), rows.numpy(), numbers(of_x)
        if not any(ctx.needs_input_grad[1:]):
            _blocks.output_gradients(*given, None, None)
            return of_x, None, None
        of_rows, of_bias = torch.zeros_like(rows), torch.zeros(len(x), 1, weight.shape[-1])
        _blocks.output_gradients(*given, of_rows.numpy(), of_bias.numpy())
        return of_x, of_rows.mT, of_bias


def numbers(array: Tensor) -> Any:
    """Returns an array as blocks.c takes it: numpy has no bfloat16."""
    if array.dtype is torch.bfloat16:
        array = array.view(torch.int16)
    return array.numpy()


def _differentiable(
    *, y: Tensor, stats: Tensor, factor: Tensor, of_y: Tensor | None, of_factor: Tensor | None
) -> Tensor:
    """Returns the gradient of the product (n, B, W), made of torch's operations, with a graph."""
    if of_y is None:
        result = torch.zeros_like(y)
    else:
        result = of_y
    if not stats.numel():
        return result * (y > 0)
    centred = result - result.mean(-1, keepdim=True)
    result = (centred - y * (result * y).mean(-1, keepdim=True)) * factor
    if of_factor is not None:
        result = result - of_factor * factor.square() * y / y.shape[-1]
    return result * (y > stats[..., :1])
