"""The policies' part of the intrinsic reward: how far an agent's policy is from its group's.

The quantity is KL(pi~_i(.|tau) || p(.|tau)), where

* pi~_i is agent i's policy sharpened, proportional to pi_i^beta1: softmax(beta1 logits), or a
  Gaussian of variance sigma^2 / beta1;
* p(.|tau) = 1/n sum_j pi_j(.|tau) is the mean of the policies of all n members of i's group, each
  run on what agent i saw.

An agent isn't rewarded by this KL itself but by a sample of it, at the action a that it took:

    w (log pi~_i(a) - log p(a))    with    w = pi~_i(a) / pi_i(a)

Its mean over a ~ pi_i is the KL exactly, in every action space, because w corrects for drawing from
pi_i and not from pi~_i. Why not the KL itself? It is the same number whatever the agent does at
this step. A reward that doesn't depend on the action gives the policy of that step no gradient, and
agents that start alike would stay alike. The sample rewards the actions that tell i from its mates.
The policy gradient of its mean is the gradient of the KL; at beta1 = 1, and if the group's agents
see the same, it is the gradient of the mutual information I(a; id | tau).

n agents of a group, B rows, T time, E environments, O observation, A outputs of a head, D numbers
of an action, H numbers of memory.
"""

from __future__ import annotations

import math
from typing import Any, NamedTuple

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from sde_harl.buffers.rollout import Rollout
from sde_harl.buffers.sequences import keep_masks
from sde_harl.policy.distributions import Distribution, Gaussians
from sde_harl.policy.group_net import GroupNet
from sde_harl.policy.gru import RecurrentState

ROWS = 1 << 14
"""Rows that go through a group's nets at a time. n agents give n * n times the rows of one."""


class GroupExperience(NamedTuple):
    """The observations and actions of a group's agents."""

    obs: Tensor
    """(n, B, O)."""
    available_actions: Tensor
    """(n, B, A) bool."""
    actions: Tensor
    """(n, B, D) int64, or float32 if continuous."""
    recurrent_state: RecurrentState | None
    """The memory of the environments' sequences of T steps; None if the policy has none."""


@torch.no_grad()
def rollout_kl(net: GroupNet, rollout: Rollout, beta1: float) -> NDArray[np.float32]:
    """Returns (n, T, E), the sampled KL of a group's agents at every step of a rollout."""
    n = len(net.members)
    steps, envs = rollout.ended.shape
    result = np.empty((n, steps, envs), np.float32)
    # All steps of some environments at a time, since a recurrent policy needs them in order.
    width = max(1, ROWS // (n * n * steps))
    for first in range(0, envs, width):
        part = slice(first, first + width)
        values = sampled_kl(net, _experience(net, rollout, part), beta1)  # (n, B)
        result[:, :, part] = values.unflatten(1, (-1, steps)).transpose(1, 2).numpy()
    return result


def sampled_kl(net: GroupNet, experience: GroupExperience, beta1: float) -> Tensor:
    """Returns (n, B), w (log pi~_i(a) - log p(a)), whose mean over a ~ pi_i is KL(pi~_i || p).

    Member j is run on agent i's rows with j's own local net, identity and head, and with i's memory
    from before the rollout.
    """
    n = len(net.members)
    outputs = _outputs_of_each(net, experience)
    policies = net.distribution(outputs, _to_each(experience.available_actions, n))
    log_probs = policies.log_probs(_to_each(experience.actions, n)).sum(-1)  # (n, n * B)
    by_member: Tensor = log_probs.unflatten(1, (n, -1))  # (j, i, B), log pi_j(a_i)
    log_mean = by_member.logsumexp(0) - math.log(n)  # (n, B), log p(a)
    own = by_member.diagonal().T  # (n, B), log pi_i(a_i)
    own_outputs = outputs.unflatten(1, (n, -1)).diagonal().permute(2, 0, 1)  # (n, B, A)
    sharpened = _sharpened(
        net, own_outputs, available_actions=experience.available_actions, beta1=beta1
    )
    sharp = sharpened.log_probs(experience.actions).sum(-1)  # (n, B), log pi~_i(a_i)
    return torch.exp(sharp - own) * (sharp - log_mean)


def _outputs_of_each(net: GroupNet, experience: GroupExperience) -> Tensor:
    """Returns the outputs (n, n * B, A) of each member on the rows of all members."""
    n = len(net.members)
    # Normalised as i sees it and cut to j's size: what j couldn't observe must not reach its net.
    shown = _to_each(net.normalise(experience.obs), n)  # (n, n * B, O)
    if net.normalise.padded:
        shown = shown * net.normalise.mask
    outputs: Tensor = net(shown, _state_for_each(experience.recurrent_state, n)).outputs
    return outputs


def _experience(net: GroupNet, rollout: Rollout, envs: slice) -> GroupExperience:
    """Returns a group's rows in some environments, as sequences that are as long as the rollout."""
    members = list(net.members)
    actions = _rows(rollout.actions, members, envs)
    if not actions.is_floating_point():
        actions = actions.long()  # torch gathers by int64 alone
    return GroupExperience(
        obs=_rows(rollout.obs, members, envs),
        available_actions=_rows(rollout.available_actions, members, envs),
        actions=actions,
        recurrent_state=_state_before(net, rollout, envs),
    )


def _rows(array: NDArray[Any], members: list[int], envs: slice) -> Tensor:
    """Returns (n, B, ...) of an array (N, T, E, ...): all steps of an environment side by side."""
    return torch.from_numpy(array[members][:, :, envs]).transpose(1, 2).flatten(1, 2)


def _state_before(net: GroupNet, rollout: Rollout, envs: slice) -> RecurrentState | None:
    """Returns the memory from before the rollout; None if the policy has none."""
    if not net.gru:
        return None
    memory = torch.from_numpy(rollout.memory[list(net.members)][:, 0, envs])  # (n, E, H)
    keep = keep_masks(rollout.ended[:, envs])[:, :-1]  # (1, T, E)
    return RecurrentState(memory=memory, keep=keep.transpose(1, 2))


def _to_each(rows: Tensor, n: int) -> Tensor:
    """Returns the rows (n, B, ...) of all agents for each member: (n, n * B, ...)."""
    return rows.flatten(0, 1).expand(n, -1, *rows.shape[2:])


def _state_for_each(state: RecurrentState | None, n: int) -> RecurrentState | None:
    """Returns the memories of all agents, shown to each of the n members."""
    if state is None:
        return None
    return RecurrentState(memory=_to_each(state.memory, n), keep=state.keep.repeat(1, n, 1))


def _sharpened(
    net: GroupNet, outputs: Tensor, *, available_actions: Tensor, beta1: float
) -> Distribution:
    """Returns the policy that is proportional to the one of `outputs` to the power of beta1."""
    if net.log_std is None:
        return net.distribution(beta1 * outputs, available_actions)
    return Gaussians(outputs, net.std() / math.sqrt(beta1), available_actions)
