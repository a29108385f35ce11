"""The on-policy family: role groups are updated one after the other, each by its algorithm's own
step.

The multi-agent advantage decomposition (Zhong et al., JMLR 25(32), 2024) splits the joint advantage
into one term for each agent, given the actions of the agents before it. So agents may improve in
turn, in any order, if each one accounts for what those before it have changed. With the advantage A
of the joint action, the agent m-th in order maximises a surrogate of

    M^m = A * prod over k < m of  pi_new^k(a^k | o^k) / pi_old^k(a^k | o^k)            (eq. 12)

Here a role group takes an agent's place: its agents share a trunk and are updated together. With
every agent alone in its group this is HARL exactly. Algorithms that are not `sequential` (MAPPO,
IPPO) use A for every group.

N agents, n of a group, T time, E environments, B = T * E rows, D numbers of an action; V values of
a state (1, or N).
"""

from __future__ import annotations

from abc import abstractmethod
from collections.abc import Mapping
from concurrent.futures import wait
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from sde_harl.algorithms.algorithm import Algorithm, Net
from sde_harl.algorithms.on_policy.critic_trainer import CriticTrainer
from sde_harl.algorithms.on_policy.group_batch import GroupBatch, gather_group, learnt_rows
from sde_harl.auxiliary.device import HOST, Device
from sde_harl.auxiliary.peers import ALONE, Peers
from sde_harl.auxiliary.rate import RateTrainer
from sde_harl.buffers.rollout import Rollout
from sde_harl.config.schema import AlgoConfig, CodecConfig
from sde_harl.policy.critic import Critic
from sde_harl.policy.distributions import Distribution
from sde_harl.policy.group_net import GroupNet
from sde_harl.policy.split_policy import SplitPolicy

# Devices tell the log-probabilities that they acted with. The server bounds each, but an action of
# many numbers, or many agents together, could still overflow a ratio, and one infinite row is NaN
# in the weights of all groups that follow. No honest ratio comes near these.
LARGEST_CHANGE = 20.0
"""Largest log-ratio of an agent's action; what is above counts as this and has no gradient."""
LARGEST_M = 1e9
"""Largest magnitude of M, and of the ratio of a group's joint action."""


class OnPolicy(Algorithm):
    """Updates a split policy and its critic from rollouts."""

    sequential = True
    """True if a group takes account of the groups updated before it."""

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
        """`generator` draws the order of groups and minibatches, and the rate's rows and noise.

        `peers` share the work; all of them draw the same. `policy` and `critic` are on `device`.
        """
        self.policy = policy
        self._algo = algo
        self._generator = generator
        self._peers = peers
        self._device = device
        self.rate_coef = codec.rate_coef
        self.critic_trainer = CriticTrainer(critic, algo, generator, peers, device=device)
        self._rate_trainers = [
            RateTrainer(net.latent_model, codec) if net.latent_model else None
            for net in policy.groups
        ]

    @abstractmethod
    def update_group(self, index: int, batch: GroupBatch) -> dict[str, float]:
        """Takes the algorithm's own step of group `index`; returns scalars to log.

        `ratio_error` is among them.
        """

    def start(self, rollout: Rollout) -> None:
        self.critic_trainer.estimator.start(rollout)

    def update(self, rollout: Rollout, progress: float) -> dict[str, float]:
        if self._algo.lr_decay:
            self.decay(1.0 - progress)
        estimate = self.critic_trainer.estimator.estimate(rollout)
        critic_scalars = self.critic_trainer.start_update(estimate)
        try:
            scalars = self._update_policies(rollout, estimate.advantages)
        finally:
            # Also when the policies' update fails: a run that is stopped saves the critic, which
            # must be at rest.
            wait([critic_scalars])
        return scalars | critic_scalars.result()

    def decay(self, factor: float) -> None:
        """Scales the initial learning rates."""
        set_learning_rate(self.critic_trainer.optimizer, self._algo.critic_lr * factor)

    def ratio(self, net: GroupNet, distribution: Distribution, batch: GroupBatch) -> Tensor:
        """Returns (n, B), pi_new / pi_old of each agent's action.

        An action of D numbers has D log-probabilities. HARL aggregates their ratios in two ways:
        the product is the ratio of the joint action, the mean keeps it near 1 where D is large.
        """
        change = distribution.log_probs(batch.actions) - batch.log_probs  # (n, B, D)
        if self._algo.action_aggregation == "prod":
            # The sum over one number would copy the array.
            total = change.sum(-1) if change.shape[-1] > 1 else change[..., 0]
            return torch.exp(total.clamp(max=LARGEST_CHANGE))
        # The mean of ratios, as 1 plus the mean of what they differ from 1: an agent's padding has
        # the change 0, which adds nothing to the sum, and the divisor counts only the numbers of
        # the agent's own action.
        return 1.0 + torch.expm1(change.clamp(max=LARGEST_CHANGE)).sum(-1) / net.dimensions

    def nets(self) -> dict[str, Net]:
        # Only these two: the optimisers and the memory belong to the other run's past.
        return {
            "critic_trainer/critic": self.critic_trainer.critic,
            "critic_trainer/value_norm": self.critic_trainer.value_norm,
        }

    def state_dict(self) -> dict[str, Any]:
        return {
            "critic_trainer": self.critic_trainer.state_dict(),
            "rate_trainers": {
                str(index): trainer.state_dict()
                for index, trainer in enumerate(self._rate_trainers)
                if trainer
            },
        }

    def load_state_dict(self, state: Mapping[str, Any]) -> None:
        self.critic_trainer.load_state_dict(state["critic_trainer"])
        for index, trainer in enumerate(self._rate_trainers):
            if trainer:
                trainer.load_state_dict(state["rate_trainers"][str(index)])

    def _update_policies(
        self, rollout: Rollout, advantages: NDArray[np.float32]
    ) -> dict[str, float]:
        """Updates the groups in turn, from advantages (V, T, E); returns their mean scalars."""
        normalised = _normalised(advantages, rollout.active_masks)
        [m] = self._device.put([learnt_rows(normalised, rollout)])  # (V, B), M of eq. 12
        order = self._order()
        reports = []
        for index in order:
            net = self.policy.groups[index]
            batch = gather_group(rollout, net, m, mask_dead=self._algo.policy_active_masks)
            batch = batch.on(self._device)
            reports.append(self.update_group(index, batch))
            if self.sequential and index != order[-1]:
                m = (m * self._joint_ratio(net, batch)).clamp(-LARGEST_M, LARGEST_M)
        return {name: float(np.mean([each[name] for each in reports])) for name in reports[0]}

    @torch.no_grad()
    def _joint_ratio(self, net: GroupNet, batch: GroupBatch) -> Tensor:
        """Returns (B,), pi_new / pi_old of a group's joint action, the product over its agents.

        A dead agent's action has no effect, so its ratio is 1 here; in HARL's factor it counts like
        any other.
        """
        own = batch.of(self._peers)
        outputs = own.forward(net).outputs
        distribution = net.distribution(outputs, own.available_actions)
        ratio = self.ratio(net, distribution, own)  # (n, B)
        product = (1.0 + (ratio - 1.0) * own.active_masks).prod(0)
        # Of many agents it may overflow before it meets a ratio of 0, which makes NaN of it.
        return self._peers.join(product.nan_to_num(nan=0.0).clamp(max=LARGEST_M), own.part)

    def _order(self) -> list[int]:
        """Returns the groups in the order of this update.

        It is random anew each time, as the decomposition holds for any order and no group is then
        always the first.
        """
        groups = len(self.policy.groups)
        if self._algo.fixed_order:
            return list(range(groups))
        order: list[int] = torch.randperm(groups, generator=self._generator).tolist()
        return order


def set_learning_rate(optimizer: torch.optim.Optimizer, lr: float) -> None:
    """Sets the learning rate of all of an optimiser's parameters."""
    for group in optimizer.param_groups:
        group["lr"] = lr


def _normalised(
    advantages: NDArray[np.float32], active_masks: NDArray[np.bool_]
) -> NDArray[np.float32]:
    """Returns advantages (V, T, E) with zero mean and unit variance over living agents' rows;
    active_masks (N, T, E).

    The team's value counts where any agent was alive. HARL normalises it anew for each
    agent, over that agent's rows alone; here it is done once, for M is one array that all groups
    multiply their ratios into.
    """
    if len(advantages) == 1:
        active_masks = active_masks.any(0, keepdims=True)  # (1, T, E)
    alive = advantages[active_masks]
    normalised: NDArray[np.float32] = (advantages - alive.mean()) / (alive.std() + 1e-5)
    return normalised
