"""Any parallel environment of PettingZoo: a function of the user's makes it.

* Rewards: the team's is the mean over all agents; an agent that has left counts 0.
* Ends: an agent that leaves early is inactive from then on; the episode is over when all have left.
* Observations: a Dict with "observation" and "action_mask" says what is available. A Box of three
  dimensions is an image; its channels are the last dimension, or the first if that is the smallest.
  Images of bytes stay bytes if all agents' observations are such. All else is flattened as
  gymnasium flattens it.
* Actions: Box actions are clipped to their bounds.
* State: the environment's own if it has one, else the agents' observations one after the other (of
  images of one shape: one upon the other, as channels).
"""

from __future__ import annotations

import re
from typing import Any

import numpy as np
from gymnasium import spaces
from numpy.typing import NDArray

from sde_harl.config.entry_points import function
from sde_harl.envs.base import EnvSpec
from sde_harl.envs.parallel_spaces import (
    Bounds,
    StateLayout,
    action_bounds,
    action_columns,
    action_sizes,
    are_all_continuous,
    has_mask,
    joined_image,
    obs_images,
    state_layout,
    to_native,
    to_row,
)
from sde_harl.envs.settings import EnvConfig
from sde_harl.envs.vector.games import Game, ObservationBuffers, Outcome
from sde_harl.errors import UserError

SEED_MASK = 0x7FFFFFFF
"""Many environments seed generators that take no more than 32 bits."""


class ParallelGame(Game):
    """One parallel environment. Raises UserError for action spaces that no policy can act in."""

    def __init__(self, env: Any, name: str, *, episode_limit: int = 0) -> None:
        self._env = env
        self._agents = tuple(env.possible_agents)
        given = [env.observation_space(agent) for agent in self._agents]
        self._has_mask = [has_mask(space) for space in given]
        self._obs_spaces = [
            space["observation"] if is_masked else space
            for space, is_masked in zip(given, self._has_mask)
        ]
        self._action_spaces = [env.action_space(agent) for agent in self._agents]
        is_continuous = are_all_continuous(self._agents, self._action_spaces)
        env.reset(seed=0)  # some environments know their state only after a reset
        self._has_state = _has_state(env)
        self.spec = self._make_spec(name, episode_limit, is_continuous=is_continuous)
        self._bounds: Bounds | None = None
        if is_continuous:
            self._bounds = action_bounds(self._action_spaces, len(self.spec.branches))
        branches = self.spec.branches
        self._columns = [action_columns(sizes, branches) for sizes in self.spec.action_sizes]

    def _make_spec(self, name: str, episode_limit: int, *, is_continuous: bool) -> EnvSpec:
        obs_sizes = tuple(spaces.flatdim(space) for space in self._obs_spaces)
        images = obs_images(self._obs_spaces)
        obs_dtype = "float32"
        if images and all(space.dtype == np.uint8 for space in self._obs_spaces):
            obs_dtype = "uint8"
        if self._has_state:
            state = state_layout(np.asarray(self._env.state()))
        else:
            state = StateLayout(size=sum(obs_sizes), image=joined_image(images), dtype=obs_dtype)
        return EnvSpec(
            name=name,
            agents=tuple(map(str, self._agents)),
            obs_sizes=obs_sizes,
            action_sizes=tuple(action_sizes(space) for space in self._action_spaces),
            state_size=state.size,
            episode_limit=episode_limit,
            continuous=is_continuous,
            unit_types=tuple(re.sub(r"_?\d+$", "", str(agent)) for agent in self._agents),
            has_win=False,
            obs_images=images,
            obs_dtype=obs_dtype,
            state_image=state.image,
            state_dtype=state.dtype,
        )

    def reset(self, seed: int, out: ObservationBuffers) -> None:
        obs, _ = self._env.reset(seed=seed & SEED_MASK)
        self._write(obs, out)

    def step(self, actions: NDArray[np.generic], out: ObservationBuffers) -> Outcome:
        obs, rewards, terminated, truncated, _ = self._env.step(self._native(actions))
        self._write(obs, out)
        # environments differ in whether they empty `agents` in the step that ends an episode
        is_over = all(terminated[agent] or truncated[agent] for agent in self._env.agents)
        is_late = any(truncated[agent] and not terminated[agent] for agent in truncated)
        return Outcome(
            reward=sum(rewards.values()) / len(self._agents),
            terminated=is_over and not is_late,
            truncated=is_over and is_late,
        )

    def close(self) -> None:
        self._env.close()

    def _native(self, actions: NDArray[np.generic]) -> dict[Any, Any]:
        """Returns the actions (N, D) as the environment's own, by agent."""
        if self._bounds is not None:
            actions = np.clip(actions, self._bounds.low, self._bounds.high)
        native = {
            agent: to_native(action, space)
            for agent, action, space in zip(self._agents, actions, self._action_spaces)
        }
        # PettingZoo takes no actions of agents that have left. The others' go in the order of the
        # environment's own list, on which some environments rely.
        return {agent: native[agent] for agent in self._env.agents}

    def _write(self, obs: dict[Any, Any], out: ObservationBuffers) -> None:
        """Writes what the environment returned; an agent that has left sees zeros."""
        alive = set(self._env.agents)
        for i, agent in enumerate(self._agents):
            out.active[i] = agent in alive
            if agent in obs:
                self._write_agent(i, obs[agent], out)
            else:
                out.obs[i] = 0
        if self._has_state:
            out.state[:] = to_row(self._env.state())
        else:
            out.state[:] = self._joined(out)

    def _write_agent(self, i: int, seen: Any, out: ObservationBuffers) -> None:
        if self._has_mask[i]:
            out.available_actions[i, self._columns[i]] = seen["action_mask"]
            seen = seen["observation"]
        if isinstance(self._obs_spaces[i], spaces.Box):
            row = to_row(seen)  # not gymnasium's flatten: it would leave an image's channels first
        else:
            row = spaces.flatten(self._obs_spaces[i], seen)
        out.obs[i, : len(row)] = row

    def _joined(self, out: ObservationBuffers) -> NDArray[Any]:
        """Returns the observations just written as one state (S,)."""
        if self.spec.state_image:
            height, width, _ = self.spec.state_image
            images = out.obs.reshape(len(out.obs), height, width, -1)  # (N, H, W, C)
            joined: NDArray[Any] = np.concatenate(images, -1).ravel()
            return joined
        return np.concatenate([row[:size] for row, size in zip(out.obs, self.spec.obs_sizes)])


def _has_state(env: Any) -> bool:
    try:
        return np.size(env.state()) > 0
    except (AttributeError, NotImplementedError):  # PettingZoo's base class raises the latter
        return False


def make_game(env_config: EnvConfig) -> ParallelGame:
    """Makes one game.

    Raises UserError if there is no such factory, or if it makes something else.
    """
    env = function("env.factory", env_config.factory)()
    for name in ("possible_agents", "observation_space", "action_space", "step"):
        if not hasattr(env, name):
            raise UserError(
                f"env.factory: {env_config.factory} made a {type(env).__name__}, "
                "not a parallel environment"
            )
    return ParallelGame(env, "pettingzoo/" + env_config.factory.replace(":", "."))
