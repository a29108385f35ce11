"""HASAC: maximum-entropy actor-critic, one role group after the other (Liu et al., ICLR 2024).

All agents maximise one objective, the discounted sum of r + sum_i alpha_i H_i, in which H_i is the
entropy of agent i's policy (twin critics, learnt temperatures: Haarnoja et al., arXiv 1812.05905).
Q(s, a) is what follows the first action, whose own entropy isn't part of it. Its target is

    sum_k gamma^k r_k + gamma^n (min Q'(s', a') + sum_i alpha_i H_i)

The entropies of the steps within a return are left out, as in HARL's code. They would be those of
the policies that acted: older ones were more random, and what they did would seem worth more.
Choices are drawn by the Gumbel-softmax, and their entropy is computed, not sampled; numbers are
tanh of normal ones. An agent's alpha grows while its entropy is below its target: a share of
log(available choices), or -D nats for D numbers.

Where the first alpha isn't given, it is FIRST_SHARE standard deviations of the rewards before the
first update, divided by the number of agents. So it scales with the rewards, and all entropies
together weigh as much beside them however many agents there are.

N agents, n of a group, B rows, A numbers of an action, V values of a state.
"""

from __future__ import annotations

import math
from collections.abc import Mapping
from typing import Any

import numpy as np
import torch
from torch import Tensor, nn

from sde_harl.algorithms.algorithm import Net
from sde_harl.algorithms.off_policy.base import OffPolicy
from sde_harl.algorithms.off_policy.batch import Batch
from sde_harl.algorithms.off_policy.reports import Reports
from sde_harl.auxiliary.optimizer_state import load_optimizer_state, optimizer_state
from sde_harl.config.schema import Config
from sde_harl.envs.base import EnvSpec
from sde_harl.policy.critic_input import CriticInput
from sde_harl.policy.distributions import Categoricals, SquashedGaussians
from sde_harl.policy.group_net import GroupNet
from sde_harl.policy.q_critic import joint_action, joint_with
from sde_harl.policy.shapes import CHOICES, SQUASHED
from sde_harl.policy.split_policy import SplitPolicy

FIRST_SHARE = 2.0
"""It gives about what was found by hand for spread, smax 3m and 3s5z; see docs/off_policy.md."""
FIRST_ALPHA = 0.2
"""The first alpha where the size of the rewards isn't known yet."""
FEWEST_REWARDS = 1000
"""Of fewer the deviation says little: neighbours in time are alike."""


class Hasac(OffPolicy):
    """Maximises min Q(s, a) + sum_i alpha_i H_i."""

    critics = 2
    scalars = (*OffPolicy.scalars, "entropy", "alpha")

    def __init__(
        self,
        *,
        policy: SplitPolicy,
        spec: EnvSpec,
        critic_input: CriticInput,
        config: Config,
        generator: torch.Generator,
    ) -> None:
        """Takes what `OffPolicy` takes."""
        super().__init__(
            policy=policy, spec=spec, critic_input=critic_input, config=config, generator=generator
        )
        algo = config.algo
        count = 1 if algo.share_alpha else len(spec.agents)
        self.temperatures = Temperatures(count, first=algo.alpha or FIRST_ALPHA, lr=algo.alpha_lr)

    def begin(self) -> None:
        # The temperatures of a run that starts from another one's nets came with them.
        if self._algo.alpha or self._config.train.load != "none":
            return
        rewards = self.experience.replay.rewards()
        deviation = float(rewards.std(dtype=np.float64))
        # Equal rewards may differ by rounding.
        if len(rewards) >= FEWEST_REWARDS and deviation > 1e-6 * np.abs(rewards).max():
            self.temperatures.set_first(FIRST_SHARE * deviation / len(self.spec.agents))

    @classmethod
    def heads(cls, spec: EnvSpec) -> str:
        return SQUASHED if spec.continuous else CHOICES

    def distribution(
        self, outputs: Tensor, available: Tensor | None
    ) -> Categoricals | SquashedGaussians:
        """Returns the distribution of actions that outputs (n, B, ...) describe."""
        if self.spec.continuous:
            return SquashedGaussians(outputs, available)
        return Categoricals(outputs, self.spec.branches, available)

    def act(self, outputs: Tensor, available: Tensor | None) -> Tensor:
        return self.distribution(outputs, available).sample(self._generator)

    @torch.no_grad()
    def targets(self, batch: Batch) -> Tensor:
        alpha = self.temperatures.alpha()  # (N or 1, 1)
        outputs = batch.outputs_after(self.nets_of_all)
        of_all = self.distribution(outputs, batch.choices(slice(None), batch.after))
        drawn = of_all.draw(self._generator)
        soft = (alpha * drawn.surprise * batch.active[:, batch.after]).sum(0)  # (B,)
        values = self.q_trainer.target_values(
            batch.states[:, batch.after], joint_action(drawn.actions)
        )
        return batch.returns + batch.discounts * (values + soft)

    def group_loss(
        self, net: GroupNet, outputs: Tensor, batch: Batch, others: Tensor, embedded: Tensor
    ) -> tuple[Tensor, dict[str, Tensor]]:
        members = list(net.members)
        drawn = self.distribution(outputs, batch.choices(members, batch.now)).draw(self._generator)
        mask_dead = self._algo.policy_active_masks
        own_actions = batch.of_the_living(net, drawn.actions, mask_dead=mask_dead)
        joint = joint_with(net, own_actions, others)
        values = self.q_trainer.least_values(embedded, joint).mean(0)  # (B,)
        weights = batch.weights(net, mask_dead=mask_dead)  # (n, B)
        of_row = weights.mean(0)  # (B,)
        alpha = self.temperatures.alpha()
        own = alpha if len(alpha) == 1 else alpha[members]
        objective = (values * of_row).sum()
        # In a row every agent's entropy weighs what Q does, as in the target of Q.
        surprise = drawn.surprise * (weights > 0)  # (n, B)
        loss = -objective - (own * surprise * of_row).sum()
        entropy = (drawn.surprise.detach() * weights).sum(-1)  # (n,)
        if self._algo.auto_alpha:
            self._entropies[members] = entropy
        report = {
            "policy_loss": loss.detach(),
            "q": objective.detach(),
            "entropy": entropy.mean(),
            "alpha": own.mean(),
        }
        return loss, report

    def update_groups(self, batch: Batch, reports: Reports) -> None:
        self._entropies = torch.zeros(len(self.spec.agents))
        super().update_groups(batch, reports)
        if self._algo.auto_alpha:
            self.temperatures.learn(self._entropies - self._target_entropies(batch))

    def _target_entropies(self, batch: Batch) -> Tensor:
        """Returns (N,) the mean entropy that each agent should have in these rows."""
        if self.spec.continuous:
            return torch.tensor([-float(dimensions) for (dimensions,) in self.spec.action_sizes])
        choices = batch.choices(slice(None), batch.now)
        if choices is None:
            most = sum(math.log(each) for each in self.spec.branches)
            return torch.full((len(self.spec.agents),), self._algo.target_entropy * most)
        parts = choices.split(self.spec.branches, -1)
        # An agent that lacks a branch has one choice in it, whose logarithm is 0.
        logs = [part.sum(-1).clamp(min=1).float().log() for part in parts]
        most_of_rows = torch.stack(logs).sum(0)  # (N, B)
        weights = batch.active[:, batch.now]
        if not self._algo.policy_active_masks:
            weights = torch.ones_like(weights)
        weights = weights / weights.sum(-1, keepdim=True).clamp(min=1.0)
        return self._algo.target_entropy * (most_of_rows * weights).sum(-1)

    def nets(self) -> dict[str, Net]:
        return {**super().nets(), "temperatures": self.temperatures}

    def state_dict(self) -> dict[str, Any]:
        return {
            **super().state_dict(),
            "temperatures": self.temperatures.state_dict(),
            "alpha_optimizer": optimizer_state(self.temperatures.optimizer),
        }

    def load_state_dict(self, state: Mapping[str, Any]) -> None:
        super().load_state_dict(state)
        self.temperatures.load_state_dict(state["temperatures"])
        load_optimizer_state(self.temperatures.optimizer, state["alpha_optimizer"])


class Temperatures(nn.Module):
    """The weights of the agents' entropies, as logarithms that are learnt."""

    def __init__(self, count: int, *, first: float, lr: float) -> None:
        """`count`: one for each agent, or 1 that they share."""
        super().__init__()
        self.log_alpha = nn.Parameter(torch.full((count,), math.log(first)))
        self.optimizer = torch.optim.Adam([self.log_alpha], lr)

    @torch.no_grad()
    def set_first(self, first: float) -> None:
        """Sets all of them, before the first step."""
        self.log_alpha.fill_(math.log(first))

    def alpha(self) -> Tensor:
        """Returns (N or 1, 1), detached."""
        return self.log_alpha.detach().exp()[:, None]

    def learn(self, excess: Tensor) -> None:
        """Takes a step, by how much each agent's entropy exceeds its target: (N,)."""
        if len(self.log_alpha) == 1:
            excess = excess.mean(0, keepdim=True)
        self.log_alpha.grad = excess
        self.optimizer.step()
