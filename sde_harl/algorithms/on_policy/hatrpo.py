"""HATRPO: a natural-gradient step within a KL bound, one role group after the other (Zhong et al., JMLR 2024, alg. 3).

The step is Schulman et al.'s (ICML 2015, app. C): conjugate gradients on Fisher-vector products, then a backtracking
line search that takes the first step which keeps the bound and improves enough.

The codec is in the loop. The KL is in closed form, from the policy that acted to the one that will, both on quantised
latents; its derivatives pass the quantiser straight through, as all gradients here do. The rate is part of the
surrogate, with rows and noise fixed for the step, so that a device's local net moves for it inside the same bound and
the line search judges what is really maximised: E[r M] + entropy_coef H - lambda R. The entropy model has optimisers of
its own and follows the latents for `algo.epochs` steps, before the policy's: it moves the medians that latents are
rounded to, and what that changes counts towards the bound.

n agents of a group, B rows.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import NamedTuple

import torch
from torch import Tensor
from torch.nn.utils import parameters_to_vector, vector_to_parameters

from sde_harl.algorithms.on_policy.base import GroupBatch, OnPolicy
from sde_harl.algorithms.on_policy.trust_region import (
    conjugate_gradient,
    fisher_product,
    flat_gradient,
)
from sde_harl.auxiliary.rate import RateTrainer
from sde_harl.config.schema import AlgoConfig, CodecConfig
from sde_harl.policy.critic import Critic
from sde_harl.policy.distributions import Distribution
from sde_harl.policy.split_policy import GroupNet, SplitPolicy

DAMPING, PRODUCTS = 0.1, 10
"""HARL's, of the Fisher matrix and of the conjugate gradients."""


class Point(NamedTuple):
    """A policy, judged on a rollout."""

    objective: Tensor
    """What is maximised."""
    distribution: Distribution
    entropy: Tensor
    ratio_error: Tensor
    """Mean |ratio - 1|."""


class Start(NamedTuple):
    """Where a line search begins."""

    acted: Distribution
    """Of the policy that played the rollout."""
    objective: Tensor
    full: Tensor
    """The step whose KL is the bound, to second order."""
    expected: float
    """The improvement that the gradient promises for it."""


class Step(NamedTuple):
    """How a line search ended."""

    accepted: bool
    kl: float
    """Of the policy that is kept from the one that acted."""
    improvement: float
    expected: float
    """The improvement that the gradient promised for it."""


class Hatrpo(OnPolicy):
    """Maximises r M with KL(old || new) below `algo.kl_threshold`."""

    def __init__(
        self,
        policy: SplitPolicy,
        critic: Critic,
        algo: AlgoConfig,
        codec: CodecConfig,
        generator: torch.Generator,
    ) -> None:
        super().__init__(policy, critic, algo, codec, generator)
        self._rates = [
            RateTrainer(net.latent_model, codec) if net.latent_model else None
            for net in policy.groups
        ]

    def update_group(self, index: int, rows: GroupBatch) -> dict[str, float]:
        net, rate = self.policy.groups[index], self._rates[index]
        seed = int(torch.randint(1 << 31, (), generator=self._generator))
        judge = lambda: self._judge(net, rate, rows, seed)  # noqa: E731
        acted = old = judge()
        followed = {}
        if rate:
            followed["rate"] = self._follow(net, rate, rows)
            old = judge()
        gradient, full = self._full_step(net, old, rows)
        step = self._search(
            net, judge, Start(acted.distribution, old.objective, full, float(gradient @ full)), rows
        )
        return followed | {
            "policy_loss": -acted.objective.item(),
            "entropy": acted.entropy.item(),
            "ratio_error": acted.ratio_error.item(),
            "kl": step.kl,
            "accepted": float(step.accepted),
            "improvement": step.improvement,
            "expected_improvement": step.expected,
        }

    def _judge(self, net: GroupNet, rate: RateTrainer | None, rows: GroupBatch, seed: int) -> Point:
        """The policy as it is. The same `seed` judges by the same rows and noise of the rate."""
        output, weights = rows.through(net), rows.weights()
        distribution = net.distribution(output.outputs, rows.available)
        ratio = self.ratio(net, distribution, rows)
        entropy = (distribution.entropy() * weights).sum()
        objective = (ratio * rows.advantages * weights).sum() + self._algo.entropy_coef * entropy
        if rate:
            fixed = torch.Generator().manual_seed(seed)
            objective = objective - self.rate_coef * rate.rate(output.latents, fixed)
        return Point(
            objective,
            distribution,
            entropy.detach(),
            ((ratio - 1.0).abs() * weights).sum().detach(),
        )

    def _full_step(self, net: GroupNet, old: Point, rows: GroupBatch) -> tuple[Tensor, Tensor]:
        """The objective's gradient and the natural-gradient step whose KL is the bound, to second order."""
        parameters = net.policy_parameters()
        gradient = flat_gradient(old.objective, parameters)
        product = fisher_product(
            _mean_kl(old.distribution, old.distribution, rows), parameters, DAMPING
        )
        direction = conjugate_gradient(product, gradient, PRODUCTS)
        curvature = direction @ product(direction)
        if (
            not curvature > 0
        ):  # nothing to improve: all rows are of the dead, or all advantages are 0
            return gradient, torch.zeros_like(gradient)
        return gradient, direction * torch.sqrt(2.0 * self._algo.kl_threshold / curvature)

    @torch.no_grad()
    def _search(
        self, net: GroupNet, judge: Callable[[], Point], start: Start, rows: GroupBatch
    ) -> Step:
        """Shorten the step until it keeps the bound and improves enough; without success the policy stays as it was."""
        algo, parameters = self._algo, net.policy_parameters()
        origin, fraction = parameters_to_vector(parameters), 1.0
        for _ in range(algo.ls_step if start.expected > 0 else 0):
            vector_to_parameters(origin + fraction * start.full, parameters)
            new = judge()
            kl = float(_mean_kl(new.distribution, start.acted, rows))
            improvement, expected = (
                float(new.objective - start.objective),
                fraction * start.expected,
            )
            if (
                kl < algo.kl_threshold
                and improvement > algo.accept_ratio * expected
                and improvement > 0
            ):
                return Step(True, kl, improvement, expected)
            fraction *= algo.backtrack_coeff
        vector_to_parameters(origin, parameters)
        return Step(
            False, float(_mean_kl(judge().distribution, start.acted, rows)), 0.0, start.expected
        )

    def _follow(self, net: GroupNet, rate: RateTrainer, rows: GroupBatch) -> float:
        """Bring the entropy model to the latents as they now are; the mean rate on the way, in bits per element."""
        with torch.no_grad():
            latents = net.encode(rows.features)
        total = 0.0
        for _ in range(self._algo.epochs):
            net.zero_grad()
            bits = rate.rate(latents, self._generator)
            bits.backward()
            rate.step()
            total += bits.item()
        rate.settle()
        return total / self._algo.epochs


def _mean_kl(new: Distribution, old: Distribution, rows: GroupBatch) -> Tensor:
    """KL(old || new) of a group's joint policy: the sum over its agents, the mean over what the living decide."""
    return (new.kl(old) * rows.weights()).sum() * len(rows.active)
