"""The critic's side of learning: it values a rollout, then learns from the returns.

V values of a state (1, or N), T time, E environments, W numbers of the critic's input for each
value; S sequences of L steps, B = S * L = T * E rows; H numbers of memory, if the critic is
recurrent.
"""

from __future__ import annotations

from collections.abc import Mapping
from concurrent.futures import Future, ThreadPoolExecutor
from typing import Any, NamedTuple, cast

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor, nn
from torch.nn import functional

from sde_harl.algorithms.on_policy.gae import compute_gae
from sde_harl.algorithms.on_policy.value_norm import ValueNorm
from sde_harl.auxiliary.device import HOST, Device
from sde_harl.auxiliary.gradients import check_gradient
from sde_harl.auxiliary.optimizer_state import load_optimizer_state, optimizer_state
from sde_harl.auxiliary.peers import ALONE, Peers
from sde_harl.buffers.rollout import Rollout
from sde_harl.buffers.sequences import (
    chunk_states,
    flatten_rows,
    keep_masks,
    minibatch_slices,
    shuffled,
    take_sequences,
)
from sde_harl.config.schema import AlgoConfig
from sde_harl.meters.cores import usable_cores
from sde_harl.policy.critic import Critic
from sde_harl.policy.gru import RecurrentState


class CriticEstimate(NamedTuple):
    """The critic's view of a rollout, before it learns from it."""

    critic_inputs: Tensor
    """(V, T, E, W), normalised."""
    advantages: NDArray[np.float32]
    """(V, T, E) float32."""
    returns: NDArray[np.float32]
    """(V, T, E), the critic's targets: advantages plus values (TD(lambda) returns)."""
    values: NDArray[np.float32]
    """(V, T, E), predicted before the update."""
    recurrent_state: RecurrentState | None
    """The memory of the rollout's sequences; None if the critic isn't recurrent."""
    length: int
    """L."""
    valid: NDArray[np.intp]
    """Numbers of the sequences to learn from: all but those of void episodes."""

    def valid_rows(self, array: NDArray[np.float32]) -> NDArray[np.float32]:
        """Returns what of an array (V, T, E) is to be learnt from, (V, T, E) or (V, B)."""
        if len(self.valid) * self.length == array[0].size:
            return array
        rows = flatten_rows(torch.from_numpy(array), self.length)
        valid = take_sequences(rows, torch.from_numpy(self.valid), self.length)
        return cast("NDArray[np.float32]", valid.numpy())


class CriticMemories(NamedTuple):
    """A recurrent critic's memory around every step of a rollout."""

    before: Tensor
    """(V, T + 1, E, H), zero where an episode begins with the step."""
    after: Tensor
    """(V, T + 1, E, H)."""


class CriticTrainer:
    """The critic with its value normaliser, its optimiser and its recurrent memory."""

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
        self.optimizer = torch.optim.Adam(
            critic.parameters(), config.critic_lr, eps=config.adam_eps, fused=True
        )
        # (V, E, H) before the next rollout's first step; None if the critic isn't recurrent, and
        # until `start` tells E.
        self._memory: Tensor | None = None
        self._epochs = config.critic_epochs or config.epochs
        self._minibatches = config.critic_minibatches or config.minibatches
        self._thread = _start_thread()

    def start(self, rollout: Rollout) -> None:
        """Makes the memory of a recurrent critic, for rollouts of this one's size."""
        if self.critic.gru:
            values, _, envs = rollout.critic_inputs.shape[:3]
            memory = torch.zeros(values, envs, self.critic.gru.size)
            self._memory = memory.to(self._device.device)

    @torch.no_grad()
    def estimate(self, rollout: Rollout) -> CriticEstimate:
        """Returns advantages and returns of a rollout, from one batched forward pass over it."""
        if self._memory is None:
            self.start(rollout)
        inputs = self._normalised(rollout.critic_inputs)  # (V, T + 1, E, W)
        predictions, memories = self._predict(inputs, rollout.ended)
        values = self._denormalised(predictions)  # (V, T + 1, E)
        advantages = self._advantages(rollout, values, memories)
        return CriticEstimate(
            critic_inputs=inputs[:, :-1],
            advantages=advantages,
            returns=advantages + values[:, :-1],
            values=values[:, :-1],
            recurrent_state=self._sequence_states(rollout, memories),
            length=rollout.chunk,
            valid=rollout.valid_sequences(),
        )

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
        if self._memory is not None:
            state["memory"] = self._memory
        return state

    def load_state_dict(self, state: Mapping[str, Any]) -> None:
        """Takes over what `state_dict` returned."""
        self.critic.load_state_dict(state["critic"])
        load_optimizer_state(self.optimizer, state["optimizer"])
        self.value_norm.load_state_dict(state["value_norm"])
        self._memory = state.get("memory")
        if self._memory is not None:
            self._memory = self._memory.to(self._device.device)

    def _normalised(self, inputs: NDArray[np.float32]) -> Tensor:
        """Returns (V, T + 1, E, W) of inputs of the same shape, normalised once for all epochs."""
        rows = torch.from_numpy(inputs).flatten(1, 2)  # (V, (T + 1) * E, W)
        [normalised] = self._device.put([self.critic.normalise(rows)])
        return normalised.view(inputs.shape)

    def _denormalised(self, predictions: NDArray[np.float32]) -> NDArray[np.float32]:
        """Returns values in the units of the rewards."""
        mean, std = self.value_norm.statistics()
        return predictions * std + mean

    def _predict(
        self, inputs: Tensor, ended: NDArray[np.bool_]
    ) -> tuple[NDArray[np.float32], CriticMemories | None]:
        """Returns predictions (V, T + 1, E), in the normaliser's units, of normalised inputs (V, T
        + 1, E, W).

        A recurrent critic begins with the memory that the last rollout left, and keeps the one that
        this rollout leaves.
        """
        values, steps, envs = inputs.shape[:3]
        if not self.critic.gru:
            [predictions] = self._device.get([self.critic(inputs.flatten(1, 2))[0]])
            return predictions.numpy().reshape(values, steps, envs), None
        assert self._memory is not None  # `start` has made it
        [keep] = self._device.put([keep_masks(ended)])
        predictions, memories = self._predict_in_order(inputs, self._memory, keep)
        self._memory = memories.before[:, -1].clone()  # a copy, so that the rest is freed
        [predictions] = self._device.get([predictions])
        return predictions.numpy(), memories

    def _predict_in_order(
        self, inputs: Tensor, memory: Tensor, keep: Tensor
    ) -> tuple[Tensor, CriticMemories]:
        """Returns a recurrent critic's predictions (V, T + 1, E), and its memory around each step.

        `memory` (V, E, H) is that before the first step; `keep` (1, T + 1, E) is 0.0 where an
        episode begins.
        """
        steps, envs = inputs.shape[1:3]
        # The rollout is one sequence of T + 1 steps for each environment here, whatever the
        # length of a chunk.
        state = RecurrentState(memory=memory, keep=keep.transpose(1, 2))
        predictions, after = (
            each.unflatten(1, (envs, steps)).transpose(1, 2)  # (V, T + 1, E, ...)
            for each in self.critic(flatten_rows(inputs, steps), state)
        )
        before = torch.cat((memory[:, None], after[:, :-1]), 1) * keep[..., None]
        return predictions, CriticMemories(before=before, after=after)

    def _sequence_states(
        self, rollout: Rollout, memories: CriticMemories | None
    ) -> RecurrentState | None:
        """Returns the memory that the rollout's sequences begin with; None without any."""
        if not memories:
            return None
        # The last step of `before` lies behind the rollout and starts no sequence.
        starts = memories.before[:, : -1 : rollout.chunk]  # (V, T / L, E, H)
        state = chunk_states(starts, rollout.ended, rollout.chunk)
        return state._replace(keep=self._device.put([state.keep])[0])

    def _advantages(
        self, rollout: Rollout, values: NDArray[np.float32], memories: CriticMemories | None
    ) -> NDArray[np.float32]:
        """Returns the advantages (V, T, E) of a rollout with values (V, T + 1, E)."""
        return compute_gae(
            rewards=rollout.rewards,
            values=values,
            final_values=self._final_values(rollout, values, memories),
            terminated=rollout.terminated,
            truncated=rollout.truncated,
            gamma=self._config.gamma,
            gae_lambda=self._config.gae_lambda,
        )

    def _final_values(
        self, rollout: Rollout, values: NDArray[np.float32], memories: CriticMemories | None
    ) -> NDArray[np.float32]:
        """Returns (V, T, E), the values of states that episodes were cut in; 0 where none was."""
        cut = rollout.truncated
        final_values = np.zeros_like(values[:, 1:])
        if not cut.any():
            return final_values
        shown = self.critic.normalise(torch.from_numpy(rollout.final_critic_inputs[:, cut]))
        [inputs] = self._device.put([shown])
        state = None
        if memories:
            # One step more of the episode that was cut: its memory is the one after the step that
            # cut it. By numbers: how many a mask picks, a GPU would have to be asked.
            steps, envs = self._device.put([torch.from_numpy(each) for each in np.nonzero(cut)])
            memory = memories.after[:, steps, envs]
            keep = torch.ones(1, inputs.shape[1], 1, device=inputs.device)
            state = RecurrentState(memory=memory, keep=keep)
        [found] = self._device.get([self.critic(inputs, state)[0]])
        final_values[:, cut] = self._denormalised(found.numpy())
        return final_values

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
