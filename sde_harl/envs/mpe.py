"""Multi-agent particle environments (Farama's mpe2), cooperative scenarios, stepped one after the other in process.

The team's reward is the mean over agents. In simple_spread and simple_reference an agent's reward mixes its own part
with the team's (local_ratio 0.5), so agents' rewards differ. HARL adds them up instead: its returns are N times these.
"""

from __future__ import annotations

import contextlib
import importlib
import io
from typing import Any

import numpy as np
from numpy.typing import NDArray

from sde_harl.envs.base import EnvConfig, EnvSpec, Step, VectorEnv, stream, unknown

SCENARIOS = {
    "simple_spread": "simple_spread_v3",
    "simple_reference": "simple_reference_v3",
    "simple_speaker_listener": "simple_speaker_listener_v4",
}
EPISODE_LIMIT = 25


class MpeVector(VectorEnv):
    """E worlds of one scenario. The state is the agents' observations, unpadded, one after the other."""

    def __init__(self, scenario: str, continuous: bool, num_envs: int, seed: int, first_env: int) -> None:
        with contextlib.redirect_stdout(io.StringIO()):  # pygame greets on import
            module = importlib.import_module(f"mpe2.{SCENARIOS[scenario]}")
        self._worlds = [
            module.parallel_env(max_cycles=EPISODE_LIMIT, continuous_actions=continuous) for _ in range(num_envs)
        ]
        self.spec = _spec(self._worlds[0], scenario, continuous)
        self.num_envs = num_envs
        self._seed, self._first_env = seed, first_env
        choices = self.spec.choices()
        self._available = np.broadcast_to(choices, (num_envs, *choices.shape))  # (E, N, A)
        self._active = np.ones((num_envs, len(self.spec.agents)), bool)
        self._episodes = np.zeros(num_envs, np.int64)
        self._seeds = np.zeros(num_envs, np.int64)
        self._returns = np.zeros(num_envs, np.float32)
        self._lengths = np.zeros(num_envs, np.int32)
        self._pending: Step | None = None

    def reset(self) -> Step:
        self._episodes[:], self._returns[:], self._lengths[:] = 0, 0, 0
        step = self._blank_step()
        for e in range(self.num_envs):
            self._observe(step, e, self._begin(e))
        step.final_state[:], step.final_obs[:] = step.state, step.obs
        return step

    def send(self, actions: NDArray[np.generic]) -> None:
        step = self._blank_step()
        for e in range(self.num_envs):
            self._play(step, e, actions[e])
        self._pending = step

    def recv(self) -> Step:
        if self._pending is None:
            raise RuntimeError("recv without send")
        step, self._pending = self._pending, None
        return step

    def episode_seeds(self) -> NDArray[np.int64]:
        return self._seeds.copy()

    def close(self) -> None:
        for world in self._worlds:
            world.close()

    def _begin(self, e: int) -> dict[str, NDArray[np.float32]]:
        words = stream(self._seed, self._first_env + e, int(self._episodes[e])).generate_state(1, np.uint64)
        self._seeds[e] = int(words[0]) >> 1  # fits a non-negative int64
        obs, _ = self._worlds[e].reset(seed=int(self._seeds[e]))
        return obs  # type: ignore[no-any-return]

    def _play(self, step: Step, e: int, actions: NDArray[np.generic]) -> None:
        obs, rewards, terminated, truncated, _ = self._worlds[e].step(self._by_agent(actions))
        reward = np.float32(np.mean([rewards[agent] for agent in self.spec.agents]))
        self._returns[e] += reward
        self._lengths[e] += 1
        step.rewards[e] = reward
        step.terminated[e] = any(terminated.values())
        step.truncated[e] = any(truncated.values()) and not step.terminated[e]
        self._observe(step, e, obs)
        step.final_state[e], step.final_obs[e] = step.state[e], step.obs[e]
        if step.terminated[e] or step.truncated[e]:
            step.returns[e], step.lengths[e] = self._returns[e], self._lengths[e]
            self._returns[e], self._lengths[e] = 0, 0
            self._episodes[e] += 1
            self._observe(step, e, self._begin(e))

    def _by_agent(self, actions: NDArray[np.generic]) -> dict[str, Any]:
        if self.spec.continuous:  # (N, D) without its padding
            sizes = [dimensions for (dimensions,) in self.spec.action_sizes]
            return {agent: actions[i, : sizes[i]] for i, agent in enumerate(self.spec.agents)}
        return {agent: int(actions[i, 0]) for i, agent in enumerate(self.spec.agents)}

    def _observe(self, step: Step, e: int, obs: dict[str, NDArray[np.float32]]) -> None:
        for i, agent in enumerate(self.spec.agents):
            step.obs[e, i, : self.spec.obs_sizes[i]] = obs[agent]
        step.state[e] = np.concatenate([obs[agent] for agent in self.spec.agents])

    def _blank_step(self) -> Step:
        """Fresh arrays, so that what the caller still holds is never written to."""
        count, spec = self.num_envs, self.spec
        return Step(
            obs=np.zeros((count, len(spec.agents), max(spec.obs_sizes)), np.float32),
            state=np.zeros((count, spec.state_size), np.float32),
            available_actions=self._available,
            active=self._active,
            rewards=np.zeros(count, np.float32),
            terminated=np.zeros(count, bool),
            truncated=np.zeros(count, bool),
            final_state=np.zeros((count, spec.state_size), np.float32),
            final_obs=np.zeros((count, len(spec.agents), max(spec.obs_sizes)), np.float32),
            won=np.full(count, -1, np.int8),
            returns=np.zeros(count, np.float32),
            lengths=np.zeros(count, np.int32),
        )


def make(env_config: EnvConfig, num_envs: int, seed: int, first_env: int) -> MpeVector:
    """See `sde_harl.envs.make`. Raises UserError for an unknown scenario."""
    if env_config.map not in SCENARIOS:
        raise unknown("env.map", env_config.map, SCENARIOS)
    return MpeVector(env_config.map, env_config.continuous_actions, num_envs, seed, first_env)


def _spec(world: Any, scenario: str, continuous: bool) -> EnvSpec:
    agents = tuple(world.possible_agents)
    obs_sizes = tuple(int(world.observation_space(agent).shape[0]) for agent in agents)
    actions = [world.action_space(agent) for agent in agents]
    return EnvSpec(
        name=f"mpe/{scenario}",
        agents=agents,
        obs_sizes=obs_sizes,
        action_sizes=tuple((int(space.shape[0] if continuous else space.n),) for space in actions),
        state_size=sum(obs_sizes),
        episode_limit=EPISODE_LIMIT,
        continuous=continuous,
        unit_types=tuple(agent.rsplit("_", 1)[0] for agent in agents),  # "speaker_0" is a speaker
        has_win=False,
    )
