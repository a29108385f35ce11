"""What the critic is for: value normalisation, generalised advantage estimation, and its own update.

T time, E environments, B = T * E rows; V values of a state, W numbers that the critic sees for each; S sequences of L
steps and H numbers of memory, if it is recurrent.
"""

from __future__ import annotations

import os
from concurrent.futures import Future, ThreadPoolExecutor
from typing import NamedTuple

import numpy as np
import torch
from torch import Tensor
from torch.nn import functional as F

from sde_harl.buffers.rollout import Rollout
from sde_harl.buffers.sequences import flat, kept, minibatches, pick, recall_of, shuffle
from sde_harl.config.schema import AlgoConfig
from sde_harl.policy.critic import Critic
from sde_harl.policy.gru import RecurrentState


class ValueNorm:
    """Running mean and variance of returns, as in PopArt without the output correction (Yu et al., NeurIPS 2022)."""

    def __init__(self, enabled: bool = True, beta: float = 0.99999) -> None:
        self._enabled, self._beta = enabled, beta
        self._moments = np.zeros(3)  # decayed mean, mean of squares, and weight

    def update(self, returns: np.ndarray) -> None:
        batch = np.array(
            [returns.mean(dtype=np.float64), np.square(returns, dtype=np.float64).mean(), 1.0]
        )
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
    """Generalised advantage estimation (Schulman et al., ICLR 2016, eq. 16), (V, T, E) float32.

    rewards, terminated, truncated (T, E); values (V, T+1, E). A truncated episode is bootstrapped from `final_values`
    (V, T, E), the value of the state it was cut in; a terminated one from zero; neither leaks into the next episode.
    """
    ended = terminated | truncated
    following = np.where(ended, np.where(truncated, final_values, 0.0), values[:, 1:])
    deltas = rewards + gamma * following - values[:, :-1]
    decay = np.where(ended, 0.0, gamma * gae_lambda)
    result = np.empty_like(deltas)
    running = np.zeros_like(deltas[:, 0])
    for t in range(len(decay) - 1, -1, -1):
        running = deltas[:, t] + decay[t] * running
        result[:, t] = running
    return result.astype(np.float32)


class CriticEstimate(NamedTuple):
    """What the critic says of a rollout."""

    features: Tensor
    """(V, T, E, W), what it sees, normalised."""
    advantages: np.ndarray
    """(V, T, E)."""
    returns: np.ndarray
    """(V, T, E), the critic's targets."""
    values: np.ndarray
    """(V, T, E), predicted before the update."""
    recall: RecurrentState | None
    """Of the rollout's chunks, in the order of their rows."""
    chunk: int
    """Steps of one."""


class Memories(NamedTuple):
    """Of a recurrent critic, around every step of a rollout."""

    before: Tensor
    """(V, T + 1, E, H)."""
    after: Tensor
    """(V, T + 1, E, H)."""


def _set_up_thread(threads: int) -> None:
    """What torch keeps for each thread apart; a new one would take all cores."""
    torch.set_num_threads(threads)
    torch.set_flush_denormal(True)


class CriticTrainer:
    """The critic, its normaliser and its optimiser."""

    def __init__(self, critic: Critic, config: AlgoConfig, generator: torch.Generator) -> None:
        self.critic, self._config, self._generator = critic, config, generator
        self.norm = ValueNorm(config.valuenorm)
        self.optimizer = torch.optim.Adam(
            critic.parameters(), config.critic_lr, eps=config.adam_eps, fused=True
        )
        self._memory: Tensor | None = None  # (V, E, H) before the next rollout's first step
        self._epochs = config.critic_epochs or config.epochs
        self._minibatches = config.critic_minibatches or config.minibatches
        threads = torch.get_num_threads()
        spare = max(1, min(threads, (os.cpu_count() or 1) - threads))
        self._thread = ThreadPoolExecutor(1, "critic", _set_up_thread, (spare,))

    @torch.no_grad()
    def estimate(self, rollout: Rollout) -> CriticEstimate:
        """Advantages and returns of a rollout, one batched look at all it holds."""
        mean, std = self.norm.statistics()
        config, cut, chunk = self._config, rollout.truncated, rollout.chunk
        steps, envs = rollout.seen.shape[1:3]
        features = self.critic.normalise(torch.from_numpy(rollout.seen).flatten(1, 2)).unflatten(
            1, (steps, envs)
        )
        raw, memories = self._look(features, rollout.ended)
        values = raw * std + mean  # (V, T + 1, E)
        final_values = np.zeros_like(values[:, 1:])
        if cut.any():
            final = self.critic.normalise(torch.from_numpy(rollout.final_seen[:, cut]))
            recall = (
                RecurrentState(memories.after[:, :-1][:, cut], torch.ones(1, final.shape[1], 1))
                if memories
                else None
            )
            final_values[:, cut] = self.critic(final, recall)[0].numpy() * std + mean
        ends = (final_values, rollout.terminated, cut)
        result = advantages(rollout.rewards, values, *ends, config.gamma, config.gae_lambda)
        recall = (
            recall_of(memories.before[:, :-1:chunk], rollout.ended, chunk) if memories else None
        )
        return CriticEstimate(
            features[:, :-1], result, result + values[:, :-1], values[:, :-1], recall, chunk
        )

    def _look(self, features: Tensor, ended: np.ndarray) -> tuple[np.ndarray, Memories | None]:
        """Values (V, T + 1, E) of features (V, T + 1, E, W), as the normaliser has them.

        A recurrent critic begins with what the last rollout left in its memory.
        """
        values, steps, envs = features.shape[:3]
        if not self.critic.gru:
            return self.critic(features.flatten(1, 2))[0].numpy().reshape(values, steps, envs), None
        keep = kept(ended)  # (1, T + 1, E)
        if self._memory is None:
            self._memory = torch.zeros(values, envs, self.critic.gru.size)
        told, after = (
            each.unflatten(1, (envs, steps)).transpose(1, 2)
            for each in self.critic(
                flat(features, steps), RecurrentState(self._memory, keep.transpose(1, 2))
            )
        )
        before = torch.cat((self._memory[:, None], after[:, :-1]), 1) * keep[..., None]
        self._memory = before[:, -1].clone()
        return told.numpy(), Memories(before, after)

    def begin(self, estimate: CriticEstimate) -> Future[dict[str, float]]:
        """Start some epochs of the clipped value loss in a thread of their own; it gives scalars to log.

        The policies are learnt meanwhile: neither needs what the other becomes.

        Rows of the dead count too: the value before a death is bootstrapped from the one after it.
        """
        count = estimate.returns[0].size // estimate.chunk
        # drawn now, before the policies draw theirs, so that a re-run repeats
        order = shuffle(count, self._minibatches, self._generator)
        return self._thread.submit(self._update, estimate, order, count)

    def _update(
        self, estimate: CriticEstimate, order: slice | Tensor, count: int
    ) -> dict[str, float]:
        """Learn from `count` sequences."""
        self.norm.update(estimate.returns)
        mean, std = self.norm.statistics()
        length, recall = estimate.chunk, estimate.recall
        features, targets, old = (
            pick(flat(each, length), order, length)
            for each in (
                estimate.features,
                torch.from_numpy((estimate.returns - mean) / std).float(),
                torch.from_numpy((estimate.values - mean) / std).float(),
            )
        )
        recall = recall and recall.pick(order)
        losses = []
        for part in minibatches(count, self._minibatches) * self._epochs:
            x, wanted, was = (pick(each, part, length) for each in (features, targets, old))
            loss = self._loss(self.critic(x, recall and recall.pick(part))[0], wanted, was)
            self.optimizer.zero_grad()
            (loss * self._config.value_coef).backward()
            torch.nn.utils.clip_grad_norm_(self.critic.parameters(), self._config.max_grad_norm)
            self.optimizer.step()
            losses.append(loss.detach())
        explained = 1.0 - np.var(estimate.returns - estimate.values) / max(
            np.var(estimate.returns), 1e-8
        )
        return {
            "value_loss": float(torch.stack(losses).mean()),
            "explained_variance": float(explained),
        }

    def _loss(self, values: Tensor, targets: Tensor, old: Tensor) -> Tensor:
        loss = self._error(values, targets)
        if self._config.clip_value_loss:
            clip = self._config.clip_coef
            loss = torch.maximum(
                loss, self._error(old + (values - old).clamp(-clip, clip), targets)
            )
        return loss.mean()

    def _error(self, values: Tensor, targets: Tensor) -> Tensor:
        if self._config.use_huber:
            return F.huber_loss(values, targets, reduction="none", delta=self._config.huber_delta)
        return 0.5 * F.mse_loss(values, targets, reduction="none")
