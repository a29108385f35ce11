"""The critic's view of a rollout: values, advantages and returns, before it learns from it.

V values of a state (1, or N), T time, E environments, W numbers of the critic's input for each
value; S sequences of L steps, B = S * L = T * E rows; H numbers of memory, if the critic is
recurrent.
"""

from __future__ import annotations

from typing import NamedTuple, cast

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from sde_harl.algorithms.on_policy.gae import compute_gae
from sde_harl.algorithms.on_policy.value_norm import ValueNorm
from sde_harl.auxiliary.device import Device
from sde_harl.buffers.rollout import Rollout
from sde_harl.buffers.sequences import chunk_states, flatten_rows, keep_masks, take_sequences
from sde_harl.config.schema import AlgoConfig
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


class CriticEstimator:
    """Values rollouts one after the other; a recurrent critic's memory goes on between them."""

    memory: Tensor | None
    """(V, E, H) before the next rollout's first step; None if the critic isn't recurrent, and until
    `start` tells E."""

    def __init__(
        self, critic: Critic, value_norm: ValueNorm, config: AlgoConfig, *, device: Device
    ) -> None:
        """`critic` is on `device`; `value_norm` tells the units of what it predicts."""
        self.memory = None
        self._critic = critic
        self._value_norm = value_norm
        self._config = config
        self._device = device

    def start(self, rollout: Rollout) -> None:
        """Makes the memory of a recurrent critic, for rollouts of this one's size."""
        if self._critic.gru:
            values, _, envs = rollout.critic_inputs.shape[:3]
            memory = torch.zeros(values, envs, self._critic.gru.size)
            self.memory = memory.to(self._device.device)

    @torch.no_grad()
    def estimate(self, rollout: Rollout) -> CriticEstimate:
        """Returns advantages and returns of a rollout, from one batched forward pass over it."""
        if self.memory is None:
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

    def _normalised(self, inputs: NDArray[np.float32]) -> Tensor:
        """Returns (V, T + 1, E, W) of inputs of the same shape, normalised once for all epochs."""
        rows = torch.from_numpy(inputs).flatten(1, 2)  # (V, (T + 1) * E, W)
        [normalised] = self._device.put([self._critic.normalise(rows)])
        return normalised.view(inputs.shape)

    def _denormalised(self, predictions: NDArray[np.float32]) -> NDArray[np.float32]:
        """Returns values in the units of the rewards."""
        mean, std = self._value_norm.statistics()
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
        if not self._critic.gru:
            [predictions] = self._device.get([self._critic(inputs.flatten(1, 2))[0]])
            return predictions.numpy().reshape(values, steps, envs), None
        assert self.memory is not None  # `start` has made it
        [keep] = self._device.put([keep_masks(ended)])
        predictions, memories = self._predict_in_order(inputs, self.memory, keep)
        self.memory = memories.before[:, -1].clone()  # a copy, so that the rest is freed
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
            for each in self._critic(flatten_rows(inputs, steps), state)
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
        shown = self._critic.normalise(torch.from_numpy(rollout.final_critic_inputs[:, cut]))
        [inputs] = self._device.put([shown])
        state = None
        if memories:
            # One step more of the episode that was cut: its memory is the one after the step that
            # cut it. By numbers: how many a mask picks, a GPU would have to be asked.
            steps, envs = self._device.put([torch.from_numpy(each) for each in np.nonzero(cut)])
            memory = memories.after[:, steps, envs]
            keep = torch.ones(1, inputs.shape[1], 1, device=inputs.device)
            state = RecurrentState(memory=memory, keep=keep)
        [found] = self._device.get([self._critic(inputs, state)[0]])
        final_values[:, cut] = self._denormalised(found.numpy())
        return final_values
