"""What on-policy algorithms share: value normalisation, generalised advantage estimation, the critic's update.

T time, E environments, S state, B = T * E rows.
"""

from __future__ import annotations

import itertools
from typing import NamedTuple

import numpy as np
import torch
from torch import Tensor
from torch.nn import functional as F

from sde_harl.algorithms.rollout import Rollout
from sde_harl.config import AlgoConfig
from sde_harl.policy.critic import Critic


class ValueNorm:
    """Running mean and variance of returns, as in PopArt without the output correction (Yu et al., NeurIPS 2022)."""

    def __init__(self, enabled: bool = True, beta: float = 0.99999) -> None:
        self._enabled, self._beta = enabled, beta
        self._moments = np.zeros(3)  # decayed mean, mean of squares, and weight

    def update(self, returns: np.ndarray) -> None:
        batch = np.array([returns.mean(dtype=np.float64), np.square(returns, dtype=np.float64).mean(), 1.0])
        # A batch counts for all its rows, so that the statistics move with data and not with the number of calls.
        weight = self._beta**returns.size
        self._moments = weight * self._moments + (1.0 - weight) * batch

    def statistics(self) -> tuple[float, float]:
        """Mean and standard deviation of returns seen so far (0 and 1 before any)."""
        mean, square, weight = self._moments
        if not self._enabled or not weight:
            return 0.0, 1.0
        return mean / weight, max(square / weight - (mean / weight) ** 2, 1e-4) ** 0.5

    def state(self) -> Tensor:
        return torch.from_numpy(self._moments.copy())

    def restore(self, state: Tensor) -> None:
        self._moments = state.numpy().astype(np.float64)


def advantages(
    rewards: np.ndarray,
    values: np.ndarray,
    final_values: np.ndarray,
    terminated: np.ndarray,
    truncated: np.ndarray,
    gamma: float,
    gae_lambda: float,
) -> np.ndarray:
    """Generalised advantage estimation (Schulman et al., ICLR 2016, eq. 16), (T, E) float32.

    rewards, terminated, truncated (T, E); values (T+1, E). A truncated episode is bootstrapped from `final_values`
    (T, E), the value of the state it was cut in; a terminated one from zero; neither leaks into the next episode.
    """
    ended = terminated | truncated
    following = np.where(ended, np.where(truncated, final_values, 0.0), values[1:])
    deltas = rewards + gamma * following - values[:-1]
    decay = np.where(ended, 0.0, gamma * gae_lambda)
    result = np.empty_like(deltas)
    running = np.zeros_like(deltas[0])
    for t in range(len(deltas) - 1, -1, -1):
        running = deltas[t] + decay[t] * running
        result[t] = running
    return result.astype(np.float32)


class Estimate(NamedTuple):
    """What the critic says of a rollout."""

    advantages: np.ndarray
    """(T, E)."""
    returns: np.ndarray
    """(T, E), the critic's targets."""
    values: np.ndarray
    """(T, E), predicted before the update."""


class CriticTrainer:
    """The centralised critic, its normaliser and its optimiser."""

    def __init__(self, critic: Critic, config: AlgoConfig, generator: torch.Generator) -> None:
        self.critic, self._config, self._generator = critic, config, generator
        self.norm = ValueNorm(config.valuenorm)
        self.optimizer = torch.optim.Adam(critic.parameters(), config.critic_lr, eps=config.adam_eps, fused=True)

    def estimate(self, rollout: Rollout) -> Estimate:
        """Advantages and returns of a rollout, one batched look at all its states."""
        mean, std = self.norm.statistics()
        values = self._values(rollout.states) * std + mean
        final_values = np.zeros_like(rollout.rewards)
        if rollout.truncated.any():
            final_values[rollout.truncated] = self._values(rollout.final_states[rollout.truncated]) * std + mean
        config = self._config
        ends = (final_values, rollout.terminated, rollout.truncated)
        result = advantages(rollout.rewards, values, *ends, config.gamma, config.gae_lambda)
        return Estimate(result, result + values[:-1], values[:-1])

    def update(self, rollout: Rollout, estimate: Estimate) -> dict[str, float]:
        """Some epochs of the clipped huber value loss; returns scalars to log."""
        self.norm.update(estimate.returns)
        mean, std = self.norm.statistics()
        order = shuffle(estimate.returns.size, self._config, self._generator)
        states = torch.from_numpy(rollout.states[:-1]).flatten(0, 1)[order]  # (B, S)
        targets = torch.from_numpy((estimate.returns.reshape(-1) - mean) / std).float()[order]
        old = torch.from_numpy((estimate.values.reshape(-1) - mean) / std).float()[order]
        total, count = 0.0, 0
        for rows in itertools.chain(*minibatches(len(targets), self._config)):
            loss = self._loss(self.critic(states[rows]), targets[rows], old[rows])
            self.optimizer.zero_grad()
            (loss * self._config.value_coef).backward()
            torch.nn.utils.clip_grad_norm_(self.critic.parameters(), self._config.max_grad_norm)
            self.optimizer.step()
            total, count = total + loss.item(), count + 1
        residual = np.var(estimate.returns - estimate.values)
        explained = 1.0 - residual / max(np.var(estimate.returns), 1e-8)
        return {"value_loss": total / count, "explained_variance": float(explained)}

    def _loss(self, values: Tensor, targets: Tensor, old: Tensor) -> Tensor:
        config = self._config
        loss = F.huber_loss(values, targets, reduction="none", delta=config.huber_delta)
        if config.clip_value_loss:
            near = old + (values - old).clamp(-config.clip_coef, config.clip_coef)
            loss = torch.maximum(loss, F.huber_loss(near, targets, reduction="none", delta=config.huber_delta))
        return loss.mean()

    @torch.no_grad()
    def _values(self, states: np.ndarray) -> np.ndarray:
        return self.critic(torch.from_numpy(states)).numpy()


def minibatches(rows: int, config: AlgoConfig) -> list[list[slice]]:
    """Row selections, a list an epoch. Slices of rows that the caller has shuffled once, for slices copy nothing."""
    edges = np.linspace(0, rows, config.minibatches + 1).astype(int).tolist()
    return [[slice(*edge) for edge in zip(edges[:-1], edges[1:])]] * config.epochs


def shuffle(rows: int, config: AlgoConfig, generator: torch.Generator) -> slice | Tensor:
    """An order of rows for `minibatches`; with one minibatch any order will do."""
    return slice(None) if config.minibatches == 1 else torch.randperm(rows, generator=generator)
