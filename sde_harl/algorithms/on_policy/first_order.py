"""Surrogates that are climbed by epochs of Adam. The rate of the latents is part of the loss: L = L_RL + lambda * R.

n agents of a group, B rows.
"""

from __future__ import annotations

from abc import abstractmethod

import torch
from torch import Tensor, nn

from sde_harl.algorithms.on_policy.base import GroupBatch, OnPolicy
from sde_harl.auxiliary.rate import RateTrainer
from sde_harl.buffers.sequences import minibatches, shuffle
from sde_harl.config.schema import AlgoConfig, CodecConfig
from sde_harl.policy.critic import Critic
from sde_harl.policy.split_policy import GroupNet, SplitPolicy

REPORT = ("policy_loss", "entropy", "clip_fraction", "ratio_error", "grad_norm")
"""What is logged; clip_fraction is the share of ratios outside 1 +- clip_coef, whether they are clipped or not."""


class FirstOrder(OnPolicy):
    """An algorithm that is told by its `objective` alone."""

    def __init__(
        self,
        policy: SplitPolicy,
        critic: Critic,
        algo: AlgoConfig,
        codec: CodecConfig,
        generator: torch.Generator,
    ) -> None:
        super().__init__(policy, critic, algo, codec, generator)
        self._optimizers = [
            torch.optim.Adam(net.policy_parameters(), algo.lr, eps=algo.adam_eps, fused=True)
            for net in policy.groups
        ]
        self._rates = [
            RateTrainer(net.latent_model, codec) if net.latent_model else None
            for net in policy.groups
        ]

    @abstractmethod
    def objective(self, ratio: Tensor, advantages: Tensor) -> Tensor:
        """(n, B), what is to be maximised, of ratios (n, B) and M (n or 1, B)."""

    def decay(self, factor: float) -> None:
        super().decay(factor)
        for group in (group for optimizer in self._optimizers for group in optimizer.param_groups):
            group["lr"] = self._algo.lr * factor

    def update_group(self, index: int, rows: GroupBatch) -> dict[str, float]:
        net, rate, algo = self.policy.groups[index], self._rates[index], self._algo
        count = rows.actions.shape[1] // rows.length
        if algo.minibatches > 1:
            rows = rows.take(shuffle(count, algo.minibatches, self._generator))
        history: list[Tensor] = []
        bits: list[Tensor] = []
        batches = [rows.take(part) for part in minibatches(count, algo.minibatches)]
        weights = [batch.weights() for batch in batches]
        for part, batch in list(enumerate(batches)) * algo.epochs:
            output = batch.through(net)
            loss, report = self._loss(net, output.outputs, batch, weights[part])
            coded = rate if not part else None
            if coded:
                # Once an epoch, weighed for all its minibatches: the entropy model costs as much as the policy.
                bits.append(coded.rate(output.latents, self._generator))
                loss = loss + self.rate_coef * len(batches) * bits[-1]
            history.append(torch.stack([*report, self._step(index, net, loss, coded)]))
        scalars = dict(zip(REPORT, torch.stack(history).mean(0).tolist()))
        if rate:
            rate.settle()
            scalars["rate"] = float(torch.stack(bits).detach().mean())
        # Before the first step the ratio is 1 but for rounding; more would mean that what acted is not what is trained.
        return scalars | {"ratio_error": float(history[0][REPORT.index("ratio_error")])}

    def _loss(
        self, net: GroupNet, outputs: Tensor, rows: GroupBatch, weights: Tensor
    ) -> tuple[Tensor, list[Tensor]]:
        """The RL loss, and all of REPORT but the gradient's norm."""
        distribution, weights = net.distribution(outputs, rows.available), weights.flatten()
        ratio = self.ratio(net, distribution, rows)
        objective = self.objective(ratio, rows.advantages).flatten() @ weights
        entropy = distribution.entropy().flatten() @ weights
        with torch.no_grad():
            error = (ratio - 1.0).abs_().flatten()
            outside = (error > self._algo.clip_coef).float()
            report = [-objective.detach(), entropy.detach(), outside @ weights, error @ weights]
        return -objective - self._algo.entropy_coef * entropy, report

    def _step(self, index: int, net: GroupNet, loss: Tensor, rate: RateTrainer | None) -> Tensor:
        """One step of everything that has a part in the loss; the policy's gradient norm."""
        net.zero_grad()
        loss.backward()
        norm = nn.utils.clip_grad_norm_(net.policy_parameters(), self._algo.max_grad_norm)
        self._optimizers[index].step()
        if rate:
            rate.step()
        return norm
