"""Multi-agent particle environments (Farama's mpe2), cooperative scenarios.

A game steps mpe2's world itself: PettingZoo's wrappers around it take three quarters of a step. The rules of its
`SimpleEnv` that this leaves to us (actions to forces, the mix of rewards, the time limit) are below, and tests hold the
result to mpe2's own `parallel_env`.

The team's reward is the mean over agents. In simple_spread and simple_reference an agent's reward mixes its own part
with the team's (local_ratio 0.5), so agents' rewards differ. HARL adds them up instead: its returns are N times these.
"""

from __future__ import annotations

import contextlib
import importlib
import io
import math
from typing import Any

import numpy as np
from numpy.typing import NDArray

from sde_harl.envs.base import EnvConfig, EnvSpec, unknown
from sde_harl.envs.vector.games import Game, GameView, Outcome

SCENARIOS = {
    "simple_spread": "simple_spread_v3",
    "simple_reference": "simple_reference_v3",
    "simple_speaker_listener": "simple_speaker_listener_v4",
}
EPISODE_LIMIT = 25
FORCE = 5.0
"""Of a full push."""
PUSHES = FORCE * np.array([[0.0, 0.0], [-1.0, 0.0], [1.0, 0.0], [0.0, -1.0], [0.0, 1.0]])
"""Of the moves 0 to 4: nothing, left, right, down, up."""


class MpeGame(Game):
    """One world. The state is the agents' observations, unpadded, one after the other.

    A discrete action is move + 5 * word for an agent that does both, else the move or the word. A continuous one is
    pushes to nowhere, left, right, down, up, then the word's numbers; all are clipped to 0 .. 1.
    """

    def __init__(self, scenario: str, continuous: bool) -> None:
        with contextlib.redirect_stdout(io.StringIO()):  # pygame greets on import
            module = importlib.import_module(f"mpe2.{SCENARIOS[scenario]}")
        env = module.raw_env(max_cycles=EPISODE_LIMIT, continuous_actions=continuous)
        self.spec = _spec(env, scenario, continuous)
        self._world, self._scenario, self._local_ratio = env.world, env.scenario, env.local_ratio
        self._agents: list[Any] = env.world.agents
        self._words = np.eye(env.world.dim_c)
        self._ticks = 0
        for agent in self._agents:
            agent.action.u, agent.action.c = np.zeros(2), np.zeros(env.world.dim_c)

    def reset(self, seed: int, view: GameView) -> None:
        self._scenario.reset_world(self._world, np.random.Generator(np.random.PCG64(seed)))
        self._ticks = 0
        self._observe(view)

    def step(self, actions: NDArray[np.generic], view: GameView) -> Outcome:
        if self.spec.continuous:
            self._push(np.clip(actions, 0, 1))
        else:
            self._choose(actions)
        self._world.step()
        self._ticks += 1
        self._observe(view)
        return Outcome(self._reward(), False, self._ticks >= EPISODE_LIMIT)

    def close(self) -> None:
        """Nothing: the window that mpe2 could draw in was let go with its wrapper."""

    def _choose(self, actions: NDArray[np.generic]) -> None:
        for agent, choice in zip(self._agents, actions[:, 0].tolist()):
            if agent.movable:
                choice, move = divmod(choice, len(PUSHES))
                agent.action.u = PUSHES[move]
            if not agent.silent:
                agent.action.c = self._words[choice]

    def _push(self, actions: NDArray[np.generic]) -> None:
        for agent, action in zip(self._agents, actions):
            if agent.movable:
                agent.action.u = (action[2:5:2] - action[1:4:2]).astype(np.float64) * FORCE
                action = action[len(PUSHES) :]
            if not agent.silent:
                agent.action.c = action[: len(self._words)].copy()

    def _observe(self, view: GameView) -> None:
        seen = [self._scenario.observation(agent, self._world) for agent in self._agents]
        for row, obs in zip(view.obs, seen):
            row[: len(obs)] = obs
        np.concatenate(seen, out=view.state, casting="same_kind")

    def _reward(self) -> float:
        own = sum(self._scenario.reward(agent, self._world) for agent in self._agents) / len(
            self._agents
        )
        if self._local_ratio is None:
            return float(own)
        return self._mixed(own, self._scenario.global_reward(self._world))

    def _mixed(self, own: float, shared: float) -> float:
        return shared * (1 - self._local_ratio) + own * self._local_ratio


class SpreadGame(MpeGame):
    """simple_spread, with reward and contacts in plain numbers: a tenth of the time of mpe2's arrays of two."""

    def __init__(self, scenario: str, continuous: bool) -> None:
        super().__init__(scenario, continuous)
        self._world.apply_environment_force = self._add_contacts

    def _add_contacts(self, forces: list[Any]) -> list[Any]:
        """Push apart the agents that touch, in mpe2's order of pairs; landmarks touch nobody. Softplus penetration."""
        at = [agent.state.p_pos.tolist() for agent in self._agents]
        reach, margin = 2 * self._agents[0].size, self._world.contact_margin
        for i, one in enumerate(at):
            for j, other in enumerate(at[i + 1 :], i + 1):
                x, y, distance = one[0] - other[0], one[1] - other[1], _distance(one, other)
                penetration = _softplus(-(distance - reach) / margin) * margin
                stiffness = self._world.contact_force
                force = np.array(
                    [stiffness * x / distance * penetration, stiffness * y / distance * penetration]
                )
                forces[i], forces[j] = force + forces[i], forces[j] - force
        return forces

    def _reward(self) -> float:
        agents = [agent.state.p_pos.tolist() for agent in self._agents]
        landmarks = [landmark.state.p_pos.tolist() for landmark in self._world.landmarks]
        shared = -sum(min(_distance(agent, landmark) for agent in agents) for landmark in landmarks)
        reach = 2 * self._agents[0].size
        touching = sum(
            _distance(one, other) < reach for i, one in enumerate(agents) for other in agents[:i]
        )
        return self._mixed(-2.0 * touching / len(agents), shared)  # a touch costs both agents 1


def _distance(one: list[float], other: list[float]) -> float:
    x, y = one[0] - other[0], one[1] - other[1]
    return math.sqrt(x * x + y * y)


def _softplus(x: float) -> float:
    """log(1 + e^x), rounded as numpy's logaddexp rounds it."""
    return max(x, 0.0) + math.log1p(math.exp(-abs(x)))


def make_game(env_config: EnvConfig) -> MpeGame:
    """Raises UserError for an unknown scenario."""
    if env_config.map not in SCENARIOS:
        raise unknown("env.map", env_config.map, SCENARIOS)
    kind = SpreadGame if env_config.map == "simple_spread" else MpeGame
    return kind(env_config.map, env_config.continuous_actions)


def _spec(env: Any, scenario: str, continuous: bool) -> EnvSpec:
    agents = tuple(env.possible_agents)
    obs_sizes = tuple(int(env.observation_space(agent).shape[0]) for agent in agents)
    actions = [env.action_space(agent) for agent in agents]
    return EnvSpec(
        name=f"mpe/{scenario}"
        + "-continuous" * continuous,  # another game: its results are kept apart
        agents=agents,
        obs_sizes=obs_sizes,
        action_sizes=tuple((int(space.shape[0] if continuous else space.n),) for space in actions),
        state_size=sum(obs_sizes),
        episode_limit=EPISODE_LIMIT,
        continuous=continuous,
        unit_types=tuple(agent.rsplit("_", 1)[0] for agent in agents),  # "speaker_0" is a speaker
        has_win=False,
    )
