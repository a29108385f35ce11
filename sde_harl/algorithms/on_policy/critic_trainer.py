"""The critic's side of learning: it learns from the returns of a rollout.

V values of a state (1, or N), T time, E environments, W numbers of the critic's input for each
value; S sequences of L steps, B = S * L = T * E rows.
"""

from __future__ import annotations

from collections.abc import Mapping
from concurrent.futures import Future, ThreadPoolExecutor
from typing import Any

import numpy as np
import torch
from torch import Tensor, nn
from torch.nn import functional

from sde_harl.algorithms.on_policy.critic_estimate import CriticEstimate, CriticEstimator
from sde_harl.algorithms.on_policy.value_norm import ValueNorm
from sde_harl.auxiliary.device import HOST, Device
from sde_harl.auxiliary.gradients import check_gradient
from sde_harl.auxiliary.optimizer_state import load_optimizer_state, optimizer_state
from sde_harl.auxiliary.peers import ALONE, Peers
from sde_harl.buffers.sequences import (
    flatten_rows,
    minibatch_slices,
    shuffled,
    take_sequences,
)
from sde_harl.config.schema import AlgoConfig
from sde_harl.meters.cores import usable_cores
from sde_harl.policy.critic import Critic


class CriticTrainer:
    """The critic with its value normaliser and its optimiser."""

    def __init__(
        self,
        critic: Critic,
        config: AlgoConfig,
        generator: torch.Generator,
        peers: Peers = ALONE,
        *,
        device: Device = HOST,
    ) -> None:
        """`generator` draws the order of minibatches, of which `peers` have shares.

        `critic` is on `device`.
        """
        self.critic = critic
        self._config = config
        self._generator = generator
        self._peers = peers
        self._device = device
        self.value_norm = ValueNorm(config.valuenorm)
        self.estimator = CriticEstimator(critic, self.value_norm, config, device=device)
        self.optimizer = torch.optim.Adam(
            critic.parameters(), config.critic_lr, eps=config.adam_eps, fused=True
        )
        self._epochs = config.critic_epochs or config.epochs
        self._minibatches = config.critic_minibatches or config.minibatches
        self._thread = _start_thread()

    def start_update(self, estimate: CriticEstimate) -> Future[dict[str, float]]:
        """Starts some epochs of the clipped value loss in a thread of their own; the result is
        scalars to log.

        HARL updates the critic after the policies. Ours learns at the same time, since neither
        needs the other's result.
        """
        sequences = len(estimate.valid)
        # Drawn here and not in the thread, before the policies draw theirs, so that the same seed
        # repeats the run.
        order = shuffled(sequences, self._minibatches, self._generator)
        if sequences * estimate.length < estimate.returns[0].size:
            order = torch.from_numpy(estimate.valid)[order]
        if self._peers.size == 1:
            return self._thread.submit(self._update, estimate, order, sequences)
        # Sums of two threads would meet in another order on each learner.
        learnt: Future[dict[str, float]] = Future()
        learnt.set_result(self._update(estimate, order, sequences))
        return learnt

    def state_dict(self) -> dict[str, Any]:
        """Returns everything that changes over a run: net, optimiser, normaliser, memory if any."""
        state: dict[str, Any] = {
            "critic": self.critic.state_dict(),
            "optimizer": optimizer_state(self.optimizer),
            "value_norm": self.value_norm.state_dict(),
        }
        if self.estimator.memory is not None:
            state["memory"] = self.estimator.memory
        return state

    def load_state_dict(self, state: Mapping[str, Any]) -> None:
        """Takes over what `state_dict` returned."""
        self.critic.load_state_dict(state["critic"])
        load_optimizer_state(self.optimizer, state["optimizer"])
        self.value_norm.load_state_dict(state["value_norm"])
        memory = state.get("memory")
        self.estimator.memory = None if memory is None else memory.to(self._device.device)

    def _update(
        self, estimate: CriticEstimate, order: slice | Tensor, sequences: int
    ) -> dict[str, float]:
        """Learns from an estimate's `sequences`, in the given `order`."""
        # Before the targets are normalised, so that a first rollout isn't learnt from in units of
        # 1.
        self.value_norm.update(estimate.valid_rows(estimate.returns))
        if isinstance(order, Tensor):
            [order] = self._device.put([order])
        rows = self._learning_rows(estimate, order)
        state = estimate.recurrent_state and estimate.recurrent_state.select(order)
        losses: list[Tensor] = []
        norms: list[Tensor] = []
        for part in minibatch_slices(sequences, self._minibatches) * self._epochs:
            # The thread that waits for this one drops the update then.
            if losses and self._peers.are_interrupted:
                break
            own = self._peers.own(part)
            x, target, old = (take_sequences(each, own, estimate.length) for each in rows)
            values, _ = self.critic(x, state and state.select(own))
            whole = len(values) * (part.stop - part.start) * estimate.length
            loss = value_loss(values, target, old, config=self._config, whole=whole)
            norms.append(self._step(loss))
            losses.append(loss.detach())
        [means] = self._device.get([torch.stack((*losses, *norms)).unflatten(0, (2, -1)).mean(1)])
        check_gradient(means[1], "the critic")
        return {
            "value_loss": float(means[0]),
            "explained_variance": _explained_variance(estimate),
        }

    def _learning_rows(self, estimate: CriticEstimate, order: slice | Tensor) -> list[Tensor]:
        """Returns inputs (V, B, W), targets (V, B) and old values (V, B) in the given `order`.

        Targets and old values are in the normaliser's units, as the critic predicts them.
        """
        mean, std = self.value_norm.statistics()
        numbers = self._device.put(
            [
                torch.from_numpy((each - mean) / std).float()
                for each in (estimate.returns, estimate.values)
            ]
        )
        parts = (estimate.critic_inputs, *numbers)
        length = estimate.length
        return [take_sequences(flatten_rows(each, length), order, length) for each in parts]

    def _step(self, loss: Tensor) -> Tensor:
        """Takes one step of Adam; returns the gradient's norm. `loss` becomes all learners'."""
        self.optimizer.zero_grad()
        (loss * self._config.value_coef).backward()
        self._peers.sum_step(self.critic, [loss])
        norm = nn.utils.clip_grad_norm_(self.critic.parameters(), self._config.max_grad_norm)
        if norm.is_cpu:
            check_gradient(norm, "the critic")
        self.optimizer.step()
        return norm


def value_loss(
    values: Tensor, targets: Tensor, old_values: Tensor, *, config: AlgoConfig, whole: int
) -> Tensor:
    """Returns the value loss of normalised values, targets and old values, all (V, B).

    It is a mean over `whole` values: these, or more where other learners have the others.

    Rows of dead agents count too. The return before a death is bootstrapped from the value after
    it, so that value has to be learnt although no policy acts on it; HARL's critic counts them as
    well.
    """
    loss = _row_losses(values, targets, config)
    if config.clip_value_loss:
        clip = config.clip_coef
        clipped = old_values + (values - old_values).clamp(-clip, clip)
        # The worse of both, as in PPO's reference implementation: a value may move by `clip` an
        # update at most.
        loss = torch.maximum(loss, _row_losses(clipped, targets, config))
    return loss.sum() / whole


def _row_losses(values: Tensor, targets: Tensor, config: AlgoConfig) -> Tensor:
    """Returns each row's Huber loss or half its squared error."""
    if config.use_huber:
        delta = config.huber_delta
        return functional.huber_loss(values, targets, reduction="none", delta=delta)
    return 0.5 * functional.mse_loss(values, targets, reduction="none")


def _explained_variance(estimate: CriticEstimate) -> float:
    """Returns 1 - Var(returns - values) / Var(returns).

    It is 1 for a perfect critic, and 0 for one that always predicts the mean.
    """
    variance: Any = np.var(estimate.valid_rows(estimate.returns))
    unexplained: Any = np.var(estimate.valid_rows(estimate.returns - estimate.values))
    return float(1.0 - unexplained / max(variance, 1e-8))


def _start_thread() -> ThreadPoolExecutor:
    """Returns a pool of one thread for the critic's updates."""
    # The policies learn in the main thread meanwhile: the critic gets the cores that they leave.
    threads = torch.get_num_threads()
    spare = max(1, min(threads, len(usable_cores()) - threads))
    return ThreadPoolExecutor(
        max_workers=1, thread_name_prefix="critic", initializer=_set_up_thread, initargs=(spare,)
    )


def _set_up_thread(threads: int) -> None:
    """Sets what torch keeps for each thread apart; a new thread would take all cores."""
    torch.set_num_threads(threads)
    torch.set_flush_denormal(True)
