"""Fills rollouts with what the slots of environments play.

The slots take turns, so that devices code the latents of one while the environments of another
step. N agents, T time, E environments of a slot.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from typing import Any

import numpy as np
from numpy.typing import NDArray

from sde_harl.buffers.rollout import Rollout
from sde_harl.draws.counters import Draw, Purpose
from sde_harl.outside.process import interruption
from sde_harl.placement.base import SlotDecision
from sde_harl.policy.inference.acting import ActingPolicy
from sde_harl.protocol.actions import NO_LATENT
from sde_harl.training.env_slot import EnvSlot
from sde_harl.training.episodes import Episodes


class Collector:
    """Plays all slots into one rollout, which is written over each time."""

    def __init__(
        self,
        env_slots: list[EnvSlot],
        rollout: Rollout,
        seed: int,
    ) -> None:
        self.rollout = rollout
        self._env_slots = env_slots
        self._seed = seed
        # The rollout may be a part of the run's, that begins with these slots' environments.
        self._first = env_slots[0].rows.start
        self._agents = np.arange(len(rollout.obs), dtype=np.int32)
        # (E,) where in the rollout each environment's present episode begins.
        self._starts = np.zeros(rollout.rewards.shape[1], np.int64)
        # (E,) True where the next rollout does not go on with the last one's episodes.
        self._anew = np.zeros(rollout.rewards.shape[1], bool)

    def state_dict(self) -> dict[str, dict[str, NDArray[Any]]]:
        """Returns the state of each slot, by its number."""
        return {
            str(number): env_slot.state_dict() for number, env_slot in enumerate(self._env_slots)
        }

    def load_state_dict(self, state: Mapping[str, Mapping[str, NDArray[Any]]]) -> None:
        """Takes over what `state_dict` returned. Raises ValueError where it is of other slots."""
        if state.keys() != {str(number) for number in range(len(self._env_slots))}:
            raise ValueError(f"{len(state)} slots where {len(self._env_slots)} are needed")
        for number, env_slot in enumerate(self._env_slots):
            arrays = state[str(number)]
            check_slot_state(self.rollout, arrays, env_slot.num_envs)
            env_slot.load_state_dict(arrays)
            self._anew[self._rows(env_slot)] = not env_slot.is_brought_back

    def collect(self, policy: ActingPolicy, first_step: int) -> Iterator[Episodes]:
        """Plays T steps of every environment; yields the episodes of a step as they end.

        They don't wait for the end of the rollout, so that a run that is killed has recorded them.
        """
        for episodes in self.steps(policy, first_step):
            if len(episodes.seed):
                yield episodes

    def play_ahead(self, first_step: int, *, is_last: bool) -> dict[str, float]:
        """Does nothing: this process can't play while it learns. `RemoteCollector` can."""
        return {}

    def steps(self, policy: ActingPolicy, first_step: int) -> Iterator[Episodes]:
        """Plays T steps of every environment; yields after each the episodes that ended, if any."""
        rollout = self.rollout
        # Slots write to these two only where latents were late.
        rollout.stale[:] = False
        rollout.decided[:] = True
        rollout.void[:] = False
        rollout.anew[:] = self._anew
        self._anew[:] = False
        self._starts[:] = 0
        for t in range(len(rollout.rewards)):
            # Nothing is half done here.
            interruption.check()
            ended: list[Episodes] = []
            for env_slot in self._env_slots:
                # The last step of a slot ends here and not before, so that its environments had
                # the turns of all other slots to step in.
                if t:
                    ended += self._finish(env_slot, t - 1)
                self._begin(env_slot, t, policy=policy, step=first_step + t)
            yield Episodes.join(ended)
        yield Episodes.join([*self._end()])

    def _rows(self, env_slot: EnvSlot) -> slice:
        """Returns the slot's environments among those of the rollout."""
        return slice(env_slot.rows.start - self._first, env_slot.rows.stop - self._first)

    def _begin(self, env_slot: EnvSlot, t: int, *, policy: ActingPolicy, step: int) -> None:
        """Records what a slot's agents observe at step `t` of the rollout, and what they decide."""
        rollout = self.rollout
        rows = self._rows(env_slot)
        now = env_slot.step
        # Rollouts have the agents first, environments last but one: (E, N, O) -> (N, E, O).
        rollout.obs[:, t, rows] = now.obs.swapaxes(0, 1)
        rollout.available_actions[:, t, rows] = now.available_actions.swapaxes(0, 1)
        rollout.active_masks[:, t, rows] = now.active.T
        rollout.critic_inputs[:, t, rows] = rollout.critic_input(now.state, now.obs)
        # A recurrent policy is learnt in chunks, each from the memory that its first step had.
        with_memory = rollout.memory.size > 0 and t % rollout.chunk == 0
        draw = Draw(
            seed=self._seed,
            purpose=Purpose.ACTING,
            step=step,
            first_environment=env_slot.rows.start,
            agents=self._agents,
        )
        decision = env_slot.decide(step, policy, draw, with_memory=with_memory)
        if with_memory and decision.memory is not None:
            rollout.memory[:, t // rollout.chunk, rows] = decision.memory
        self._record(decision, t, rows)

    def _record(self, decision: SlotDecision, t: int, rows: slice) -> None:
        rollout = self.rollout
        rollout.actions[:, t, rows] = decision.actions
        rollout.log_probs[:, t, rows] = decision.log_probs
        rollout.latents[:, t, rows] = decision.latents
        if decision.ages is not None:
            rollout.stale[:, t, rows] = decision.ages != 0
            rollout.decided[:, t, rows] = decision.ages != NO_LATENT

    def _finish(self, env_slot: EnvSlot, t: int) -> Iterator[Episodes]:
        """Records what step `t` led to; yields the episodes that it ended, if any."""
        ended = env_slot.advance()
        rollout = self.rollout
        rows = self._rows(env_slot)
        now = env_slot.step
        rollout.rewards[t, rows] = now.rewards
        rollout.terminated[t, rows] = now.terminated
        rollout.truncated[t, rows] = now.truncated
        # Read only where an episode was cut: its return is bootstrapped from its last state.
        if now.truncated.any():
            final = rollout.critic_input(now.final_state, now.final_obs)
            rollout.final_critic_inputs[:, t, rows] = final
            if rollout.final_obs.size:
                rollout.final_obs[:, t, rows] = now.final_obs.swapaxes(0, 1)
        self._strike_out(now.void, t, first=rows.start)
        self._starts[rows][now.terminated | now.truncated] = t + 1
        if ended is not None:
            yield ended

    def _strike_out(self, void: NDArray[np.bool_], t: int, *, first: int) -> None:
        """Takes all steps of the `void` (E,) episodes that end with step `t` out of learning.

        `first` is the place of the slot's first environment in the rollout.
        """
        for e in first + np.flatnonzero(void):
            steps = slice(self._starts[e], t + 1)
            self.rollout.void[steps, e] = True
            self.rollout.active_masks[:, steps, e] = False

    def _end(self) -> Iterator[Episodes]:
        """Ends the last step of every slot; yields the episodes that ended with it."""
        rollout = self.rollout
        steps = len(rollout.rewards)
        for env_slot in self._env_slots:
            yield from self._finish(env_slot, steps - 1)
            # The value of what follows the last step completes its return.
            rollout.critic_inputs[:, steps, self._rows(env_slot)] = rollout.critic_input(
                env_slot.step.state, env_slot.step.obs
            )


def check_slot_state(rollout: Rollout, state: Mapping[str, NDArray[Any]], envs: int) -> None:
    """Raises ValueError where a slot of so many environments can't have had this state."""
    agents, _, _, size = rollout.memory.shape
    expected = {
        "began": np.empty(envs, np.bool_),
        "memory": np.empty((agents, envs, size), np.float32),
    }
    for name, array in state.items():
        like = expected[name]
        if array.dtype != like.dtype or array.shape != like.shape:
            raise ValueError(f"{name}: {array.dtype} {array.shape}")
