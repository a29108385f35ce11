"""The least value of several critics, as a function of the actions alone.

A policy learns by the least of its twin critics' values. Of each row only the critic that has the
least one passes a gradient on, so that the backward pass takes that critic's half of the rows: what
autograd would compute for the other half are zeros.

k critics, R rows, J numbers of a joint action, M width of a block.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import torch
from torch import Tensor
from torch.autograd.function import once_differentiable
from torch.nn import functional

from sde_harl.policy.block import FAST, activate_in_place, last_layer, numbers
from sde_harl.policy.inference import _blocks

Layer = tuple[Tensor, Tensor]
ROWS_STEP = 64
"""A critic's share of the rows is filled up to a multiple of this, so that products have few sizes.

oneDNN compiles a kernel for each size that it has not met, which takes as long as a product.
"""


def least_value(embedded: Tensor, actions: Tensor, layers: Sequence[Layer], last: Layer) -> Tensor:
    """Returns (R,) the least value of critics; its gradient reaches the actions, and nothing else.

    embedded (k, R, M) is the state's part of the first layer, actions (R, J). `layers` are weight
    (k, in, M) and bias (k, 1, M) of each block, the first weight that of the actions (k, J, M);
    `last` is the layer of one output. All have been detached. `embedded` has the type that blocks
    compute in, one of `FAST`.
    """
    assert embedded.dtype in FAST
    least: Tensor = _LeastValue.apply(  # type: ignore[no-untyped-call]  # torch's
        actions, embedded, layers, last
    )
    return least


class _LeastValue(torch.autograd.Function):
    """`least_value`, with its gradient."""

    @staticmethod
    def forward(
        ctx: Any,
        actions: Tensor,
        embedded: Tensor,
        layers: Sequence[Layer],
        last: Layer,
    ) -> Tensor:
        """Returns (R,), and keeps every block's output (k, R, M) for the gradient."""
        (first_weight, first_bias), *inner = layers
        kind = embedded.dtype
        rows = actions.detach().to(kind).expand(len(embedded), -1, -1)
        x = torch.baddbmm(embedded, rows, first_weight.to(kind))
        outputs = [x]
        activate_in_place(x, first_bias, layer_norm=False)
        for weight, bias in inner:
            x = torch.bmm(x, weight.to(kind))
            outputs.append(x)
            activate_in_place(x, bias, layer_norm=False)
        least, critic = last_layer(x, *last)[..., 0].min(0)
        ctx.save_for_backward(critic, last[0], *outputs, *(weight for weight, _ in layers))
        return least

    @staticmethod
    @once_differentiable
    def backward(ctx: Any, of_least: Tensor) -> tuple[Tensor, None, None, None]:
        """Returns the gradient of the actions (R, J)."""
        critic, last, *each = ctx.saved_tensors
        blocks = len(each) // 2
        outputs, weights = each[:blocks], each[blocks:]
        of_actions = torch.empty(len(of_least), weights[0].shape[1])
        for k, last_weight in enumerate(last.mT):
            own = (critic == k).nonzero()[:, 0]
            rows = functional.pad(own, (0, -len(own) % ROWS_STEP))  # row 0, again and again
            places = rows.int().numpy()
            of_x = torch.empty(1, len(rows), last_weight.shape[1], dtype=outputs[0].dtype)
            of_rows, row = of_least[rows].numpy(), last_weight[None].numpy()
            _blocks.output_gradients(of_rows, None, row, numbers(of_x), None, None)
            of_x = of_x[0]
            for y, weight in reversed(list(zip(outputs, weights))):
                _blocks.relu_gradients(numbers(of_x), numbers(y[k]), places)
                of_x = of_x @ weight[k].to(y.dtype).T
            of_actions[own] = of_x[: len(own)].float()
        return of_actions, None, None, None
