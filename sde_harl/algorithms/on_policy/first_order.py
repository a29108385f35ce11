"""Algorithms that ascend their surrogate by epochs of Adam: HAPPO, HAA2C, MAPPO, IPPO.

The rate of the latents is part of the loss, so that local nets learn to send latents that cost few
bits:

    L = -E[objective(ratio, M)] - entropy_coef H(pi) + lambda R

n agents of a group, B rows, D numbers of an action.
"""

from __future__ import annotations

from abc import abstractmethod
from collections.abc import Mapping
from typing import Any, NamedTuple

import torch
from torch import Tensor

from sde_harl.algorithms.on_policy.base import OnPolicy, set_learning_rate
from sde_harl.algorithms.on_policy.group_batch import GroupBatch
from sde_harl.auxiliary.device import HOST, Device
from sde_harl.auxiliary.gradients import check_gradient, step_group
from sde_harl.auxiliary.optimizer_state import load_optimizer_state, optimizer_state
from sde_harl.auxiliary.peers import ALONE, Peers
from sde_harl.auxiliary.rate import RateSample, RateTrainer
from sde_harl.buffers.sequences import minibatch_slices, shuffled
from sde_harl.config.schema import AlgoConfig, CodecConfig
from sde_harl.policy.critic import Critic
from sde_harl.policy.group_net import GroupNet
from sde_harl.policy.split_policy import SplitPolicy


class PolicyReport(NamedTuple):
    """Scalars of one minibatch, which are logged under these names."""

    policy_loss: Tensor
    entropy: Tensor
    clip_fraction: Tensor
    """The share of ratios outside 1 +- clip_coef, in algorithms that don't clip them too."""
    ratio_error: Tensor
    """Mean |ratio - 1| before the first step; 0 but for rounding, unless the policy that has acted
    is an older one (train.overlap)."""


class FirstOrder(OnPolicy):
    """An algorithm that is defined by its `objective` alone."""

    def __init__(
        self,
        *,
        policy: SplitPolicy,
        critic: Critic,
        algo: AlgoConfig,
        codec: CodecConfig,
        generator: torch.Generator,
        peers: Peers = ALONE,
        device: Device = HOST,
    ) -> None:
        """Takes what `OnPolicy` takes, and adds an optimiser for each group."""
        super().__init__(
            policy=policy,
            critic=critic,
            algo=algo,
            codec=codec,
            generator=generator,
            peers=peers,
            device=device,
        )
        self._optimizers = [
            torch.optim.Adam(net.policy_parameters(), algo.lr, eps=algo.adam_eps, fused=True)
            for net in policy.groups
        ]

    @abstractmethod
    def objective(self, ratio: Tensor, advantages: Tensor) -> Tensor:
        """Returns (n, B), what is maximised, of ratios (n, B) and M (n or 1, B)."""

    def decay(self, factor: float) -> None:
        super().decay(factor)
        for optimizer in self._optimizers:
            set_learning_rate(optimizer, self._algo.lr * factor)

    def state_dict(self) -> dict[str, Any]:
        optimizers = {
            str(index): optimizer_state(optimizer)
            for index, optimizer in enumerate(self._optimizers)
        }
        return super().state_dict() | {"optimizers": optimizers}

    def load_state_dict(self, state: Mapping[str, Any]) -> None:
        super().load_state_dict(state)
        for index, optimizer in enumerate(self._optimizers):
            load_optimizer_state(optimizer, state["optimizers"][str(index)])

    def update_group(self, index: int, batch: GroupBatch) -> dict[str, float]:
        net = self.policy.groups[index]
        rate_trainer = self._rate_trainers[index]
        whole = self._minibatches(batch)
        samples = self._samples(rate_trainer, whole[0])
        minibatches = [each.of(self._peers) for each in whole]
        weights = [each.weights() for each in minibatches]
        reports: list[PolicyReport] = []
        grad_norms: list[Tensor] = []
        rates: list[Tensor] = []
        for part, minibatch in list(enumerate(minibatches)) * self._algo.epochs:
            self._peers.check()
            output = minibatch.forward(net)
            loss, report = self._loss(net, output.outputs, batch=minibatch, weights=weights[part])
            reports.append(report)
            # The entropy model costs as much as the policy. So the rate is taken once an epoch, in
            # its first minibatch, and weighted for all of them.
            measured = rate_trainer if part == 0 else None
            scalars = [*report]
            if measured:
                sample = samples[len(rates)].of(minibatch.part)
                rate = measured.rate(output.latents, sample)
                loss = loss + self.rate_coef * len(minibatches) * rate
                rates.append(rate.detach())
                scalars.append(rates[-1])
            grad_norms.append(self._step(index, loss, measured, scalars))
        if rate_trainer:
            # Last: quantiles follow the densities, which are stepped for good now. To move the
            # medians, which latents are rounded to, between two steps would change the policy
            # behind Adam's back.
            rate_trainer.settle()
        return self._scalars(index, reports, grad_norms=grad_norms, rates=rates)

    def _scalars(
        self,
        index: int,
        reports: list[PolicyReport],
        *,
        grad_norms: list[Tensor],
        rates: list[Tensor],
    ) -> dict[str, float]:
        """Returns the means over an update's minibatches, by name.

        Raises UserError where a gradient wasn't finite.
        """
        history = torch.stack([torch.stack([*row, norm]) for row, norm in zip(reports, grad_norms)])
        names = [*PolicyReport._fields, "grad_norm"]
        means = [*history.mean(0)]
        if rates:
            names.append("rate")
            means.append(torch.stack(rates).mean())
        # Of the first minibatch, not the mean: before the first step the ratio is 1 but for
        # rounding. More would mean that the policy which acted isn't the one that is trained.
        means[names.index("ratio_error")] = reports[0].ratio_error
        [values] = self._device.get([torch.stack(means)])
        check_gradient(values[names.index("grad_norm")], f"group {index}'s policy")
        return dict(zip(names, values.tolist()))

    def _minibatches(self, batch: GroupBatch) -> list[GroupBatch]:
        """Returns the minibatches of an epoch, the same ones in every epoch."""
        count = self._algo.minibatches
        sequences = batch.actions.shape[1] // batch.length
        if count > 1:
            order = shuffled(sequences, count, self._generator)
            assert isinstance(order, Tensor)
            batch = batch.take(self._device.put([order])[0])
        return [batch.take(part) for part in minibatch_slices(sequences, count)]

    def _samples(self, rate_trainer: RateTrainer | None, batch: GroupBatch) -> list[RateSample]:
        """Draws the rows of a minibatch that the rate is estimated on, anew for each epoch."""
        if not rate_trainer:
            return []
        rows = batch.actions.shape[1]
        drawn = [rate_trainer.sample(rows, self._generator) for _ in range(self._algo.epochs)]
        copies = iter(self._device.put([part for each in drawn for part in each[:2]]))
        return [each._replace(rows=next(copies), noise=next(copies)) for each in drawn]

    def _loss(
        self, net: GroupNet, outputs: Tensor, *, batch: GroupBatch, weights: Tensor
    ) -> tuple[Tensor, PolicyReport]:
        """Returns the loss without the rate, from outputs (n, B, A) and row weights (n, B)."""
        distribution = net.distribution(outputs, batch.available_actions)
        ratio = self.ratio(net, distribution, batch)  # (n, B)
        weights = weights.flatten()  # (n * B,): a dot product is faster than a product and a sum
        objective = self.objective(ratio, batch.advantages).flatten() @ weights
        entropy = distribution.entropy().flatten() @ weights
        error = (ratio.detach() - 1.0).abs_().flatten()
        report = PolicyReport(
            policy_loss=-objective.detach(),
            entropy=entropy.detach(),
            clip_fraction=(error > self._algo.clip_coef).float() @ weights,
            ratio_error=error @ weights,
        )
        return -objective - self._algo.entropy_coef * entropy, report

    def _step(
        self, index: int, loss: Tensor, rate_trainer: RateTrainer | None, scalars: list[Tensor]
    ) -> Tensor:
        """Steps everything that is in the loss; returns the norm of the policy's gradient.

        `scalars` of this learner's share become those of all learners.
        """
        net = self.policy.groups[index]
        return step_group(
            net,
            loss,
            parameters=net.policy_parameters(),
            optimizer=self._optimizers[index],
            rate_trainer=rate_trainer,
            max_norm=self._algo.max_grad_norm,
            what=f"group {index}'s policy",
            peers=self._peers,
            scalars=scalars,
        )
