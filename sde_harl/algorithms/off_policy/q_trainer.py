"""The critics of an off-policy algorithm, with their targets, normaliser and optimiser.

k critics, V values of a state, B rows, S critic's input, J joint action.
"""

from __future__ import annotations

import copy
from collections.abc import Mapping, Sequence
from typing import Any

import torch
from torch import Tensor
from torch.nn import functional

from sde_harl.algorithms.on_policy.value_norm import ValueNorm
from sde_harl.auxiliary.gradients import check_gradient, gradient_norm
from sde_harl.auxiliary.optimizer_state import load_optimizer_state, optimizer_state
from sde_harl.config.schema import AlgoConfig
from sde_harl.policy.q_critic import QCritic


class QTrainer:
    """Learns Q(s, a) from targets. Values that it takes and gives are in units of the rewards."""

    def __init__(self, critic: QCritic, config: AlgoConfig) -> None:
        self.critic = critic
        self.target = copy.deepcopy(critic).requires_grad_(False)
        self.value_norm = ValueNorm(config.valuenorm, by_rows=False)
        self.optimizer = torch.optim.Adam(
            critic.parameters(), config.critic_lr, eps=config.adam_eps, fused=True
        )
        self._config = config
        self._pairs = (list(self.target.parameters()), list(critic.parameters()))

    @torch.no_grad()
    def target_values(self, states: Tensor, actions: Tensor) -> Tensor:
        """Returns (V, B), the least of the target critics' values of joint actions (B, J)."""
        values: Tensor = self.target(self.target.embed(states), actions)
        return self.denormalised(values.amin(0))

    def values(self, embedded: Tensor, actions: Tensor) -> Tensor:
        """Returns (k, V, B) of embedded states (k, V B, M) and joint actions (B, J)."""
        return self.denormalised(self.critic(embedded, actions))

    def first_values(self, embedded: Tensor, actions: Tensor) -> Tensor:
        """Returns (V, B), the values of the first critic alone."""
        return self.denormalised(self.critic.first(embedded, actions))

    def least_values(self, embedded: Tensor, actions: Tensor) -> Tensor:
        """Returns (V, B), the least of the critics' values; only the actions get a gradient."""
        return self.denormalised(self.critic.least(embedded, actions))

    def denormalised(self, values: Tensor) -> Tensor:
        """Returns what critics predict in the units of the rewards."""
        mean, std = self.value_norm.statistics()
        return values * std + mean

    def learn(self, states: Tensor, actions: Tensor, targets: Tensor) -> Tensor:
        """Takes one step of all critics towards targets (V, B); returns the loss, detached."""
        self.value_norm.update(targets.numpy())
        mean, std = self.value_norm.statistics()
        wanted = ((targets - mean) / std).float()
        values = self.critic(self.critic.embed(states), actions)  # (k, V, B)
        loss = self._row_losses(values, wanted.expand_as(values)).mean((1, 2)).sum()
        self.optimizer.zero_grad()
        (loss * self._config.value_coef).backward()
        # No limit. Early errors of Q are many times the rewards; with one, all batches would count
        # alike, however wrong the critics are.
        norm = gradient_norm(self.critic.parameters())
        check_gradient(norm, "the critic")
        self.optimizer.step()
        return loss.detach()

    def follow(self) -> None:
        """Moves the target critics towards the critics."""
        follow(*self._pairs, self._config.polyak)

    def state_dict(self) -> dict[str, Any]:
        """Returns everything that changes over a run."""
        return {
            "critic": self.critic.state_dict(),
            "target": self.target.state_dict(),
            "optimizer": optimizer_state(self.optimizer),
            "value_norm": self.value_norm.state_dict(),
        }

    def load_state_dict(self, state: Mapping[str, Any]) -> None:
        """Takes over what `state_dict` returned."""
        self.critic.load_state_dict(state["critic"])
        self.target.load_state_dict(state["target"])
        load_optimizer_state(self.optimizer, state["optimizer"])
        self.value_norm.load_state_dict(state["value_norm"])

    def _row_losses(self, values: Tensor, targets: Tensor) -> Tensor:
        if self._config.use_huber:
            delta = self._config.huber_delta
            return functional.huber_loss(values, targets, reduction="none", delta=delta)
        return 0.5 * functional.mse_loss(values, targets, reduction="none")


@torch.no_grad()
def follow(targets: Sequence[Tensor], nets: Sequence[Tensor], share: float) -> None:
    """Moves target parameters by a share of the way towards those of the nets (Polyak)."""
    torch._foreach_lerp_(list(targets), list(nets), share)
