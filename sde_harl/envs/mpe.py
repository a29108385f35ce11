"""Multi-agent particle environments (Farama's mpe2); `mpe_versus` has those with opponents.

A game steps mpe2's world itself, because PettingZoo's wrappers around it take three quarters of a
step. What mpe2's `SimpleEnv` does around its world (actions become forces, rewards are mixed, time
runs out) is therefore done here, and tests hold the result to mpe2's own `parallel_env`.

The team's reward is the mean over agents. In simple_spread and simple_reference an agent's reward
mixes its own part with the team's (local_ratio 0.5), so agents' rewards differ. HARL adds them up
instead: its returns are N times these.
"""

from __future__ import annotations

import contextlib
import importlib
import io
import math
from collections.abc import Sequence
from typing import TYPE_CHECKING, Any

import numpy as np
from gymnasium import spaces
from numpy.typing import NDArray

from sde_harl.envs.base import EnvSpec
from sde_harl.envs.parallel_spaces import action_ranges
from sde_harl.envs.settings import EnvConfig, unknown_value
from sde_harl.envs.vector.games import Game, ObservationBuffers, Outcome

if TYPE_CHECKING:
    from sde_harl.drawing.canvas import Colour, Picture

SCENARIOS = {
    "simple_spread": "simple_spread_v3",
    "simple_reference": "simple_reference_v3",
    "simple_speaker_listener": "simple_speaker_listener_v4",
    "simple_tag": "simple_tag_v3",
    "simple_world_comm": "simple_world_comm_v3",
    "simple_adversary": "simple_adversary_v3",
}
EPISODE_LIMIT = 25
FORCE = 5.0
"""Force of a full push."""
PUSHES = FORCE * np.array([[0.0, 0.0], [-1.0, 0.0], [1.0, 0.0], [0.0, -1.0], [0.0, 1.0]])
"""(5, 2) forces of the moves 0 to 4: nothing, left, right, down, up."""


class MpeGame(Game):
    """One world. The state is the agents' observations, unpadded, one after the other.

    A discrete action is move + 5 * word for an agent that moves and speaks, else the move or the
    word. A continuous action is pushes to nowhere, left, right, down, up, then the word's numbers;
    all are clipped to 0 .. 1.
    """

    def __init__(self, scenario: str, continuous: bool) -> None:
        env = _make_env(scenario, continuous)
        self.spec = _spec(env, scenario, continuous)
        self._world = env.world
        self._scenario = env.scenario
        self._local_ratio = env.local_ratio
        self._agents: list[Any] = env.world.agents
        self._words = np.eye(env.world.dim_c)
        self._ticks = 0
        for agent in self._agents:
            # an agent that never moves, or never speaks, keeps these zeros
            agent.action.u = np.zeros(2)
            agent.action.c = np.zeros(env.world.dim_c)

    def reset(self, seed: int, out: ObservationBuffers) -> None:
        # PCG64 is what gymnasium seeds: so episodes are those of mpe2's own reset(seed)
        self._scenario.reset_world(self._world, np.random.Generator(np.random.PCG64(seed)))
        self._ticks = 0
        self._observe(out)

    def step(self, actions: NDArray[np.generic], out: ObservationBuffers) -> Outcome:
        if self.spec.continuous:
            self._push(np.clip(actions, 0, 1))
        else:
            self._choose(actions)
        self._world.step()
        self._ticks += 1
        self._observe(out)
        is_last = self._ticks >= EPISODE_LIMIT
        return Outcome(reward=self._reward(), terminated=False, truncated=is_last)

    def picture(self, colours: Sequence[Colour]) -> Picture:
        # Here, because a run that nobody watches needs no library that draws.
        from sde_harl.envs.particles_picture import draw_world

        return draw_world(self._world, self._agents, colours)

    def close(self) -> None:
        """Does nothing: a world holds no resources."""

    def _choose(self, actions: NDArray[np.generic]) -> None:
        """Gives the agents their discrete actions (N, 1)."""
        for agent, choice in zip(self._agents, actions[:, 0].tolist()):
            if agent.movable:
                choice, move = divmod(choice, len(PUSHES))
                agent.action.u = PUSHES[move]
            if not agent.silent:
                agent.action.c = self._words[choice]

    def _push(self, actions: NDArray[np.generic]) -> None:
        """Gives the agents their continuous actions (N, D)."""
        for agent, action in zip(self._agents, actions):
            if agent.movable:
                # (right, up) - (left, down), of nothing, left, right, down, up
                agent.action.u = (action[2:5:2] - action[1:4:2]).astype(np.float64) * FORCE
                action = action[len(PUSHES) :]
            if not agent.silent:
                agent.action.c = action[: len(self._words)].copy()

    def _observe(self, out: ObservationBuffers) -> None:
        observations = [self._scenario.observation(agent, self._world) for agent in self._agents]
        for row, obs in zip(out.obs, observations):
            row[: len(obs)] = obs
        np.concatenate(observations, out=out.state, casting="same_kind")

    def _reward(self) -> float:
        rewards = [self._scenario.reward(agent, self._world) for agent in self._agents]
        own = sum(rewards) / len(self._agents)
        if self._local_ratio is None:
            return float(own)
        return self._mixed(own=own, shared=self._scenario.global_reward(self._world))

    def _mixed(self, *, own: float, shared: float) -> float:
        mixed: float = shared * (1 - self._local_ratio) + own * self._local_ratio
        return mixed


class SpreadGame(MpeGame):
    """simple_spread, with rewards and contacts computed in plain Python numbers.

    mpe2 computes them with numpy arrays of two numbers, which takes ten times as long: most of it
    is the cost of calling numpy.
    """

    def __init__(self, scenario: str, continuous: bool) -> None:
        super().__init__(scenario, continuous)
        self._world.apply_environment_force = self._add_contacts

    def _add_contacts(self, forces: list[Any]) -> list[Any]:
        """Adds the forces between agents that overlap; landmarks don't collide.

        The force grows with the softplus of how deep two agents overlap. Pairs are taken in mpe2's
        order, because a sum of floats depends on it.
        """
        positions = [agent.state.p_pos.tolist() for agent in self._agents]
        reach = 2 * self._agents[0].size
        margin = self._world.contact_margin
        stiffness = self._world.contact_force
        for i, one in enumerate(positions):
            for j, other in enumerate(positions[i + 1 :], i + 1):
                x = one[0] - other[0]
                y = one[1] - other[1]
                distance = _distance(one, other)
                depth = _softplus(-(distance - reach) / margin) * margin
                push = np.array(
                    [stiffness * x / distance * depth, stiffness * y / distance * depth]
                )
                forces[i] = push + forces[i]
                forces[j] = forces[j] - push
        return forces

    def _reward(self) -> float:
        agents = [agent.state.p_pos.tolist() for agent in self._agents]
        landmarks = [landmark.state.p_pos.tolist() for landmark in self._world.landmarks]
        shared = -sum(min(_distance(agent, landmark) for agent in agents) for landmark in landmarks)
        reach = 2 * self._agents[0].size
        pairs = [(one, other) for i, one in enumerate(agents) for other in agents[:i]]
        touching = sum(_distance(one, other) < reach for one, other in pairs)
        own = -2.0 * touching / len(agents)  # a touch costs each of the two agents 1
        return self._mixed(own=own, shared=shared)


def _distance(one: list[float], other: list[float]) -> float:
    x = one[0] - other[0]
    y = one[1] - other[1]
    return math.sqrt(x * x + y * y)  # rounded as mpe2 rounds it; math.hypot may differ in a bit


def _softplus(x: float) -> float:
    """Returns log(1 + e^x), rounded as numpy's logaddexp(0, x) rounds it."""
    return max(x, 0.0) + math.log1p(math.exp(-abs(x)))


def maps() -> list[str]:
    """Returns the valid values of env.map."""
    return list(SCENARIOS)


def make_game(env_config: EnvConfig) -> MpeGame:
    """Makes one game. Raises UserError for an unknown scenario."""
    if env_config.map not in SCENARIOS:
        raise unknown_value("env.map", env_config.map, SCENARIOS)
    # Imported here, because it builds on this module.
    from sde_harl.envs.mpe_versus import SIDES, VersusGame

    if env_config.map in SIDES:
        return VersusGame(env_config.map, env_config.continuous_actions)
    if env_config.map == "simple_spread":
        return SpreadGame(env_config.map, env_config.continuous_actions)
    return MpeGame(env_config.map, env_config.continuous_actions)


def _make_env(scenario: str, continuous: bool) -> Any:
    """Makes mpe2's own environment."""
    with contextlib.redirect_stdout(io.StringIO()):  # pygame greets on import
        module = importlib.import_module(f"mpe2.{SCENARIOS[scenario]}")
    return module.raw_env(max_cycles=EPISODE_LIMIT, continuous_actions=continuous)


def _spec(env: Any, scenario: str, continuous: bool) -> EnvSpec:
    agents = tuple(env.possible_agents)
    obs_sizes = tuple(int(env.observation_space(agent).shape[0]) for agent in agents)
    return EnvSpec(
        # with continuous actions it is another game: its results are kept apart
        name=f"mpe/{scenario}" + "-continuous" * continuous,
        agents=agents,
        obs_sizes=obs_sizes,
        action_sizes=tuple(_action_size(env.action_space(agent)) for agent in agents),
        state_size=sum(obs_sizes),
        episode_limit=EPISODE_LIMIT,
        continuous=continuous,
        unit_types=tuple(agent.rsplit("_", 1)[0] for agent in agents),  # "speaker_0" is a speaker
        has_win=False,
        action_bounds=action_ranges([env.action_space(agent) for agent in agents]),
    )


def _action_size(space: Any) -> tuple[int]:
    """Returns an agent's choices, or the dimensions of its continuous actions."""
    if isinstance(space, spaces.Discrete):
        return (int(space.n),)
    return (int(space.shape[0]),)
