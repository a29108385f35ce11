"""The predictors' part of the intrinsic reward: does it help to know who acts?

Two nets of a role group predict the next observation o' from the observation o and the action a:
q(o'|o, a, id) also knows the agent's identity, p(o'|o, a) doesn't. Where q is better than p, the
agent's identity shows in what happens.

Both predict a Gaussian of one fixed variance, half the number of an agent's own features. Its log-
density is then, up to a constant, minus the mean squared error of the net's mean over these
features. CDS's code takes the sum: with many features it outweighs the policies' part, which is of
the order of log n.

The nets predict the change o' - o. They start with the same weights, which predict no change, and
learn from the same rows, so that only the identity can make them differ. Observations are in the
environment's own units, bytes as 0 to 1. No prediction is made across the end of an episode or of
the rollout, nor for the dead.

n agents of the group, T time, E environments, R rows, O observation, A choices (or numbers) of an
action, W width.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor, nn

from sde_harl.auxiliary.optimizer_state import load_optimizer_state, optimizer_state
from sde_harl.buffers.rollout import Rollout
from sde_harl.config.schema import DiversityConfig
from sde_harl.envs.base import EnvSpec
from sde_harl.policy.layers import RELU_GAIN, UNIT, affine, stack

BATCH = 256
"""Rows of a minibatch."""
ROWS = 1 << 10
"""Rows that are predicted at a time without gradients: as many as fit the processor's cache."""


class PredictorPair(nn.Module):
    """The nets of q (index 0) and p (index 1), stacked so that one product computes both."""

    def __init__(
        self, *, obs: int, action: int, agents: int, width: int, generator: torch.Generator
    ) -> None:
        """Takes O, A, n and W. The last layer's gain is 0: untrained nets predict no change."""
        super().__init__()
        widths = [obs + action, width, width, obs]
        weights, biases = stack(1, widths, gains=[RELU_GAIN, RELU_GAIN, 0.0], generator=generator)
        self.weights = nn.ParameterList([nn.Parameter(each.repeat(2, 1, 1)) for each in weights])
        self.biases = nn.ParameterList([nn.Parameter(each.repeat(2, 1, 1)) for each in biases])
        # Added to q's first layer, which is what a one-hot identity at its input would do.
        self.identity = nn.Parameter(torch.zeros(agents, width))  # (n, W)

    def forward(self, inputs: Tensor, agents: Tensor) -> Tensor:
        """Returns predicted changes (2, R, O) of inputs (R, O + A) of `agents` (R,)."""
        (weight, bias), *rest = zip(self.weights, self.biases)
        x = affine(inputs.expand(2, -1, -1), weight, bias)  # (2, R, W)
        x = torch.stack((x[0] + self.identity[agents], x[1]))
        for each in rest:
            x = affine(torch.relu(x), *each)
        return x


class Predictors:
    """The two predictors of one role group, with their optimiser."""

    def __init__(
        self,
        *,
        members: tuple[int, ...],
        spec: EnvSpec,
        config: DiversityConfig,
        generator: torch.Generator,
    ) -> None:
        """`generator` draws initial weights and minibatches."""
        self._members = np.array(members)
        self._config = config
        self._generator = generator
        self._unit = UNIT[spec.obs_dtype]
        self._branches = () if spec.continuous else spec.branches  # () marks plain numbers
        obs = max(spec.obs_sizes)
        self._net = PredictorPair(
            obs=obs,
            action=sum(spec.branches),
            agents=len(members),
            width=config.width,
            generator=generator,
        )
        self._optimizer = torch.optim.Adam(self._net.parameters(), config.lr, fused=True)
        self._feature_weights = _feature_weights([spec.obs_sizes[agent] for agent in members], obs)

    def learn(self, rollout: Rollout) -> None:
        """Takes some steps of Adam on random rows of a rollout."""
        index = self._index(rollout)
        rows = index.shape[1]
        if not rows:
            return
        minibatches = torch.randint(rows, (self._config.steps, BATCH), generator=self._generator)
        for picked in minibatches.numpy():
            self._optimizer.zero_grad()
            self._errors(rollout, index[:, picked]).mean(1).sum().backward()
            self._optimizer.step()

    @torch.no_grad()
    def reward(self, rollout: Rollout, beta1: float) -> NDArray[np.float32]:
        """Returns (n, T, E), beta1 log q(o'|o, a, id) - log p(o'|o, a).

        It is 0 where nothing is predicted.
        """
        index = self._index(rollout)
        result = np.zeros((len(self._members), *rollout.ended.shape), np.float32)
        for first in range(0, index.shape[1], ROWS):
            rows = index[:, first : first + ROWS]
            # An error is a minus log-density, up to a constant: of q, which knows who acts, and p.
            knowing, blind = self._errors(rollout, rows).numpy()
            result[tuple(rows)] = blind - beta1 * knowing
        return result

    def state_dict(self) -> dict[str, Any]:
        """Returns the state of the nets and of their optimiser."""
        return {"net": self._net.state_dict(), "optimizer": optimizer_state(self._optimizer)}

    def load_state_dict(self, state: Mapping[str, Any]) -> None:
        """Takes over what `state_dict` returned."""
        self._net.load_state_dict(state["net"])
        load_optimizer_state(self._optimizer, state["optimizer"])

    def _index(self, rollout: Rollout) -> NDArray[np.int64]:
        """Returns (3, R): agent in the group, time and environment of rows with a next one."""
        alive = rollout.active_masks[self._members]  # (n, T, E)
        return np.stack(np.nonzero(alive[:, :-1] & alive[:, 1:] & ~rollout.ended[:-1]))

    def _errors(self, rollout: Rollout, index: NDArray[np.int64]) -> Tensor:
        """Returns (2, R), the mean squared errors of q and p over an agent's own features."""
        place, time, env = index
        agent = self._members[place]
        who = torch.from_numpy(place)
        obs, next_obs = (
            torch.from_numpy(rollout.obs[agent, t, env]).float() * self._unit
            for t in (time, time + 1)
        )  # (R, O)
        actions = self._encoded(rollout.actions[agent, time, env])  # (R, A)
        change = self._net(torch.cat((obs, actions), -1), who)  # (2, R, O)
        squares = (change - (next_obs - obs)).square()
        errors: Tensor = torch.linalg.vecdot(squares, self._feature_weights[who])
        return errors

    def _encoded(self, actions: NDArray[Any]) -> Tensor:
        """Returns actions (R, D) as (R, A): one-hot in each branch, or the numbers as they are."""
        if not self._branches:
            return torch.from_numpy(actions)
        offsets = np.cumsum((0, *self._branches[:-1]))
        encoded = torch.zeros(len(actions), sum(self._branches))
        chosen = torch.from_numpy((actions + offsets).astype(np.int64))
        return encoded.scatter_(1, chosen, 1.0)


def _feature_weights(sizes: list[int], obs: int) -> Tensor:
    """Returns (n, O), each feature's weight in the mean over an agent's own: 0.0 in padding."""
    own = np.array(sizes)[:, None]
    weights = (np.arange(obs) < own) / own
    return torch.from_numpy(weights.astype(np.float32))
