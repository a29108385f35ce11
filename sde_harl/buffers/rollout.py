"""The rollout: everything that was played between two updates, in preallocated numpy arrays.

The agent's axis comes first, so that the rows of one role group are one slice and lie together in
memory.

N agents, T time, E environments, O observation, D numbers of an action, A outputs of a head, Z
latent; V values of a state and W numbers of the critic's input for each; H numbers of a recurrent
policy's memory.
"""

from __future__ import annotations

import numpy as np
from numpy.typing import NDArray

from sde_harl.envs.base import EnvSpec
from sde_harl.policy.critic_input import CriticInput


class Rollout:
    """Holds T steps of E environments.

    The collector writes it in place; algorithms read views of it.
    """

    def __init__(
        self,
        spec: EnvSpec,
        *,
        steps: int,
        envs: int,
        latent_size: int,
        critic_input: CriticInput,
        chunk: int = 1,
        memory_size: int = 0,
        keeps_final_obs: bool = False,
    ) -> None:
        """Allocates the arrays.

        `memory_size` is H, 0 for a policy without memory; a recurrent policy learns from sequences
        of `chunk` steps. `keeps_final_obs`: a replay needs the last observations of an episode.
        """
        agents = len(spec.agents)
        values = len(critic_input.sizes)
        branches = len(spec.branches)
        self.critic_input = critic_input
        self.chunk = chunk

        self.obs = np.zeros(
            (agents, steps, envs, max(spec.obs_sizes)), spec.obs_dtype
        )  # (N, T, E, O)
        # What the agents saw last. Valid only where `truncated`: elsewhere it is never written.
        self.final_obs = np.zeros(
            (agents, steps if keeps_final_obs else 0, envs, max(spec.obs_sizes)), spec.obs_dtype
        )  # (N, T, E, O), or T = 0
        self.available_actions = np.zeros(
            (agents, steps, envs, sum(spec.branches)), bool
        )  # (N, T, E, A)
        # True where the agent was alive when it decided.
        self.active_masks = np.zeros((agents, steps, envs), bool)  # (N, T, E)
        action_dtype = np.float32 if spec.continuous else np.int32
        self.actions = np.zeros((agents, steps, envs, branches), action_dtype)  # (N, T, E, D)
        # Of the policy that acted, on the latents that the server had decoded.
        self.log_probs = np.zeros((agents, steps, envs, branches), np.float32)  # (N, T, E, D)

        # What the devices really sent. Learning encodes the observations again; only where a latent
        # was late (`stale`) does it need the one that stood in for it.
        self.latents = np.zeros((agents, steps, envs, latent_size), np.float32)  # (N, T, E, Z)
        # True where an older latent, or none, stood in for the one of this observation.
        self.stale = np.zeros((agents, steps, envs), bool)  # (N, T, E)
        # False where the policy had no part in the action: no latent ever came, so a fallback or
        # no-op acted.
        self.decided = np.ones((agents, steps, envs), bool)  # (N, T, E)
        # Before the first step of every chunk, where gradients through time begin.
        self.memory = np.zeros(
            (agents, steps // chunk, envs, memory_size), np.float32
        )  # (N, T / chunk, E, H)

        # One step more than the rest: the last one bootstraps the return of episodes that go on.
        self.critic_inputs = np.zeros(
            (values, steps + 1, envs, critic_input.size), critic_input.dtype
        )  # (V, T + 1, E, W)
        # The last state of an episode. Valid only where `truncated`: elsewhere it is never written.
        self.final_critic_inputs = np.zeros(
            (values, steps, envs, critic_input.size), critic_input.dtype
        )  # (V, T, E, W)

        self.rewards = np.zeros((steps, envs), np.float32)  # (T, E), the team's
        self.terminated = np.zeros((steps, envs), bool)  # (T, E)
        self.truncated = np.zeros((steps, envs), bool)  # (T, E)
        # True in every step of an episode whose game failed.
        self.void = np.zeros((steps, envs), bool)  # (T, E)
        # True where the first step begins an episode though the last one of the rollout before it
        # ended none: where a run went on, its games could not be brought back.
        self.anew = np.zeros(envs, bool)  # (E,)

    @property
    def nbytes(self) -> int:
        """Returns the bytes of all arrays."""
        return sum(each.nbytes for each in vars(self).values() if isinstance(each, np.ndarray))

    @property
    def ended(self) -> NDArray[np.bool_]:
        """Returns (T, E) bool, True where an episode ended with the step."""
        ended: NDArray[np.bool_] = self.terminated | self.truncated
        return ended

    def valid_sequences(self) -> NDArray[np.intp]:
        """Returns the numbers of the sequences that may be learnt from, in ascending order.

        Those are all but the ones that hold a step of a void episode.
        """
        by_sequence = self.void.reshape(-1, self.chunk, self.void.shape[1]).any(1)  # (T / L, E)
        return np.flatnonzero(~by_sequence)
