"""The optimisers of all groups' policies and entropy models, for off-policy algorithms.

n agents of a group, B rows, Z latent.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import torch
from torch import Tensor

from sde_harl.algorithms.on_policy.base import set_learning_rate
from sde_harl.auxiliary.gradients import step_group
from sde_harl.auxiliary.optimizer_state import load_optimizer_state, optimizer_state
from sde_harl.auxiliary.rate import RateTrainer
from sde_harl.config.schema import Config
from sde_harl.policy.group_net import GroupNet


class GroupTrainers:
    """Steps groups by their losses, of which the rate is a part."""

    def __init__(
        self, groups: list[GroupNet], config: Config, generator: torch.Generator, *, rates: bool
    ) -> None:
        """`rates`: False where the latents are not to change, so that their rate counts nothing."""
        self._groups = groups
        self._lr = config.algo.lr
        self._generator = generator
        self._optimizers = [
            torch.optim.Adam(
                net.policy_parameters(), config.algo.lr, eps=config.algo.adam_eps, fused=True
            )
            for net in groups
        ]
        self._rates = [
            RateTrainer(net.latent_model, config.codec) if net.latent_model and rates else None
            for net in groups
        ]

    @property
    def has_rates(self) -> bool:
        """Returns True where `step` reports a rate."""
        return any(self._rates)

    def step(
        self, index: int, loss: Tensor, latents: Tensor, *, rate_coef: float
    ) -> dict[str, Tensor]:
        """Steps group `index` by its loss plus `rate_coef` times the rate of latents (n, B, Z).

        Returns scalars to log. Raises UserError where the gradient isn't finite.
        """
        net = self._groups[index]
        report: dict[str, Tensor] = {}
        rate_trainer = self._rates[index]
        if rate_trainer:
            sample = rate_trainer.sample(latents.shape[1], self._generator)
            rate = rate_trainer.rate(latents, sample)
            loss = loss + rate_coef * rate
            report["rate"] = rate.detach()
        norm = step_group(
            net,
            loss,
            parameters=net.policy_parameters(),
            optimizer=self._optimizers[index],
            rate_trainer=rate_trainer,
            what=f"group {index}'s policy",
        )
        return {**report, "grad_norm": norm}

    def settle(self) -> None:
        """Moves the medians that latents are rounded to; once before nets are published."""
        for rate_trainer in self._rates:
            if rate_trainer:
                rate_trainer.settle()

    def decay(self, factor: float) -> None:
        """Scales the initial learning rate of the policies."""
        for optimizer in self._optimizers:
            set_learning_rate(optimizer, self._lr * factor)

    def state_dict(self) -> dict[str, Any]:
        """Returns the optimisers' states; the nets' own are part of the policy's."""
        return {
            "optimizers": {
                str(index): optimizer_state(each) for index, each in enumerate(self._optimizers)
            },
            "rate_trainers": {
                str(index): each.state_dict() for index, each in enumerate(self._rates) if each
            },
        }

    def load_state_dict(self, state: Mapping[str, Any]) -> None:
        """Takes over what `state_dict` returned."""
        for index, optimizer in enumerate(self._optimizers):
            load_optimizer_state(optimizer, state["optimizers"][str(index)])
        for index, each in enumerate(self._rates):
            if each:
                each.load_state_dict(state["rate_trainers"][str(index)])
