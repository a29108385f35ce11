"""Random play as the identity model sees it: scaled, without what tells who an agent is.

N agents, E environments, T time, O observation, A numbers that describe an action.
"""

from __future__ import annotations

from typing import Any, NamedTuple

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from sde_harl.roles.experience import Experience

VARIES = 1e-6
"""Deviation above which a feature counts as one that varies."""


class Examples(NamedTuple):
    """One agent's transitions while it was alive, one environment after the other."""

    inputs: Tensor
    """(rows, O + A), scaled; a feature of the observation that never varies is 0."""
    targets: Tensor
    """(rows, O + 1), the changes of the observation and the reward, scaled."""
    varies: Tensor
    """(O + 1,) 1.0 where the target counts."""

    def split(self, parts: int) -> list[Examples]:
        """Returns consecutive parts: of the environments, or of the time where there are few."""
        pairs = zip(self.inputs.tensor_split(parts), self.targets.tensor_split(parts))
        return [
            Examples(inputs=inputs, targets=targets, varies=self.varies)
            for inputs, targets in pairs
        ]


class Scales(NamedTuple):
    """Centres and deviations over the transitions of all agents, so that theirs can be compared."""

    obs_centre: NDArray[np.float32]
    """(O,)."""
    obs: NDArray[np.float32]
    """(O,)."""
    change: NDArray[np.float32]
    """(O,), of o' - o."""
    reward_centre: np.float32
    reward: NDArray[np.float32]
    """(1,)."""


def make_examples(experience: Experience) -> list[Examples]:
    """Returns the examples of each agent."""
    obs = _by_agent(experience.obs)  # (N, E, T, O)
    actions = _by_agent(experience.actions)  # (N, E, T, A)
    next_obs = _by_agent(experience.next_obs)  # (N, E, T, O)
    active = _by_agent(experience.active)  # (N, E, T)
    rewards = experience.rewards.T  # (E, T)
    # One scale for all agents, so that their embeddings can be compared.
    scales = Scales(
        obs_centre=obs[active].mean(0),
        obs=_deviation(obs[active]),
        change=_deviation((next_obs - obs)[active]),
        reward_centre=rewards.mean(),
        reward=_deviation(rewards.reshape(-1, 1)),
    )
    return [
        # Of the dead nothing is learnt: their actions have no effect.
        _scaled(
            obs=obs[agent][alive],
            actions=actions[agent][alive],
            next_obs=next_obs[agent][alive],
            rewards=rewards[alive],
            scales=scales,
        )
        for agent, alive in enumerate(active)
    ]


def _scaled(
    *,
    obs: NDArray[np.float32],
    actions: NDArray[np.float32],
    next_obs: NDArray[np.float32],
    rewards: NDArray[np.float32],
    scales: Scales,
) -> Examples:
    """Returns the examples of one agent's transitions, all of them (rows, ...)."""
    varies = _varying(obs)
    # What never varies is 0 in the inputs too: its value would tell the decoder who the agent is.
    scaled_obs = (obs - scales.obs_centre) / scales.obs * varies
    changes = (next_obs - obs) / scales.change
    reward = (rewards[:, None] - scales.reward_centre) / scales.reward
    inputs = np.concatenate([scaled_obs, actions], -1)
    targets = np.concatenate([changes, reward], -1)
    return Examples(
        inputs=torch.from_numpy(inputs).float(),
        targets=torch.from_numpy(targets).float(),
        varies=torch.from_numpy(np.append(varies, True).astype(np.float32)),
    )


def _varying(obs: NDArray[np.float32]) -> NDArray[np.bool_]:
    """Returns (O,), True for the features of obs (rows, O) that vary; none does without rows."""
    if not len(obs):  # numpy warns of the deviation of nothing
        return np.zeros(obs.shape[-1], bool)
    varies: NDArray[np.bool_] = obs.std(0) > VARIES
    return varies


def _by_agent(values: NDArray[Any]) -> NDArray[Any]:
    """Returns (N, E, T, ...) of values (T, E, N, ...)."""
    return np.moveaxis(values, 2, 0).swapaxes(1, 2)


def _deviation(values: NDArray[np.float32]) -> NDArray[np.float32]:
    """Returns the deviation (O,) of values (rows, O), and 1 for what doesn't vary."""
    deviation: NDArray[np.float32] = values.std(0)
    return np.where(deviation > VARIES, deviation, 1.0)
