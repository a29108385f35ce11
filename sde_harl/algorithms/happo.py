"""HAPPO: proximal policy optimisation, one role group after the other (Zhong et al., JMLR 25(32), 2024, alg. 4).

Groups are visited in a fresh random order. Each maximises the clipped surrogate of M, the advantage times the ratios
new/old of the groups before it, so that the joint policy improves as the advantage decomposition promises. With every
agent alone this is HAPPO exactly. The rate of the latents is part of every group's loss: L = L_RL + lambda * R.

n agents of a group, B = T * E rows, A actions.
"""

from __future__ import annotations

from typing import NamedTuple

import numpy as np
import torch
from torch import Tensor, nn

from sde_harl.algorithms.on_policy import CriticTrainer, minibatches, shuffle
from sde_harl.algorithms.rollout import Rollout
from sde_harl.config import AlgoConfig, CodecConfig
from sde_harl.policy.critic import Critic
from sde_harl.policy.split import GroupNet, SplitPolicy

_NEVER = -1e30


class Rows(NamedTuple):
    """A group's rows of a rollout."""

    features: Tensor
    """(n, B, O) normalised observations."""
    available: Tensor
    """(n, B, A) bool."""
    actions: Tensor
    """(n, B, 1) int64."""
    log_probs: Tensor
    """(n, B, 1) of the behaviour policy."""
    active: Tensor
    """(n, B) 1.0 where the agent was alive."""


class Happo:
    """Updates a split policy and its critic from rollouts."""

    continuous = False
    """Whether it can act in continuous action spaces."""

    def __init__(
        self, policy: SplitPolicy, critic: Critic, algo: AlgoConfig, codec: CodecConfig, generator: torch.Generator
    ) -> None:
        self.policy, self._algo, self._codec, self._generator = policy, algo, codec, generator
        self.critic = CriticTrainer(critic, algo, generator)
        self._optimizers = [GroupOptimizer(net, algo, codec) for net in policy.groups]

    def update(self, rollout: Rollout, progress: float) -> dict[str, float]:
        """Learn from one rollout; `progress` in [0, 1] of the whole run drives the learning-rate decay."""
        if self._algo.lr_decay:
            self._decay(1.0 - progress)
        estimate = self.critic.estimate(rollout)
        surrogate = torch.from_numpy(_normalised(estimate.advantages, rollout.active)).flatten()  # (B,)
        groups = len(self.policy.groups)
        order = range(groups) if self._algo.fixed_order else torch.randperm(groups, generator=self._generator).tolist()
        reports = []
        for index in order:
            net = self.policy.groups[index]
            rows = _rows(rollout, net)
            report = self._update_group(net, self._optimizers[index], rows, surrogate)
            with torch.no_grad():
                ratio = torch.exp(_log_probs(net(rows.features).logits, rows)[0] - rows.log_probs[..., 0])
                surrogate = surrogate * ratio.prod(0)
            reports.append(report)
        scalars = {key: float(np.mean([report[key] for report in reports])) for key in reports[0]}
        return scalars | self.critic.update(rollout, estimate)

    def _update_group(
        self, net: GroupNet, optimizer: GroupOptimizer, rows: Rows, surrogate: Tensor
    ) -> dict[str, float]:
        history: list[dict[str, float]] = []
        order = shuffle(len(surrogate), self._algo, self._generator)
        rows, surrogate = Rows(*(each[:, order] for each in rows)), surrogate[order]
        for epoch in minibatches(len(surrogate), self._algo):
            for index, part in enumerate(epoch):
                batch = Rows(*(each[:, part] for each in rows))
                output = net(batch.features)
                loss, report = self._policy_loss(output.logits, batch, surrogate[part])
                if net.latent_model and not index:
                    # Once an epoch, weighed for all its minibatches: the entropy model costs as much as the policy.
                    rate = net.latent_model.rate(self._rate_rows(output.latents), self._generator)
                    loss = loss + self._codec.rate_coef * len(epoch) * rate
                report["grad_norm"] = optimizer.step(loss, coded=not index)
                history.append(report)
        scalars = {key: float(np.mean([report[key] for report in history])) for key in history[0]}
        # Before the first step the ratio is 1 but for rounding; more would mean that what acted is not what is trained.
        return scalars | {"ratio_error": history[0]["ratio_error"]}

    def _policy_loss(self, logits: Tensor, rows: Rows, surrogate: Tensor) -> tuple[Tensor, dict[str, float]]:
        log_probs, entropy = _log_probs(logits, rows)
        clip, weight = self._algo.clip_coef, rows.active / rows.active.sum().clamp(min=1.0)
        ratio = torch.exp(log_probs - rows.log_probs[..., 0])  # (n, B)
        objective = torch.minimum(ratio * surrogate, ratio.clamp(1.0 - clip, 1.0 + clip) * surrogate)
        objective, entropy = (objective * weight).sum(), (entropy * weight).sum()
        with torch.no_grad():
            error = (ratio - 1.0).abs()
            report = {
                "policy_loss": -objective.item(),
                "entropy": entropy.item(),
                "clip_fraction": ((error > clip) * weight).sum().item(),
                "ratio_error": (error * weight).sum().item(),
            }
        return -objective - self._algo.entropy_coef * entropy, report

    def _rate_rows(self, latents: Tensor) -> Tensor:
        """A random sample of rows: the rate's gradient stays unbiased and costs a fraction of the policy's."""
        rows = torch.randint(latents.shape[1], (self._codec.rate_rows,), generator=self._generator)
        return latents[:, rows]

    def _decay(self, factor: float) -> None:
        for optimizer, lr in [(each.policy, self._algo.lr) for each in self._optimizers] + [
            (self.critic.optimizer, self._algo.critic_lr)
        ]:
            for group in optimizer.param_groups:
                group["lr"] = lr * factor


class GroupOptimizer:
    """The optimisers of one group: the policy's, and the entropy model's two (densities and quantiles)."""

    def __init__(self, net: GroupNet, algo: AlgoConfig, codec: CodecConfig) -> None:
        self._net, self._max_norm = net, algo.max_grad_norm
        self.policy = torch.optim.Adam(net.policy_parameters(), algo.lr, eps=algo.adam_eps, fused=True)
        self._density: torch.optim.Optimizer | None = None
        self._quantiles: torch.optim.Optimizer | None = None
        if net.latent_model:
            self._density = torch.optim.Adam(net.latent_model.density_parameters(), codec.lr, fused=True)
            self._quantiles = torch.optim.Adam(net.latent_model.quantile_parameters(), codec.aux_lr, fused=True)

    def step(self, loss: Tensor, coded: bool) -> float:
        """One step of all (of the entropy model if the loss has the rate in it); the policy's gradient norm."""
        self._net.zero_grad()
        loss.backward()
        norm = nn.utils.clip_grad_norm_(self._net.policy_parameters(), self._max_norm)
        self.policy.step()
        if coded and self._net.latent_model and self._density and self._quantiles:
            self._density.step()
            self._quantiles.zero_grad()
            self._net.latent_model.aux_loss().backward()
            self._quantiles.step()
        return float(norm)


def _rows(rollout: Rollout, net: GroupNet) -> Rows:
    """A group's part of a rollout."""
    members = net.members
    pick = slice(members[0], members[0] + 1) if len(members) == 1 else list(members)
    obs, available, actions, log_probs, active = (
        torch.from_numpy(each[pick]).flatten(1, 2)
        for each in (rollout.obs, rollout.available, rollout.actions, rollout.log_probs, rollout.active)
    )
    return Rows(net.normalise(obs), available, actions.long(), log_probs, active.float())


def _log_probs(logits: Tensor, rows: Rows) -> tuple[Tensor, Tensor]:
    """Log-probabilities of the actions taken and entropies, both (n, B)."""
    all_log_probs = logits.masked_fill(~rows.available, _NEVER).log_softmax(-1)
    entropy = -(all_log_probs.exp() * all_log_probs).sum(-1)
    return all_log_probs.gather(-1, rows.actions)[..., 0], entropy


def _normalised(advantages: np.ndarray, active: np.ndarray) -> np.ndarray:
    """Advantages (T, E) with zero mean and unit variance over the steps in which any agent was alive."""
    alive = advantages[active.any(0)]
    return (advantages - alive.mean()) / (alive.std() + 1e-5)
