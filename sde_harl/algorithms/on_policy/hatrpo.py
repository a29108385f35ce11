"""HATRPO: a natural-gradient step within a KL bound, one role group after the other (Zhong et al.,
JMLR 2024, alg. 3).

    maximise    L(theta) = E[r M] + entropy_coef H(pi_theta) - lambda R
    subject to  E[KL(pi_old || pi_theta)] < kl_threshold

r is the ratio pi_theta / pi_old, M is base.py's, R the rate of the latents. The step is Schulman et
al.'s (ICML 2015, app. C): with g the gradient of L and F the Fisher matrix, conjugate gradients
solve F x = g, and the full step is

    beta x  with  beta = sqrt(2 kl_threshold / x^T F x)

whose KL is the bound, to second order. A backtracking line search then takes the first of the steps
beta x, c beta x, c^2 beta x, ... that keeps the bound and improves L enough.

The codec is in the loop:
* Both policies of the KL act on quantised latents. Derivatives pass the quantiser straight through,
  as everywhere.
* The rate is part of L, so a device's local net moves for it inside the same bound. Its rows and
  noise are the same for all evaluations of a step, or the line search would compare noise.
* The entropy model has an optimiser of its own and follows the latents for `algo.epochs` steps,
  before the policy's step: it moves the medians that latents are rounded to, and that change of the
  policy has to count towards the bound.

n agents of a group, B rows, P parameters of its policy.
"""

from __future__ import annotations

from typing import NamedTuple

import torch
from torch import Tensor
from torch.nn.utils import parameters_to_vector, vector_to_parameters

from sde_harl.algorithms.on_policy.base import OnPolicy
from sde_harl.algorithms.on_policy.group_batch import GroupBatch
from sde_harl.algorithms.on_policy.trust_region import (
    conjugate_gradient,
    fisher_product,
    flat_gradient,
)
from sde_harl.auxiliary.rate import RateSample, RateTrainer
from sde_harl.policy.distributions import Distribution
from sde_harl.policy.group_net import GroupNet

DAMPING = 0.1
"""Added to the diagonal of F, as in HARL; a nearly singular F would make the step huge."""
PRODUCTS = 10
"""Iterations of conjugate gradients, as in HARL."""


class GroupStep(NamedTuple):
    """The group that takes a step, and what the step is judged by."""

    net: GroupNet
    rate_trainer: RateTrainer | None
    batch: GroupBatch
    """This learner's share."""
    sample: RateSample | None
    """Rows and noise of the rate, this learner's share; None where the rate doesn't count."""


class Evaluation(NamedTuple):
    """A policy, judged on a batch."""

    share: Tensor
    """This learner's share of L, scalar, with its graph."""
    distribution: Distribution
    objective: Tensor
    """L, scalar."""
    entropy: Tensor
    ratio_error: Tensor
    """Mean |r - 1|."""


class SearchStart(NamedTuple):
    """The start of a line search."""

    acted: Distribution
    """The policy before the update. It played the rollout, or an older one did (train.overlap)."""
    objective: Tensor
    """L before the step."""
    full_step: Tensor
    """(P,), beta x."""
    expected: float
    """The improvement that the gradient promises for the full step."""


class SearchResult(NamedTuple):
    """The outcome of a line search."""

    accepted: bool
    kl: float
    """From the policy that acted to the one that is kept."""
    improvement: float
    """The change of L."""
    expected: float
    """The improvement that the gradient promised."""


class Hatrpo(OnPolicy):
    """Maximises E[r M] with KL(pi_old || pi_new) below `algo.kl_threshold`."""

    def update_group(self, index: int, batch: GroupBatch) -> dict[str, float]:
        rate_trainer = self._rate_trainers[index]
        own = batch.of(self._peers)
        # Drawn by a generator of its own, and also where nothing is drawn by it.
        noise = torch.Generator().manual_seed(
            int(torch.randint(1 << 31, (), generator=self._generator))
        )
        sample = None
        if rate_trainer:
            sample = self._sample(rate_trainer, batch.actions.shape[1], noise).of(own.part)
        step = GroupStep(
            net=self.policy.groups[index], rate_trainer=rate_trainer, batch=own, sample=sample
        )
        acted = self._evaluate(step)
        start = acted
        scalars = {}
        if step.rate_trainer:
            scalars["rate"] = self._fit_entropy_model(step.net, step.rate_trainer, step.batch)
            # The medians have moved, and with them the policy: the line search begins there. The KL
            # is still from the policy that acted, because the ratios are.
            start = self._evaluate(step)
        gradient, full_step = self._full_step(step, start)
        result = self._line_search(
            step,
            SearchStart(
                acted=acted.distribution,
                objective=start.objective,
                full_step=full_step,
                expected=float(gradient @ full_step),
            ),
        )
        return scalars | {
            "policy_loss": -acted.objective.item(),
            "entropy": acted.entropy.item(),
            "ratio_error": acted.ratio_error.item(),
            "kl": result.kl,
            "accepted": float(result.accepted),
            "improvement": result.improvement,
            "expected_improvement": result.expected,
        }

    def _evaluate(self, step: GroupStep) -> Evaluation:
        """Judges the policy as it is now."""
        self._peers.check()
        batch = step.batch
        weights = batch.weights()  # (n, B)
        output = batch.forward(step.net)
        distribution = step.net.distribution(output.outputs, batch.available_actions)
        ratio = self.ratio(step.net, distribution, batch)  # (n, B)
        entropy = (distribution.entropy() * weights).sum()
        share = (ratio * batch.advantages * weights).sum() + self._algo.entropy_coef * entropy
        if step.rate_trainer and step.sample:
            share = share - self.rate_coef * step.rate_trainer.rate(output.latents, step.sample)
        error = ((ratio - 1.0).abs() * weights).sum()
        totals = torch.stack((share, entropy, error)).detach()
        self._peers.sum([totals])
        objective, entropy, ratio_error = totals
        return Evaluation(
            share=share,
            distribution=distribution,
            objective=objective,
            entropy=entropy,
            ratio_error=ratio_error,
        )

    def _full_step(self, step: GroupStep, start: Evaluation) -> tuple[Tensor, Tensor]:
        """Returns the gradient of L and the step beta x, both (P,)."""
        parameters = step.net.policy_parameters()
        gradient = flat_gradient(start.share, parameters)
        self._peers.sum([gradient])
        kl = mean_kl(start.distribution, start.distribution, step.batch)
        product = fisher_product(kl, parameters, DAMPING, self._peers)
        direction = conjugate_gradient(product, gradient, PRODUCTS)  # x
        curvature = direction @ product(direction)  # x^T F x
        # Not `curvature <= 0`, which is false for NaN. There is nothing to improve where all rows
        # are of dead agents or all advantages are 0.
        if not curvature > 0:
            return gradient, torch.zeros_like(gradient)
        return gradient, direction * torch.sqrt(2.0 * self._algo.kl_threshold / curvature)

    @torch.no_grad()
    def _line_search(self, step: GroupStep, start: SearchStart) -> SearchResult:
        """Shortens the step until it keeps the bound and improves enough.

        If no step does, the policy stays as it was.
        """
        algo = self._algo
        parameters = step.net.policy_parameters()
        origin = parameters_to_vector(parameters)
        attempts = algo.ls_step if start.expected > 0 else 0
        fraction = 1.0
        for _ in range(attempts):
            vector_to_parameters(origin + fraction * start.full_step, parameters)
            new = self._evaluate(step)
            result = SearchResult(
                accepted=True,
                kl=self._kl_of_all(new, start, step.batch),
                improvement=float(new.objective - start.objective),
                expected=fraction * start.expected,
            )
            enough = result.improvement > algo.accept_ratio * result.expected
            if result.kl < algo.kl_threshold and enough and result.improvement > 0:
                return result
            fraction *= algo.backtrack_coeff
        vector_to_parameters(origin, parameters)
        # Not 0 even so: the entropy model may have moved the medians since the rollout.
        kl = self._kl_of_all(self._evaluate(step), start, step.batch)
        return SearchResult(accepted=False, kl=kl, improvement=0.0, expected=start.expected)

    def _kl_of_all(self, new: Evaluation, start: SearchStart, batch: GroupBatch) -> float:
        """Returns the KL from the policy that acted to `new`, over the rows of all learners."""
        kl = mean_kl(new.distribution, start.acted, batch)
        self._peers.sum([kl])
        return float(kl)

    def _sample(
        self, rate_trainer: RateTrainer, rows: int, generator: torch.Generator
    ) -> RateSample:
        """Draws a sample of so many rows, for the device that learns."""
        drawn = rate_trainer.sample(rows, generator)
        copies = self._device.put([drawn.rows, drawn.noise])
        return drawn._replace(rows=copies[0], noise=copies[1])

    def _fit_entropy_model(
        self, net: GroupNet, rate_trainer: RateTrainer, batch: GroupBatch
    ) -> float:
        """Fits the entropy model to the present latents.

        Returns the mean rate on the way, in bits per latent element.
        """
        with torch.no_grad():
            latents = net.encode(batch.obs)  # (n, B, Z); no_grad: only the densities learn here
        total = 0.0
        rows = latents.shape[1]
        if batch.part:
            rows = batch.part.whole
        for _ in range(self._algo.epochs):
            net.zero_grad()
            sample = self._sample(rate_trainer, rows, self._generator)
            rate = rate_trainer.rate(latents, sample.of(batch.part))
            rate.backward()
            self._peers.sum_step(net, [rate])
            rate_trainer.step()
            total += rate.item()
        rate_trainer.settle()
        return total / self._algo.epochs


def mean_kl(new: Distribution, old: Distribution, batch: GroupBatch) -> Tensor:
    """Returns KL(old || new) of a group's joint policy.

    That is the sum over its agents, who act independently given what they see, of the mean over
    rows that count; of a learner's share of the rows, its part of that.
    """
    return (new.kl(old) * batch.weights()).sum() * len(batch.active_masks)
