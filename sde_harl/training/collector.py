"""Plays environments against the executor pool, in slots that take turns, so that one is coded while another is stepped.

N agents, T time, E environments (of a slot, or of all), A actions.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import NamedTuple

import numpy as np

from sde_harl.buffers.rollout import Rollout
from sde_harl.envs.base import EnvStep, VectorEnv
from sde_harl.meters.timing import Stages, now_ns
from sde_harl.policy.inference.acting import ActingPolicy, Decision
from sde_harl.policy.inference.on_device import ActRequest
from sde_harl.server.decision_log import NO_LATENT, ReceivedLatents
from sde_harl.server.executor_pool import ExecutorPool
from sde_harl.training.episodes import EpisodeRecorder


class Episodes(NamedTuple):
    """Episodes that ended, one row each."""

    environment: np.ndarray
    seed: np.ndarray
    length: np.ndarray
    returns: np.ndarray
    won: np.ndarray
    """-1 unknown, 0, 1."""

    @classmethod
    def join(cls, parts: list[Episodes]) -> Episodes:
        if not parts:
            return cls(
                *(
                    np.zeros(0, kind)
                    for kind in (np.int64, np.int64, np.int64, np.float32, np.int64)
                )
            )
        return cls(*(np.concatenate(column) for column in zip(*parts)))


class EnvSlot:
    """One slot: its environments and where they stand."""

    def __init__(self, slot: int, env: VectorEnv, pool: ExecutorPool, stages: Stages) -> None:
        self._slot, self._env, self._pool, self._stages = slot, env, pool, stages
        self.num_envs = env.num_envs
        self.rows = slice(slot * env.num_envs, (slot + 1) * env.num_envs)
        self.reset()

    def reset(self) -> None:
        self.step: EnvStep = self._env.reset()
        self.seeds = self._env.episode_seeds().copy()
        """(E,) of the episodes going on."""
        self._began = np.ones(self._env.num_envs, bool)
        self._memory: np.ndarray | None = None
        self.recall: np.ndarray | None = None
        """(N, E, H) that a recurrent policy's last decision was made with; None before the first."""
        self._pool.forget(self._slot)

    def decide(
        self,
        step: int,
        policy: ActingPolicy,
        generator: np.random.Generator | None,
        recall: bool = False,
    ) -> tuple[Decision, ReceivedLatents]:
        """Sense, gather the latents, choose actions, start the environments; the decision and the latents (N, E, Z).

        Whole policies choose for themselves, send no latents, and only where asked the `recall`. An agent of which
        nothing is known does what its exit head says, or nothing.
        """
        if self._pool.whole:
            return self._delegate(step, generator is None, recall)
        with self._stages("send"):
            self._pool.sense(self._slot, step, self.step.obs.swapaxes(0, 1))
        with self._stages("latents"):
            latents = self._pool.latents(self._slot)
        with self._stages("policy"):
            started = now_ns()
            available = self.step.available_actions.swapaxes(0, 1)
            decision = policy.act(latents.values, available, generator, self._memory)
            self.recall, self._memory = self._memory, decision.memory
            policy_ns = now_ns() - started
            decision = self._stand_in(decision, available, latents)
        with self._stages("send"):
            self._env.send(np.ascontiguousarray(decision.actions.swapaxes(0, 1)))
            self._pool.act(self._slot, decision.actions, policy_ns)
        return decision, latents

    def _delegate(self, step: int, greedy: bool, recall: bool) -> tuple[Decision, ReceivedLatents]:
        available = self.step.available_actions.swapaxes(0, 1)
        with self._stages("devices"):
            told = ActRequest(available, self._began, greedy, recall)
            choices, ages = self._pool.decide(self._slot, step, self.step.obs.swapaxes(0, 1), told)
            self.recall = choices.memory
            latents = ReceivedLatents(np.zeros((*available.shape[:2], 0), np.float32), ages)
            decision = self._stand_in(
                Decision(choices.actions, choices.log_probs), available, latents
            )
        with self._stages("send"):
            self._env.send(np.ascontiguousarray(decision.actions.swapaxes(0, 1)))
        return decision, latents

    def _stand_in(
        self, decision: Decision, available: np.ndarray, latents: ReceivedLatents
    ) -> Decision:
        """The decision, but for the agents of which nothing is known: the exit head acts for them, or nobody does."""
        if latents.ages is None or (latents.ages != NO_LATENT).all():
            return decision
        unknown, instead = (
            (latents.ages == NO_LATENT)[..., None],
            self._env.spec.idle(available),
        )  # (N, E, 1), (N, E, D)
        if latents.exits is not None and latents.exits.any():
            exits = self._pool.fallback_actions(self.step.obs.swapaxes(0, 1), available)
            instead = np.where(latents.exits[..., None], exits, instead)
        actions = np.where(unknown, instead, decision.actions)
        return decision._replace(
            actions=actions, log_probs=np.where(unknown, np.float32(0.0), decision.log_probs)
        )

    def advance(self) -> Episodes | None:
        """Wait for the environments; the episodes that ended, if any."""
        with self._stages("environment"):
            self.step = self._env.recv()
        self._began = self.step.terminated | self.step.truncated
        ended = np.flatnonzero(self._began)
        if not len(ended):
            return None
        if self._memory is not None:
            self._memory[:, ended] = 0.0
        self._pool.forget(self._slot, ended)
        seeds, self.seeds = self.seeds[ended], self._env.episode_seeds().copy()
        lengths, won = (
            self.step.lengths[ended].astype(np.int64),
            self.step.won[ended].astype(np.int64),
        )
        return Episodes(self.rows.start + ended, seeds, lengths, self.step.returns[ended], won)


class Collector:
    """Fills rollouts from its seats; `ended` is told of episodes as they end, for a killed run shall not lose them."""

    def __init__(
        self,
        env_slots: list[EnvSlot],
        rollout: Rollout,
        generator: np.random.Generator,
        ended: Callable[[Episodes], None],
    ) -> None:
        self._env_slots, self.rollout, self._generator, self._ended = (
            env_slots,
            rollout,
            generator,
            ended,
        )

    def collect(self, policy: ActingPolicy, first_step: int) -> None:
        """Play T steps of all environments into the rollout."""
        steps = len(self.rollout.rewards)
        self.rollout.stale[:], self.rollout.decided[:] = False, True
        for t in range(steps):
            for env_slot in self._env_slots:
                if t:
                    self._finish(env_slot, t - 1)
                self._begin(env_slot, t, policy, first_step + t)
        for env_slot in self._env_slots:
            self._finish(env_slot, steps - 1)
            self.rollout.seen[:, steps, env_slot.rows] = self.rollout.view(
                env_slot.step.state, env_slot.step.obs
            )

    def _begin(self, env_slot: EnvSlot, t: int, policy: ActingPolicy, step: int) -> None:
        rollout, rows, now = self.rollout, env_slot.rows, env_slot.step
        rollout.obs[:, t, rows] = now.obs.swapaxes(0, 1)
        rollout.available[:, t, rows] = now.available_actions.swapaxes(0, 1)
        rollout.active[:, t, rows] = now.active.T
        rollout.seen[:, t, rows] = rollout.view(now.state, now.obs)
        begins = rollout.memory.size > 0 and t % rollout.chunk == 0
        decision, latents = env_slot.decide(step, policy, self._generator, begins)
        if begins and env_slot.recall is not None:
            rollout.memory[:, t // rollout.chunk, rows] = env_slot.recall
        rollout.actions[:, t, rows] = decision.actions
        rollout.log_probs[:, t, rows] = decision.log_probs
        rollout.latents[:, t, rows] = latents.values
        if latents.ages is not None:
            rollout.stale[:, t, rows] = latents.ages != 0
            rollout.decided[:, t, rows] = latents.ages != NO_LATENT

    def _finish(self, env_slot: EnvSlot, t: int) -> None:
        ended = env_slot.advance()
        rollout, rows, now = self.rollout, env_slot.rows, env_slot.step
        rollout.rewards[t, rows] = now.rewards
        rollout.terminated[t, rows] = now.terminated
        rollout.truncated[t, rows] = now.truncated
        if now.truncated.any():
            rollout.final_seen[:, t, rows] = rollout.view(now.final_state, now.final_obs)
        if ended is not None:
            self._ended(ended)


def evaluate(
    env_slots: list[EnvSlot],
    policy: ActingPolicy,
    episodes: int,
    step: int,
    recorders: list[EpisodeRecorder] | None = None,
) -> Episodes:
    """Greedy episodes, the same number from every environment so that short ones don't count more often.

    Every environment plays its first `episodes // E` (or one more) episodes to the end; later ones are not counted.
    `tapes`, one a seat, record the counted ones.
    """
    envs = env_slots[-1].rows.stop
    left = episodes // envs + (np.arange(envs) < episodes % envs)
    parts: list[Episodes] = []
    for env_slot in env_slots:
        env_slot.reset()
    started = False
    while left.any():
        for index, env_slot in enumerate(env_slots):
            if started:
                seeds = env_slot.seeds
                ended = env_slot.advance()
                if recorders:
                    recorders[index].advanced(env_slot.step, seeds, left[env_slot.rows] > 0)
                if ended is not None:
                    counted = left[ended.environment] > 0
                    left[ended.environment] -= counted
                    parts.append(Episodes(*(column[counted] for column in ended)))
            obs = env_slot.step.obs
            decision, _ = env_slot.decide(step, policy, None)
            if recorders:
                recorders[index].decided(obs, decision.actions)
        started = True
    for env_slot in env_slots:
        env_slot.advance()
    return Episodes.join(parts)
