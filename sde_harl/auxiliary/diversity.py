"""Diversity inside a role group: an intrinsic reward for acting differently from one's group mates.

An agent earns it by doing and meeting what tells it apart from the other agents of its group (CDS:
Li et al., NeurIPS 2021, arXiv 2106.02195). With tau the agent's trajectory so far:

    r_int = beta2 KL(pi~_i(.|tau) || p(.|tau)) + [ beta1 log q(o'|tau, a, id) - log p(o'|tau, a) ]
    r     = r_env + beta r_int

The first part compares the agent's policy pi_i with its group's mean policy p: policy_kl.py. The
second compares two predictions of its next observation o', one of which knows who acts:
predictors.py. An agent that is alone in its group earns nothing, since its group's policy is its
own.

N agents, T time, E environments.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any, NamedTuple

import numpy as np
import torch
from numpy.typing import NDArray

from sde_harl.auxiliary.policy_kl import rollout_kl
from sde_harl.auxiliary.predictors import Predictors
from sde_harl.buffers.rollout import Rollout
from sde_harl.config.schema import DiversityConfig
from sde_harl.envs.base import EnvSpec
from sde_harl.errors import UserError
from sde_harl.policy.group_net import GroupNet
from sde_harl.policy.split_policy import SplitPolicy


class Intrinsic(NamedTuple):
    """The intrinsic reward of a rollout."""

    rewards: NDArray[np.float32]
    """(T, E) float32 to add to the team's reward: beta times r_int's mean over living agents."""
    scalars: dict[str, float]
    """To log: the means over steps of both parts and of `rewards`.

    rewards = beta (beta2 policy_kl + predictor).
    """


class Diversity:
    """Computes the intrinsic reward of a run, and trains the predictors that it needs."""

    def __init__(
        self,
        *,
        policy: SplitPolicy,
        spec: EnvSpec,
        config: DiversityConfig,
        generator: torch.Generator,
    ) -> None:
        """`generator` draws the predictors' weights and minibatches.

        Raises UserError where no agent could earn anything, or not with finite variance.
        """
        groups = [net for net in policy.groups if len(net.members) > 1]
        _check_usable(groups, spec, config)
        self._config = config
        self._groups = [
            (net, Predictors(members=net.members, spec=spec, config=config, generator=generator))
            for net in groups
        ]

    def reward(self, rollout: Rollout) -> Intrinsic:
        """Trains the predictors on a rollout, then returns the rollout's intrinsic reward."""
        config = self._config
        policy_kl, predictor = self._parts(rollout)
        # The mean and not the sum over agents, so that beta means the same for teams of any size.
        living = rollout.active_masks / np.maximum(rollout.active_masks.sum(0), 1)  # (N, T, E)
        team_kl = np.einsum("nte,nte->te", policy_kl, living)
        team_predictor = np.einsum("nte,nte->te", predictor, living)
        rewards = (config.coef * (config.beta2 * team_kl + team_predictor)).astype(np.float32)
        scalars = {
            "diversity/policy_kl": float(team_kl.mean()),
            "diversity/predictor": float(team_predictor.mean()),
            "diversity/reward": float(rewards.mean()),
        }
        return Intrinsic(rewards=rewards, scalars=scalars)

    def _parts(self, rollout: Rollout) -> tuple[NDArray[np.float32], NDArray[np.float32]]:
        """Returns the policies' and the predictors' part of each agent's reward, (N, T, E) each."""
        # 0 for agents that are alone in their groups.
        policy_kl = np.zeros(rollout.active_masks.shape, np.float32)
        predictor = np.zeros(rollout.active_masks.shape, np.float32)
        for net, predictors in self._groups:
            members = list(net.members)
            predictors.learn(rollout)
            policy_kl[members] = rollout_kl(net, rollout, self._config.beta1)
            predictor[members] = predictors.reward(rollout, self._config.beta1)
        return policy_kl, predictor

    def state_dict(self) -> dict[str, Any]:
        """Returns the state of each group's predictors, groups of one agent not counted."""
        return {
            str(index): predictors.state_dict()
            for index, (_, predictors) in enumerate(self._groups)
        }

    def load_state_dict(self, state: Mapping[str, Any]) -> None:
        """Takes over what `state_dict` returned."""
        for index, (_, predictors) in enumerate(self._groups):
            predictors.load_state_dict(state[str(index)])


def _check_usable(groups: list[GroupNet], spec: EnvSpec, config: DiversityConfig) -> None:
    """Raises UserError where `groups` (of two agents or more) or the game rule the reward out."""
    if not groups:
        raise UserError(
            "diversity.coef: expected 0, for every agent is alone in its group (policy.groups)"
        )
    if spec.obs_images:
        raise UserError("diversity.coef: expected 0, for its predictors don't see images")
    # The weight w of policy_kl.py is a ratio of Gaussians of variance sigma^2 / beta1 and sigma^2:
    # its variance is infinite up to one half.
    if spec.continuous and config.beta1 <= 0.5:
        raise UserError(
            f"diversity.beta1: expected more than 0.5 for continuous actions, got {config.beta1}"
        )
