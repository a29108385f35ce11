"""Diversity inside a role group: an intrinsic reward for being told apart from one's group mates.

    r_int = beta2 KL( pi~_i(.|tau) || p(.|tau) ) + [ beta1 log q(o'|tau, a, id) - log p(o'|tau, a) ]
    r     = r_env + beta r_int

From CDS (Li et al., NeurIPS 2021, arXiv 2106.02195): what an agent does and meets shall tell who it is. pi~_i is agent
i's policy sharpened, proportional to pi_i^beta1: softmax(beta1 logits), or a Gaussian of variance sigma^2 / beta1.
p(.|tau) is the mean of the policies of all members of i's group, on what i saw. The second part is predictors.py's. An
agent alone in its group has no reward: its identity says nothing that its group doesn't.

The KL is paid by the action that was taken: w (log pi~_i(a) - log p(a)) with w = pi~_i(a) / pi_i(a), whose mean over
a ~ pi_i is the KL exactly, in every action space. The KL itself would be the same whatever i does, so as a reward it
leaves the policy of its own step as it is, and agents that start alike stay alike. Paid by the action, its policy
gradient is the KL's: at beta1 = 1, and where the group's agents see the same, it is that of I(a; id | tau).

N agents, n of a group, T time, E environments, B = E * T rows in the order of (E, T), O observation, A outputs of a
head, D numbers of an action, H numbers of memory.
"""

from __future__ import annotations

import math
from typing import NamedTuple, Protocol

import numpy as np
import torch
from torch import Tensor

from sde_harl.auxiliary.predictors import Predictors, Transitions
from sde_harl.config.schema import DiversityConfig
from sde_harl.envs.base import EnvSpec
from sde_harl.errors import UserError
from sde_harl.policy.distributions import Distribution, Gaussians
from sde_harl.policy.group_net import GroupNet
from sde_harl.policy.gru import RecurrentState
from sde_harl.policy.split_policy import SplitPolicy

ROWS = 1 << 14
"""Rows that go through a group's nets at a time: a group of n looks at every row n times over."""


class PlayedRollout(Transitions, Protocol):
    """What is read of a rollout; `algorithms.rollout.Rollout` is one."""

    available_actions: np.ndarray
    """(N, T, E, A) bool."""
    memory: np.ndarray
    """(N, chunks, E, H) before the first step of each chunk."""


class Intrinsic(NamedTuple):
    rewards: np.ndarray
    """(T, E) float32, beta times the mean of r_int over the living agents: what is added to the team's reward."""
    scalars: dict[str, float]
    """To log: the means over steps of both parts and of `rewards`; rewards = beta (beta2 policy_kl + predictor)."""


class Diversity:
    """The intrinsic reward of a run, and the predictors that it needs."""

    def __init__(
        self,
        policy: SplitPolicy,
        spec: EnvSpec,
        config: DiversityConfig,
        generator: torch.Generator,
    ) -> None:
        """Raises UserError where no group has two agents, they see images, or the KL can't be paid."""
        groups = [net for net in policy.groups if len(net.members) > 1]
        if not groups:
            raise UserError(
                "diversity.coef: expected 0, for every agent is alone in its group (policy.groups)"
            )
        if spec.obs_images:
            raise UserError("diversity.coef: expected 0, for its predictors don't see images")
        if (
            spec.continuous and config.beta1 <= 0.5
        ):  # the variance of w is finite above one half alone
            raise UserError(
                f"diversity.beta1: expected more than 0.5 for continuous actions, got {config.beta1}"
            )
        self._config = config
        self._groups = [(net, Predictors(net.members, spec, config, generator)) for net in groups]

    def reward(self, played: PlayedRollout) -> Intrinsic:
        """Train the predictors on a rollout, then tell what it earns."""
        config, shape = self._config, played.active_masks.shape
        policy_kl, predictor = np.zeros(shape, np.float32), np.zeros(shape, np.float32)  # (N, T, E)
        for net, predictors in self._groups:
            members = list(net.members)
            predictors.learn(played)
            policy_kl[members] = _policy_kl(net, played, config.beta1)
            predictor[members] = predictors.reward(played, config.beta1)
        living = played.active_masks / np.maximum(played.active_masks.sum(0), 1)
        parts = [np.einsum("nte,nte->te", part, living) for part in (policy_kl, predictor)]
        rewards = (config.coef * (config.beta2 * parts[0] + parts[1])).astype(np.float32)
        means = {"policy_kl": parts[0], "predictor": parts[1], "reward": rewards}
        return Intrinsic(
            rewards, {f"diversity/{name}": float(each.mean()) for name, each in means.items()}
        )


@torch.no_grad()
def _policy_kl(net: GroupNet, played: PlayedRollout, beta1: float) -> np.ndarray:
    """(n, T, E) w (log pi~_i(a) - log p(a)) of a group's agents."""
    n, (steps, envs) = len(net.members), played.ended.shape
    result = np.empty((n, steps, envs), np.float32)
    width = max(1, ROWS // (n * n * steps))
    for first in range(0, envs, width):
        part = slice(first, first + width)
        values = policy_kl(net, _rows(net, played, part), beta1)
        result[:, :, part] = values.unflatten(1, (-1, steps)).transpose(1, 2).numpy()
    return result


class GroupExperience(NamedTuple):
    """What a group's agents saw and did."""

    obs: Tensor
    """(n, B, O)."""
    available_actions: Tensor
    """(n, B, A) bool."""
    actions: Tensor
    """(n, B, D) int64, or float32 if continuous."""
    recall: RecurrentState | None
    """Of the environments' sequences of T steps."""


def _rows(net: GroupNet, played: PlayedRollout, envs: slice) -> GroupExperience:
    """Some environments of a rollout, as sequences that are as long as it is."""
    members = list(net.members)
    obs, available, actions = (
        torch.from_numpy(each[members][:, :, envs]).transpose(1, 2).flatten(1, 2)
        for each in (played.obs, played.available_actions, played.actions)
    )
    recall = None
    if net.gru:
        keep = np.ones_like(played.ended[:, envs], np.float32)  # (T, E)
        keep[1:] = ~played.ended[:-1, envs]
        recall = RecurrentState(
            torch.from_numpy(played.memory[members][:, 0, envs]),
            torch.from_numpy(keep.T[None].copy()),
        )
    return GroupExperience(
        obs, available, actions if actions.is_floating_point() else actions.long(), recall
    )


def policy_kl(net: GroupNet, seen: GroupExperience, beta1: float) -> Tensor:
    """(n, B) w (log pi~_i(a) - log p(a)), whose mean over a ~ pi_i is KL(pi~_i || p).

    Member j looks at agent i's rows through its own local net, identity and head: at i's observation as i normalises
    it, cut to j's size, and with i's memory of what was before the rollout.
    """
    n = len(net.members)
    features = net.normalise(seen.obs)
    shown = (
        _to_each(features, n) * net.normalise.mask
        if net.normalise.padded
        else _to_each(features, n)
    )
    recall = seen.recall and RecurrentState(
        _to_each(seen.recall.memory, n), seen.recall.keep.repeat(1, n, 1)
    )
    outputs = net(shown, recall).outputs  # (n, n * B, A)
    distribution = net.distribution(outputs, _to_each(seen.available_actions, n))
    log_probs = distribution.log_probs(_to_each(seen.actions, n)).sum(-1)
    by_member = log_probs.unflatten(1, (n, -1))  # (member, agent, B)
    log_mean = by_member.logsumexp(0) - math.log(n)
    own = by_member.diagonal().T  # (n, B)
    own_outputs = outputs.unflatten(1, (n, -1)).diagonal().permute(2, 0, 1)  # (n, B, A)
    sharp = (
        _sharpened(net, own_outputs, seen.available_actions, beta1).log_probs(seen.actions).sum(-1)
    )
    return torch.exp(sharp - own) * (sharp - log_mean)


def _to_each(rows: Tensor, n: int) -> Tensor:
    """(n, B, ...) of all agents, to each of the n members: (n, n * B, ...)."""
    return rows.flatten(0, 1).expand(n, -1, *rows.shape[2:])


def _sharpened(net: GroupNet, outputs: Tensor, available: Tensor, beta1: float) -> Distribution:
    """Proportional to the policy to the power of beta1."""
    if net.log_std is None:
        return net.distribution(beta1 * outputs, available)
    return Gaussians(outputs, net.std() / math.sqrt(beta1), available)
