"""The on-policy family: role groups are updated one after the other, each by its algorithm's own step.

A group maximises a surrogate of M, the advantage times the ratios new/old of the groups updated before it, so that the
joint policy improves as the multi-agent advantage decomposition promises (Zhong et al., JMLR 25(32), 2024, eq. 12).
With every agent alone this is theirs exactly. The algorithms that are not `sequential` leave the ratios out.

N agents, n of a group, T time, E environments, B = T * E rows, A outputs of a head, D numbers of an action; V values of
a state (1, or N).
"""

from __future__ import annotations

from abc import ABC, abstractmethod
from concurrent.futures import wait
from typing import NamedTuple

import numpy as np
import torch
from torch import Tensor

from sde_harl.algorithms.on_policy.critic_trainer import CriticTrainer
from sde_harl.buffers.rollout import Rollout
from sde_harl.buffers.sequences import flat, pick, recall_of
from sde_harl.config.schema import AlgoConfig, CodecConfig
from sde_harl.policy.critic import Critic
from sde_harl.policy.distributions import Distribution
from sde_harl.policy.gru import RecurrentState
from sde_harl.policy.split_policy import GroupNet, GroupOutput, Known, SplitPolicy


class GroupBatch(NamedTuple):
    """A group's rows of a rollout."""

    features: Tensor
    """(n, B, O) normalised observations."""
    available: Tensor | None
    """(n, B, A) bool, or None where everything always was."""
    actions: Tensor
    """(n, B, D) int64, or float32 if continuous."""
    log_probs: Tensor
    """(n, B, D) of the behaviour policy."""
    active: Tensor
    """(n, B) 1.0 where the row counts."""
    advantages: Tensor
    """(n or 1, B), M."""
    recall: RecurrentState | None = None
    """Of the sequences that the rows are; None where each stands alone."""
    latents: Tensor | None = None
    """(n, B, Z) decoded, that the policy acted on; None where they all are what the features are coded to."""
    stale: Tensor | None = None
    """(n, B) bool, where they are not: the link was late, and something older stood for them."""

    @property
    def length(self) -> int:
        """Rows of a sequence."""
        return self.recall.keep.shape[-1] if self.recall else 1

    def take(self, sequences: slice | Tensor) -> GroupBatch:
        """Some of the sequences, or all in another order."""
        tensors = {name: each for name, each in self._asdict().items() if isinstance(each, Tensor)}
        taken = {name: pick(each, sequences, self.length) for name, each in tensors.items()}
        return self._replace(**taken, recall=self.recall and self.recall.pick(sequences))

    def through(self, net: GroupNet) -> GroupOutput:
        """What the group's nets make of the rows."""
        known = (
            None if self.stale is None or self.latents is None else Known(self.latents, self.stale)
        )
        output: GroupOutput = net(self.features, self.recall, known)
        return output

    def weights(self) -> Tensor:
        """(n, B), what each row counts; they sum to 1."""
        return self.active / self.active.sum().clamp(min=1.0)


class OnPolicy(ABC):
    """Updates a split policy and its critic from rollouts."""

    continuous = True
    """Whether it can act in continuous action spaces."""
    sequential = True
    """Whether a group takes account of the groups updated before it."""
    own_view = False
    """Whether the critic sees no more than the agent does."""

    def __init__(
        self,
        policy: SplitPolicy,
        critic: Critic,
        algo: AlgoConfig,
        codec: CodecConfig,
        generator: torch.Generator,
    ) -> None:
        self.policy, self._algo, self._generator = policy, algo, generator
        self.rate_coef = codec.rate_coef
        """Lambda of the next update."""
        self.critic = CriticTrainer(critic, algo, generator)

    @abstractmethod
    def update_group(self, index: int, rows: GroupBatch) -> dict[str, float]:
        """One algorithm's step of group `index`; returns scalars to log, `ratio_error` among them."""

    def update(self, rollout: Rollout, progress: float) -> dict[str, float]:
        """Learn from one rollout; `progress` in [0, 1] of the whole run drives the learning-rate decay."""
        if self._algo.lr_decay:
            self.decay(1.0 - progress)
        estimate = self.critic.estimate(rollout)
        of_critic = self.critic.begin(estimate)
        try:
            scalars = self._update_policies(rollout, estimate.advantages)
        finally:
            wait([of_critic])  # a run that is stopped saves a critic that nobody is changing
        return scalars | of_critic.result()

    def _update_policies(self, rollout: Rollout, advantages: np.ndarray) -> dict[str, float]:
        """One group after the other, with advantages (V, T, E); the means of what they log."""
        weighed = flat(
            torch.from_numpy(_normalised(advantages, rollout.active)), rollout.chunk
        )  # (V, B)
        order = self._order()
        reports = []
        for index in order:
            net = self.policy.groups[index]
            rows = self._rows(rollout, net, weighed)
            reports.append(self.update_group(index, rows))
            if self.sequential and index != order[-1]:
                weighed = weighed * self._joint_ratio(net, rows)
        return {key: float(np.mean([report[key] for report in reports])) for key in reports[0]}

    def decay(self, factor: float) -> None:
        """Scale the initial learning rates."""
        for group in self.critic.optimizer.param_groups:
            group["lr"] = self._algo.critic_lr * factor

    def ratio(self, net: GroupNet, distribution: Distribution, rows: GroupBatch) -> Tensor:
        """(n, B): new/old probability of each agent's action, product or mean over its numbers (HARL's two ways)."""
        change = distribution.log_probs(rows.actions) - rows.log_probs
        if self._algo.action_aggregation == "prod":
            return torch.exp(change.sum(-1) if change.shape[-1] > 1 else change[..., 0])
        return 1.0 + torch.expm1(change).sum(-1) / net.dimensions  # padding changes by 0

    @torch.no_grad()
    def _joint_ratio(self, net: GroupNet, rows: GroupBatch) -> Tensor:
        """(B,) new/old probability of what a group's agents did; what a dead one chose nobody did."""
        ratio = self.ratio(net, net.distribution(rows.through(net).outputs, rows.available), rows)
        return (1.0 + (ratio - 1.0) * rows.active).prod(0)

    def _order(self) -> list[int]:
        groups = len(self.policy.groups)
        if self._algo.fixed_order:
            return list(range(groups))
        order: list[int] = torch.randperm(groups, generator=self._generator).tolist()
        return order

    def _rows(self, rollout: Rollout, net: GroupNet, advantages: Tensor) -> GroupBatch:
        """A group's part of a rollout, with advantages (V, B).

        A row whose agent did nothing, for want of a latent, is none of the policy's decisions: it counts for nothing.
        """
        members = net.members
        mine = slice(members[0], members[0] + 1) if len(members) == 1 else list(members)
        obs, available, actions, log_probs, active = (
            flat(torch.from_numpy(each[mine]), rollout.chunk)
            for each in (
                rollout.obs,
                rollout.available,
                rollout.actions,
                rollout.log_probs,
                rollout.active,
            )
        )
        decided, stale = (
            flat(torch.from_numpy(each[mine]), rollout.chunk)
            for each in (rollout.decided, rollout.stale)
        )
        memory, all_fresh = torch.from_numpy(rollout.memory[mine]), net.whole or not stale.any()
        return GroupBatch(
            net.normalise(obs),
            None if available.all() else available,
            actions if actions.is_floating_point() else actions.long(),
            log_probs,
            (active & decided if self._algo.policy_active_masks else decided).float(),
            advantages if len(advantages) == 1 else advantages[mine],
            recall_of(memory, rollout.ended, rollout.chunk) if net.gru else None,
            None if all_fresh else flat(torch.from_numpy(rollout.latents[mine]), rollout.chunk),
            None if all_fresh else stale,
        )


def _normalised(advantages: np.ndarray, active: np.ndarray) -> np.ndarray:
    """Advantages (V, T, E) with zero mean and unit variance over the living, `active` (N, T, E).

    A team's value counts where any agent was alive.
    """
    alive = advantages[active if len(advantages) > 1 else active.any(0, keepdims=True)]
    return (advantages - alive.mean()) / (alive.std() + 1e-5)
