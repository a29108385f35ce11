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

import math
import re
from collections.abc import Sequence
from typing import Any, NamedTuple

import numpy as np
from gymnasium import spaces
from numpy.typing import NDArray

from sde_harl.config.entry_points import function
from sde_harl.envs.base import EnvConfig, EnvSpec
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
        self._has_mask = [_has_mask(space) for space in given]
        self._obs_spaces = [
            space["observation"] if has_mask else space
            for space, has_mask in zip(given, self._has_mask)
        ]
        self._action_spaces = [env.action_space(agent) for agent in self._agents]
        is_continuous = _are_all_continuous(self._agents, self._action_spaces)
        env.reset(seed=0)  # some environments know their state only after a reset
        self._has_state = _has_state(env)
        self.spec = self._make_spec(name, episode_limit, is_continuous=is_continuous)
        self._bounds: _Bounds | None = None
        if is_continuous:
            self._bounds = _make_bounds(self._action_spaces, len(self.spec.branches))
        self._columns = [_columns(sizes, self.spec.branches) for sizes in self.spec.action_sizes]

    def _make_spec(self, name: str, episode_limit: int, *, is_continuous: bool) -> EnvSpec:
        obs_sizes = tuple(spaces.flatdim(space) for space in self._obs_spaces)
        images = _images(self._obs_spaces)
        obs_dtype = "float32"
        if images and all(space.dtype == np.uint8 for space in self._obs_spaces):
            obs_dtype = "uint8"
        if self._has_state:
            state = _described_state(np.asarray(self._env.state()))
        else:
            state = _State(size=sum(obs_sizes), image=_joined_image(images), dtype=obs_dtype)
        return EnvSpec(
            name=name,
            agents=tuple(map(str, self._agents)),
            obs_sizes=obs_sizes,
            action_sizes=tuple(_action_sizes(space) for space in self._action_spaces),
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
        if self._bounds is not None:
            actions = np.clip(actions, self._bounds.low, self._bounds.high)
        native = {
            agent: _native(action, space)
            for agent, action, space in zip(self._agents, actions, self._action_spaces)
        }
        # PettingZoo takes no actions of agents that have left, and some environments want those of
        # the others in the order of their own list
        present = {agent: native[agent] for agent in self._env.agents}
        obs, rewards, terminated, truncated, _ = self._env.step(present)
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
            out.state[:] = _flat(self._env.state())
        else:
            out.state[:] = self._joined(out)

    def _write_agent(self, i: int, seen: Any, out: ObservationBuffers) -> None:
        if self._has_mask[i]:
            out.available_actions[i, self._columns[i]] = seen["action_mask"]
            seen = seen["observation"]
        # a Box may be an image, whose channels _flat moves; other spaces are gymnasium's to flatten
        if isinstance(self._obs_spaces[i], spaces.Box):
            flat = _flat(seen)
        else:
            flat = spaces.flatten(self._obs_spaces[i], seen)
        out.obs[i, : len(flat)] = flat

    def _joined(self, out: ObservationBuffers) -> NDArray[Any]:
        """Returns the observations just written as one state (S,)."""
        if self.spec.state_image:
            height, width, _ = self.spec.state_image
            images = out.obs.reshape(len(out.obs), height, width, -1)  # (N, H, W, C)
            return np.concatenate(images, -1).ravel()
        return np.concatenate([row[:size] for row, size in zip(out.obs, self.spec.obs_sizes)])


class _State(NamedTuple):
    """The fields of an EnvSpec that describe the state."""

    size: int
    image: tuple[int, ...]
    dtype: str


class _Bounds(NamedTuple):
    """(N, D) lowest and highest actions; padding is 0."""

    low: NDArray[np.float32]
    high: NDArray[np.float32]


def _has_mask(space: Any) -> bool:
    return isinstance(space, spaces.Dict) and "action_mask" in space.spaces


def _has_state(env: Any) -> bool:
    try:
        return np.size(env.state()) > 0
    except (AttributeError, NotImplementedError):  # PettingZoo's base class raises the latter
        return False


def _has_channels_first(shape: Sequence[int]) -> bool:
    return len(shape) == 3 and shape[0] < min(shape[1:])


def _image(shape: Sequence[int]) -> tuple[int, ...]:
    """Returns (H, W, C) of an image, () of anything else."""
    if len(shape) != 3:
        return ()
    if _has_channels_first(shape):
        shape = (*shape[1:], shape[0])
    return tuple(map(int, shape))


def _images(obs_spaces: Sequence[Any]) -> tuple[tuple[int, ...], ...]:
    """Returns `EnvSpec.obs_images`."""
    boxes = [space for space in obs_spaces if isinstance(space, spaces.Box)]
    images = tuple(_image(space.shape) for space in boxes)
    if len(images) == len(obs_spaces) and all(images):
        return images
    return ()


def _joined_image(images: tuple[tuple[int, ...], ...]) -> tuple[int, ...]:
    """Returns (H, W, C) of all agents' images as one; () if their shapes differ or there are none.

    A policy has one convolution, so that images of several shapes can't be seen as one.
    """
    if len(set(images)) != 1:
        return ()
    height, width, channels = images[0]
    return height, width, channels * len(images)


def _described_state(state: NDArray[Any]) -> _State:
    """Describes the environment's own state."""
    image = _image(state.shape)
    dtype = "float32"
    if image and state.dtype == np.uint8:
        dtype = "uint8"
    return _State(size=state.size, image=image, dtype=dtype)


def _flat(seen: Any) -> NDArray[Any]:
    """Returns an observation or a state as one row; an image with its channels last."""
    array = np.asarray(seen)
    if _has_channels_first(array.shape):
        array = np.moveaxis(array, 0, -1)
    return np.ravel(array)


def _are_all_continuous(agents: Sequence[Any], action_spaces: Sequence[Any]) -> bool:
    """Returns whether actions are continuous.

    Raises UserError for a space of another kind, and where some agents choose and some don't.
    """
    for agent, space in zip(agents, action_spaces):
        if not isinstance(space, (spaces.Discrete, spaces.MultiDiscrete, spaces.Box)):
            raise UserError(
                f"env.factory: {agent} acts in {space}, and not in Discrete, MultiDiscrete or Box"
            )
    are_boxes = [isinstance(space, spaces.Box) for space in action_spaces]
    if any(are_boxes) and not all(are_boxes):
        raise UserError(
            "env.factory: some agents choose and some act continuously: "
            f"{dict(zip(agents, action_spaces))}"
        )
    return all(are_boxes)


def _action_sizes(space: Any) -> tuple[int, ...]:
    """Returns one agent's part of `EnvSpec.action_sizes`."""
    if isinstance(space, spaces.MultiDiscrete):
        return tuple(map(int, space.nvec.ravel()))
    if isinstance(space, spaces.Discrete):
        return (int(space.n),)
    return (math.prod(space.shape),)


def _make_bounds(action_spaces: Sequence[Any], dimensions: int) -> _Bounds:
    low = np.zeros((len(action_spaces), dimensions), np.float32)
    high = np.zeros_like(low)
    for i, space in enumerate(action_spaces):
        low[i, : space.low.size] = space.low.ravel()
        high[i, : space.high.size] = space.high.ravel()
    return _Bounds(low=low, high=high)


def _columns(sizes: tuple[int, ...], branches: tuple[int, ...]) -> NDArray[np.int64]:
    """Returns where an agent's own choices lie among the A of the common layout."""
    firsts = np.cumsum((0, *branches))
    return np.concatenate([first + np.arange(size) for first, size in zip(firsts, sizes)])


def _native(action: NDArray[np.generic], space: Any) -> Any:
    """Returns an agent's numbers (D,) as an action of its own space."""
    if isinstance(space, spaces.Discrete):
        return int(action[0]) + int(space.start)
    own = action[: math.prod(space.shape)].reshape(space.shape)
    if isinstance(space, spaces.MultiDiscrete):
        own = own + space.start
    return own.astype(space.dtype)


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
