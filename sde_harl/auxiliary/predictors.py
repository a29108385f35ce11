"""What comes next, told with and without knowing who acts: q(o'|o, a, id) and p(o'|o, a) of a role group.

Both are Gaussians of one fixed variance, half the number of an agent's own features, so that log q without its constant
is minus the mean squared error of the net's mean. (CDS's code takes the sum: with many features it drowns the policies'
part, which is of the order of log n.) A net tells the change o' - o; both begin with the same weights, which tell none,
and learn from the same rows, so that what they come to differ by is the identity.

An observation is in the environment's own units, bytes as 0 to 1. Nothing is told of what comes behind the end of an
episode or of the rollout, or of the dead.

n agents of the group, T time, E environments, R rows, O observation, A choices (or numbers) of an action, W width.
"""

from __future__ import annotations

from typing import Protocol

import numpy as np
import torch
from torch import Tensor, nn

from sde_harl.config.schema import DiversityConfig
from sde_harl.envs.base import EnvSpec
from sde_harl.policy.layers import RELU_GAIN, UNIT, affine, stack

BATCH = 256
"""Rows of a step of learning."""
ROWS = 1 << 10
"""Rows that are judged at a time: what fits the cache."""


class Transitions(Protocol):
    """What is read of a rollout."""

    obs: np.ndarray
    """(N, T, E, O)."""
    active_masks: np.ndarray
    """(N, T, E) bool, alive when it decided."""
    actions: np.ndarray
    """(N, T, E, D)."""

    @property
    def ended(self) -> np.ndarray:
        """(T, E) bool, where an episode ended with the step."""


class Predictors:
    """The two predictors of one role group, with their optimiser."""

    def __init__(
        self,
        members: tuple[int, ...],
        spec: EnvSpec,
        config: DiversityConfig,
        generator: torch.Generator,
    ) -> None:
        self._members, self._config, self._generator = list(members), config, generator
        obs, outputs = max(spec.obs_sizes), sum(spec.branches)
        self._unit = UNIT[spec.obs_dtype]
        self._branches = () if spec.continuous else spec.branches
        widths = [obs + outputs, config.width, config.width, obs]
        layers = stack(1, widths, [RELU_GAIN, RELU_GAIN, 0.0], generator)
        self._weights, self._biases = (
            [nn.Parameter(each.repeat(2, 1, 1)) for each in part] for part in layers
        )
        self._identity = nn.Parameter(
            torch.zeros(len(members), config.width)
        )  # what a one-hot input amounts to
        self._optimizer = torch.optim.Adam(
            [*self._weights, *self._biases, self._identity], config.lr, fused=True
        )
        sizes = np.array([spec.obs_sizes[agent] for agent in members])
        # (n, O): what a feature of the agent's own counts, 0.0 in its padding
        self._share = torch.from_numpy(
            ((np.arange(obs) < sizes[:, None]) / sizes[:, None]).astype(np.float32)
        )

    def learn(self, played: Transitions) -> None:
        """Some steps on random rows of a rollout."""
        index, steps = self._index(played), self._config.steps
        if not index.shape[1]:
            return
        picks = torch.randint(index.shape[1], (steps, BATCH), generator=self._generator).numpy()
        for pick in picks:
            self._optimizer.zero_grad()
            self._errors(played, index[:, pick]).mean(1).sum().backward()
            self._optimizer.step()

    @torch.no_grad()
    def reward(self, played: Transitions, beta1: float) -> np.ndarray:
        """(n, T, E) beta1 log q(o'|o, a, id) - log p(o'|o, a); 0 where nothing is told."""
        index = self._index(played)
        result = np.zeros((len(self._members), *played.ended.shape), np.float32)
        for first in range(0, index.shape[1], ROWS):
            rows = index[:, first : first + ROWS]
            knowing, blind = self._errors(played, rows).numpy()
            result[tuple(rows)] = blind - beta1 * knowing
        return result

    def _index(self, played: Transitions) -> np.ndarray:
        """(3, R) place in the group, time and environment of every row that has a row behind it."""
        alive = played.active_masks[self._members]
        return np.stack(np.nonzero(alive[:, :-1] & alive[:, 1:] & ~played.ended[:-1]))

    def _errors(self, played: Transitions, index: np.ndarray) -> Tensor:
        """(2, R) squared errors of q's and of p's mean, the mean over an agent's own features."""
        place, time, env = index
        agent, who = np.array(self._members)[place], torch.from_numpy(place)
        obs, following = (
            torch.from_numpy(played.obs[agent, t, env]).float() * self._unit
            for t in (time, time + 1)
        )
        known = torch.cat((obs, self._encoded(played.actions[agent, time, env])), -1)
        (weight, bias), *rest = zip(self._weights, self._biases)
        x = affine(known.expand(2, -1, -1), weight, bias)
        x = torch.stack((x[0] + self._identity[who], x[1]))
        for each in rest:
            x = affine(torch.relu(x), *each)
        return torch.linalg.vecdot((x - (following - obs)).square(), self._share[who])

    def _encoded(self, actions: np.ndarray) -> Tensor:
        """(R, A): the choice in each branch one-hot, or the numbers as they are."""
        if not self._branches:
            return torch.from_numpy(actions)
        first = np.cumsum((0, *self._branches[:-1]))
        encoded = torch.zeros(len(actions), sum(self._branches))
        return encoded.scatter_(1, torch.from_numpy((actions + first).astype(np.int64)), 1.0)
