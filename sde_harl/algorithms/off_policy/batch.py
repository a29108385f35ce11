"""A sample of the replay as the nets take it.

N agents, n of a group, B rows, O observation, A numbers of an action as the critic sees it (one-hot
choices, or numbers in units of -1 .. 1), S critic's input, V values of a state, Z latent. Arrays of
2 B rows hold the rows and then what followed them.
"""

from __future__ import annotations

from typing import NamedTuple

import numpy as np
import torch
from torch import Tensor
from torch.nn import functional

from sde_harl.buffers.replay import Sample
from sde_harl.envs.base import EnvSpec
from sde_harl.policy.all_agents import AllAgents
from sde_harl.policy.critic_input import CriticInput
from sde_harl.policy.group_net import GroupNet, GroupOutput, SubstitutedLatents
from sde_harl.policy.layers import FeatureNorm


class Batch(NamedTuple):
    """Rows that one update learns from."""

    features: Tensor
    """(N, 2 B, O), normalised observations."""
    available: Tensor | None
    """(N, 2 B, A) bool, or None where everything is available."""
    active: Tensor
    """(N, 2 B) 1.0 where the agent is alive."""
    states: Tensor
    """(V, 2 B, S), the critic's inputs."""
    actions: Tensor
    """(N, B, A) that were done."""
    returns: Tensor
    """(B,) as in `Sample`."""
    discounts: Tensor
    """(B,) as in `Sample`."""
    latents: SubstitutedLatents | None
    """(N, 2 B, Z) that were sent; None where all latents are encoded anew."""

    @property
    def now(self) -> slice:
        """Returns which of the 2 B rows are the sampled ones."""
        return slice(0, len(self.returns))

    @property
    def after(self) -> slice:
        """Returns which of the 2 B rows are what followed."""
        return slice(len(self.returns), None)

    def forward(self, net: GroupNet, rows: slice) -> GroupOutput:
        """Runs a group's nets on `now` or `after`."""
        members = list(net.members)
        substituted = None
        if self.latents is not None:
            substituted = SubstitutedLatents(*(each[members, rows] for each in self.latents))
        output: GroupOutput = net(self.features[members, rows], None, substituted)
        return output

    def outputs_after(self, nets: AllAgents) -> Tensor:
        """Returns (N, B, ...), the heads' outputs in what followed the rows."""
        substituted = None
        if self.latents is not None:
            substituted = SubstitutedLatents(*(each[:, self.after] for each in self.latents))
        return nets.outputs(self.features[:, self.after], substituted)

    def weights(self, net: GroupNet, *, mask_dead: bool) -> Tensor:
        """Returns (n, B), the weight of each row in a mean over those that count: 1 in all."""
        active = self.active[list(net.members), self.now]
        if not mask_dead:
            active = torch.ones_like(active)
        return active / active.sum(-1, keepdim=True).clamp(min=1.0)

    def of_the_living(self, net: GroupNet, actions: Tensor, *, mask_dead: bool) -> Tensor:
        """Returns a group's actions (n, B, A) through which no gradient reaches dead agents.

        The weights of rows can't see to that in a group of several agents: they share Q, and a row
        counts where one of them is alive.
        """
        if not mask_dead or len(net.members) == 1:
            return actions
        alive = self.active[list(net.members), self.now, None] > 0
        return torch.where(alive, actions, actions.detach())

    def choices(self, agents: list[int] | slice, rows: slice) -> Tensor | None:
        """Returns what is available to some agents in some rows; None for everything."""
        if self.available is None:
            return None
        return self.available[agents, rows]


class BatchMaker:
    """Makes batches of samples."""

    def __init__(self, spec: EnvSpec, critic_input: CriticInput, *, features: FeatureNorm) -> None:
        """`features` normalises the observations of all agents."""
        self._spec = spec
        self._critic_input = critic_input
        self._features = features
        if spec.continuous:
            low, high = spec.bounds()
            self._middle = (low + high)[:, None] / 2
            # 1 in padding, whose actions are 0, so that nothing is divided by 0.
            self._half = np.where(high > low, (high - low) / 2, np.float32(1.0))[:, None]

    def make(self, sample: Sample, *, symbols: bool) -> Batch:
        """Returns the batch of a sample; with `symbols` it has the latents that were sent."""
        available = torch.from_numpy(np.ascontiguousarray(sample.available))
        inputs = self._critic_input(sample.state, sample.obs.swapaxes(0, 1))
        return Batch(
            features=self._features(torch.from_numpy(np.ascontiguousarray(sample.obs))),
            available=None if available.all() else available,
            active=torch.from_numpy(sample.active.astype(np.float32)),
            states=torch.from_numpy(np.ascontiguousarray(inputs)),
            actions=self._actions(sample),
            returns=torch.from_numpy(sample.returns),
            discounts=torch.from_numpy(sample.discounts),
            latents=_sent(sample) if symbols else None,
        )

    def _actions(self, sample: Sample) -> Tensor:
        """Returns (N, B, A), the actions as the critic sees them."""
        if self._spec.continuous:
            padding = self._spec.choices()[:, None]
            return torch.from_numpy((sample.actions - self._middle) / self._half * padding)
        chosen = torch.from_numpy(np.ascontiguousarray(sample.actions)).long()
        parts = [
            functional.one_hot(chosen[..., d], choices)
            for d, choices in enumerate(self._spec.branches)
        ]
        return torch.cat(parts, -1).float()


def _sent(sample: Sample) -> SubstitutedLatents:
    """Returns the latents that were sent; they replace a row's own where there were any."""
    latents = torch.from_numpy(np.ascontiguousarray(sample.latents))
    return SubstitutedLatents(latents=latents, stale=torch.from_numpy(sample.sent))
