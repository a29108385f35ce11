"""Any parallel environment of PettingZoo's: the user's own function makes it.

The team's reward is the mean over all agents; one that has left counts 0. Agents that leave early are inactive from
then on; the episode is over when all have left. An observation that is a Dict with "observation" and "action_mask" says
what is available. A Box of three dimensions is an image; its channels are the last dimension, or the first if that is
the smallest. Where all observations are images of bytes they stay bytes. All else is flattened as gymnasium flattens
it. Box actions are clipped to their bounds. The state is the environment's own, or the agents' observations one after
the other (of images of one shape: one upon the other, as channels).
"""

from __future__ import annotations

import math
import re
from collections.abc import Sequence
from typing import Any

import numpy as np
from gymnasium import spaces
from numpy.typing import NDArray

from sde_harl.config.entry_points import function
from sde_harl.envs.base import EnvConfig, EnvSpec
from sde_harl.envs.vector.games import Game, GameView, Outcome
from sde_harl.errors import UserError

SEED_MASK = 0x7FFFFFFF
"""Many environments seed generators that take no more than 32 bits."""


class ParallelGame(Game):
    """One parallel environment. Raises UserError for spaces that no policy of ours acts in."""

    def __init__(self, env: Any, name: str, episode_limit: int = 0) -> None:
        self._env = env
        agents = tuple(env.possible_agents)
        spaces_seen = [env.observation_space(agent) for agent in agents]
        self._masked = [
            isinstance(space, spaces.Dict) and "action_mask" in space.spaces
            for space in spaces_seen
        ]
        self._seen = [
            space["observation"] if masked else space
            for space, masked in zip(spaces_seen, self._masked)
        ]
        self._chosen = [env.action_space(agent) for agent in agents]
        continuous = _all_continuous(agents, self._chosen)
        env.reset(seed=0)  # some know their state only then
        self._has_state = _has_state(env)
        obs_sizes = tuple(spaces.flatdim(space) for space in self._seen)
        images = _images(self._seen)
        is_bytes = bool(images) and all(space.dtype == np.uint8 for space in self._seen)
        obs_dtype = "uint8" if is_bytes else "float32"
        state_image, state_dtype = _joined_image(images), obs_dtype
        if self._has_state:
            state_image, state_dtype = _state_image(np.asarray(env.state()))
        self.spec = EnvSpec(
            name=name,
            agents=tuple(map(str, agents)),
            obs_sizes=obs_sizes,
            action_sizes=tuple(_sizes(space) for space in self._chosen),
            state_size=np.size(env.state()) if self._has_state else sum(obs_sizes),
            episode_limit=episode_limit,
            continuous=continuous,
            unit_types=tuple(re.sub(r"_?\d+$", "", str(agent)) for agent in agents),
            has_win=False,
            obs_images=images,
            obs_dtype=obs_dtype,
            state_image=state_image,
            state_dtype=state_dtype,
        )
        self._agents = agents
        self._bounds = _bounds(self._chosen, self.spec) if continuous else None
        self._columns = [_columns(sizes, self.spec.branches) for sizes in self.spec.action_sizes]

    def reset(self, seed: int, view: GameView) -> None:
        obs, _ = self._env.reset(seed=seed & SEED_MASK)
        self._write(obs, view)

    def step(self, actions: NDArray[np.generic], view: GameView) -> Outcome:
        if self._bounds:
            actions = np.clip(actions, *self._bounds)
        native = {
            agent: _native(*pair) for agent, *pair in zip(self._agents, actions, self._chosen)
        }
        obs, rewards, terminated, truncated, _ = self._env.step(
            {agent: native[agent] for agent in self._env.agents}
        )
        self._write(obs, view)
        over = not self._env.agents or all(
            terminated[agent] or truncated[agent] for agent in self._env.agents
        )
        late = any(truncated[agent] and not terminated[agent] for agent in truncated)
        return Outcome(sum(rewards.values()) / len(self._agents), over and not late, over and late)

    def close(self) -> None:
        self._env.close()

    def _write(self, obs: dict[Any, Any], view: GameView) -> None:
        alive = set(self._env.agents)
        for i, agent in enumerate(self._agents):
            view.active[i] = agent in alive
            if agent not in obs:
                view.obs[i] = 0
                continue
            seen = obs[agent]
            if self._masked[i]:
                view.available_actions[i, self._columns[i]] = seen["action_mask"]
                seen = seen["observation"]
            flat = (
                _flat(seen)
                if isinstance(self._seen[i], spaces.Box)
                else spaces.flatten(self._seen[i], seen)
            )
            view.obs[i, : len(flat)] = flat
        view.state[:] = _flat(self._env.state()) if self._has_state else self._joined(view)

    def _joined(self, view: GameView) -> NDArray[Any]:
        if self.spec.state_image:
            height, width, _ = self.spec.state_image
            return np.concatenate(view.obs.reshape(len(view.obs), height, width, -1), -1).ravel()
        return np.concatenate([row[:size] for row, size in zip(view.obs, self.spec.obs_sizes)])


def _channels_first(shape: Sequence[int]) -> bool:
    return len(shape) == 3 and shape[0] < min(shape[1:])


def _image(shape: Sequence[int]) -> tuple[int, ...]:
    """(H, W, C) of an image, () of anything else."""
    if len(shape) != 3:
        return ()
    return tuple(map(int, (*shape[1:], shape[0]) if _channels_first(shape) else shape))


def _images(seen: Sequence[Any]) -> tuple[tuple[int, ...], ...]:
    """As `EnvSpec.obs_images` has them."""
    images = tuple(_image(space.shape) if isinstance(space, spaces.Box) else () for space in seen)
    return images if all(images) else ()


def _joined_image(images: tuple[tuple[int, ...], ...]) -> tuple[int, ...]:
    """Of all agents' observations as one image, () where they differ or are none."""
    if len(set(images)) != 1:
        return ()
    height, width, channels = images[0]
    return height, width, channels * len(images)


def _state_image(state: NDArray[Any]) -> tuple[tuple[int, ...], str]:
    """`EnvSpec.state_image` and `state_dtype` of the environment's own state."""
    image = _image(state.shape)
    return image, "uint8" if image and state.dtype == np.uint8 else "float32"


def _flat(seen: Any) -> NDArray[Any]:
    """One row; of an image with its channels last."""
    array = np.asarray(seen)
    return np.ravel(np.moveaxis(array, 0, -1) if _channels_first(array.shape) else array)


def _all_continuous(agents: Sequence[Any], chosen: Sequence[Any]) -> bool:
    """Whether every action space is a Box, and not every one a choice."""
    for agent, space in zip(agents, chosen):
        if not isinstance(space, (spaces.Discrete, spaces.MultiDiscrete, spaces.Box)):
            raise UserError(
                f"env.factory: {agent} acts in {space}, and not in Discrete, MultiDiscrete or Box"
            )
    boxes = [isinstance(space, spaces.Box) for space in chosen]
    if any(boxes) and not all(boxes):
        raise UserError(
            f"env.factory: some agents choose and some act continuously: {dict(zip(agents, chosen))}"
        )
    return all(boxes)


def _sizes(space: Any) -> tuple[int, ...]:
    """As `EnvSpec.action_sizes` has them."""
    if isinstance(space, spaces.MultiDiscrete):
        return tuple(map(int, space.nvec.ravel()))
    return (int(space.n) if isinstance(space, spaces.Discrete) else math.prod(space.shape),)


def _bounds(
    chosen: Sequence[Any], spec: EnvSpec
) -> tuple[NDArray[np.float32], NDArray[np.float32]]:
    """The lowest and highest (N, D) actions."""
    low, high = np.zeros((2, len(chosen), len(spec.branches)), np.float32)
    for i, space in enumerate(chosen):
        low[i, : space.low.size], high[i, : space.high.size] = space.low.ravel(), space.high.ravel()
    return low, high


def _columns(sizes: tuple[int, ...], branches: tuple[int, ...]) -> NDArray[np.int64]:
    """Where an agent's own choices lie among the A of the layout."""
    firsts = np.cumsum((0, *branches))
    return np.concatenate([first + np.arange(size) for first, size in zip(firsts, sizes)])


def _native(action: NDArray[np.generic], space: Any) -> Any:
    """An agent's (D,) numbers as its own space has them."""
    if isinstance(space, spaces.Discrete):
        return int(action[0]) + int(space.start)
    own = action[: math.prod(space.shape)].reshape(space.shape)
    return (own + space.start if isinstance(space, spaces.MultiDiscrete) else own).astype(
        space.dtype
    )


def _has_state(env: Any) -> bool:
    try:
        return np.size(env.state()) > 0
    except (AttributeError, NotImplementedError):
        return False


def make_game(env_config: EnvConfig) -> ParallelGame:
    """Raises UserError for a factory that isn't there, or makes something else."""
    env = function("env.factory", env_config.factory)()
    if not all(
        hasattr(env, name)
        for name in ("possible_agents", "observation_space", "action_space", "step")
    ):
        raise UserError(
            f"env.factory: {env_config.factory} made a {type(env).__name__}, not a parallel environment"
        )
    return ParallelGame(env, "pettingzoo/" + env_config.factory.replace(":", "."))
