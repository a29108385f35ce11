"""Deterministic policies and their target policies: HADDPG, HATD3, MADDPG, MATD3.

A policy's action is the tanh of its output, in the units of its range. It explores by normal noise.
The value of what follows is that of the target policies' actions by the target critics:

    target   sum_k gamma^k r_k + gamma^n min Q'(s', clip(mu'(o') + noise, -1, 1))

N agents, n of a group, B rows, A numbers of an action, V values of a state.
"""

from __future__ import annotations

import copy
from collections.abc import Mapping
from typing import Any

import torch
from torch import Tensor

from sde_harl.algorithms.algorithm import Net
from sde_harl.algorithms.off_policy.base import OffPolicy
from sde_harl.algorithms.off_policy.batch import Batch
from sde_harl.algorithms.off_policy.q_trainer import follow
from sde_harl.config.schema import Config
from sde_harl.envs.base import EnvSpec
from sde_harl.policy.all_agents import AllAgents
from sde_harl.policy.critic_input import CriticInput
from sde_harl.policy.group_net import GroupNet
from sde_harl.policy.q_critic import joint_action, joint_with
from sde_harl.policy.shapes import BOUNDED
from sde_harl.policy.split_policy import SplitPolicy


class Deterministic(OffPolicy):
    """Maximises Q(s, mu(o)) of one critic."""

    discrete = False

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
        self.target_policy = copy.deepcopy(policy).requires_grad_(False)
        # A target policy's latents are rounded as the present ones are.
        for target, net in zip(self.target_policy.groups, policy.groups):
            target.latent_model = net.latent_model
        self._target_nets = AllAgents(self.target_policy.groups)
        self._policy_pairs: tuple[list[Tensor], list[Tensor]] = ([], [])
        for nets, parameters in zip((self.target_policy, policy), self._policy_pairs):
            for net in nets.groups:
                parameters += net.policy_parameters()

    @classmethod
    def heads(cls, spec: EnvSpec) -> str:
        return BOUNDED

    def exploration(self) -> tuple[float, float]:
        return 0.0, self._algo.expl_noise

    def act(self, outputs: Tensor, available: Tensor | None) -> Tensor:
        actions = outputs.tanh()
        return actions if available is None else actions * available

    @torch.no_grad()
    def targets(self, batch: Batch) -> Tensor:
        outputs = batch.outputs_after(self._target_nets)
        available = batch.choices(slice(None), batch.after)
        actions = self.smoothed(self.act(outputs, available))
        if available is not None:
            actions = actions * available  # no noise in padding
        values = self.q_trainer.target_values(batch.states[:, batch.after], joint_action(actions))
        return batch.returns + batch.discounts * values

    def smoothed(self, actions: Tensor) -> Tensor:
        """Returns the target policies' actions (N, B, A) with noise, in algorithms that smooth."""
        return actions

    def group_loss(
        self, net: GroupNet, outputs: Tensor, batch: Batch, others: Tensor, embedded: Tensor
    ) -> tuple[Tensor, dict[str, Tensor]]:
        own = self.act(outputs, batch.choices(list(net.members), batch.now))
        mask_dead = self._algo.policy_active_masks
        joint = joint_with(net, batch.of_the_living(net, own, mask_dead=mask_dead), others)
        # The first critic's alone, as in TD3: the least of two is for targets.
        values = self.q_trainer.first_values(embedded, joint).mean(0)  # (B,)
        objective = (values * batch.weights(net, mask_dead=mask_dead).mean(0)).sum()
        return -objective, {"policy_loss": -objective.detach(), "q": objective.detach()}

    def follow(self) -> None:
        super().follow()
        follow(*self._policy_pairs, self._algo.polyak)

    def nets(self) -> dict[str, Net]:
        return {**super().nets(), "target_policy": self.target_policy}

    def state_dict(self) -> dict[str, Any]:
        return {**super().state_dict(), "target_policy": self.target_policy.state_dict()}

    def load_state_dict(self, state: Mapping[str, Any]) -> None:
        super().load_state_dict(state)
        self.target_policy.load_state_dict(state["target_policy"])


class Smoothed(Deterministic):
    """Deterministic policies with TD3's three changes (Fujimoto et al., ICML 2018): twin critics,
    noise on the target policies' actions, and policies that learn less often."""

    critics = 2

    @property
    def policy_freq(self) -> int:
        return self._algo.policy_freq

    def smoothed(self, actions: Tensor) -> Tensor:
        noise = self._algo.policy_noise * torch.randn(actions.shape, generator=self._generator)
        bound = self._algo.noise_clip
        return (actions + noise.clamp(-bound, bound)).clamp(-1.0, 1.0)
