"""Steps by gradients that were checked: one that isn't finite is never applied."""

from __future__ import annotations

import math
from collections.abc import Iterable

from torch import Tensor, nn
from torch.optim import Optimizer

from sde_harl.auxiliary.peers import ALONE, Peers
from sde_harl.auxiliary.rate import RateTrainer
from sde_harl.errors import UserError


def check_gradient(norm: Tensor, what: str) -> None:
    """Raises UserError where the norm of a gradient isn't finite; `what` learns from it.

    One step with such a gradient would make every weight NaN.
    """
    value = float(norm)
    if not math.isfinite(value):
        raise UserError(
            f"learning has become unstable: the gradient of {what} is {value:g} "
            "(a smaller algo.lr or algo.critic_lr may help)"
        )


def gradient_norm(parameters: Iterable[nn.Parameter]) -> Tensor:
    """Returns the norm of the gradient of all parameters that have one."""
    return nn.utils.get_total_norm([each.grad for each in parameters if each.grad is not None])


def step_group(
    net: nn.Module,
    loss: Tensor,
    *,
    parameters: list[nn.Parameter],
    optimizer: Optimizer,
    rate_trainer: RateTrainer | None,
    what: str,
    max_norm: float | None = None,
    peers: Peers = ALONE,
    scalars: Iterable[Tensor] = (),
) -> Tensor:
    """Steps everything that is in a group's loss; returns the norm of the policy's gradient.

    parameters: the policy's, of `net`, which `optimizer` steps. rate_trainer: steps the densities
    where the rate is in the loss. max_norm: limit of the norm, None for no limit. Where `peers`
    have shares of it, `loss` is this learner's, and `scalars` become sums too. Raises UserError
    where the gradient isn't finite.
    """
    # zero_grad of the net and not of the optimisers: it clears the entropy model's gradients too,
    # which lie in it.
    net.zero_grad()
    loss.backward()
    peers.sum_step(net, scalars)
    if max_norm is None:
        norm = gradient_norm(parameters)
    else:
        norm = nn.utils.clip_grad_norm_(parameters, max_norm)
    # A GPU would have to be waited for. There the caller looks when all steps are taken.
    if norm.is_cpu:
        check_gradient(norm, what)
    optimizer.step()
    if rate_trainer:
        rate_trainer.step()
    return norm
