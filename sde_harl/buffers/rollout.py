"""What was played between two updates: preallocated numpy arrays, agent first, so that one agent's rows lie together.

N agents, T time, E environments, O observation, D numbers of an action, A outputs of a head, Z latent; V values of a
state and W numbers that the critic sees for each; H numbers of a recurrent policy's memory.
"""

from __future__ import annotations

import numpy as np

from sde_harl.envs.base import EnvSpec
from sde_harl.policy.critic_input import CriticInput


class Rollout:
    """Written in place by the collector, read as views by the algorithm."""

    def __init__(
        self,
        spec: EnvSpec,
        steps: int,
        envs: int,
        latent: int,
        view: CriticInput,
        chunk: int = 1,
        memory: int = 0,
    ) -> None:
        """`memory`: H of a recurrent policy, whose rollouts are learnt from in chunks of `chunk` steps; 0 if not."""
        n, sizes = len(spec.agents), (steps, envs)
        self.view, self.chunk = view, chunk
        self.memory = np.zeros(
            (n, steps // chunk, envs, memory), np.float32
        )  # (N, T / chunk, E, H) at each start
        self.obs = np.zeros((n, *sizes, max(spec.obs_sizes)), spec.obs_dtype)  # (N, T, E, O)
        self.available = np.zeros((n, *sizes, sum(spec.branches)), bool)  # (N, T, E, A)
        self.active = np.zeros((n, *sizes), bool)  # (N, T, E) alive when it decided
        self.actions = np.zeros(
            (n, *sizes, len(spec.branches)), np.float32 if spec.continuous else np.int32
        )
        self.log_probs = np.zeros(
            self.actions.shape, np.float32
        )  # of the policy that acted on the decoded latents
        self.latents = np.zeros(
            (n, *sizes, latent), np.float32
        )  # (N, T, E, Z) decoded: what the devices really sent
        self.stale = np.zeros(
            (n, *sizes), bool
        )  # (N, T, E) where older latents, or none, stood for the observation's
        self.decided = np.ones(
            (n, *sizes), bool
        )  # (N, T, E) False where the policy had no part in what was done
        self.seen = np.zeros(
            (len(view.sizes), steps + 1, envs, view.size), view.dtype
        )  # (V, T+1, E, W) by the critic
        self.final_seen = np.zeros(
            (len(view.sizes), *sizes, view.size), view.dtype
        )  # read where truncated
        self.rewards = np.zeros(sizes, np.float32)
        self.terminated = np.zeros(sizes, bool)
        self.truncated = np.zeros(sizes, bool)

    @property
    def ended(self) -> np.ndarray:
        """(T, E) where an episode ended with the step."""
        return self.terminated | self.truncated
