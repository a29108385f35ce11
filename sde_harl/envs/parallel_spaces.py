"""Turns the spaces of PettingZoo's environments into the rows of numbers that policies work with.

`pettingzoo.ParallelGame` is its only user, and its module says what each kind of space becomes.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from typing import Any, NamedTuple

import numpy as np
from gymnasium import spaces
from numpy.typing import NDArray

from sde_harl.errors import UserError


class StateLayout(NamedTuple):
    """The fields of an EnvSpec that describe the state."""

    size: int  # EnvSpec.state_size
    image: tuple[int, ...]  # EnvSpec.state_image
    dtype: str  # EnvSpec.state_dtype


class Bounds(NamedTuple):
    """The lowest and highest actions of all agents; padding is 0."""

    low: NDArray[np.float32]  # (N, D)
    high: NDArray[np.float32]  # (N, D)


def has_mask(space: Any) -> bool:
    """Returns whether an observation says which actions are available."""
    return isinstance(space, spaces.Dict) and "action_mask" in space.spaces


def _has_channels_first(shape: Sequence[int]) -> bool:
    # nothing in a Box says it, but images are hardly ever as low or narrow as their few channels
    return len(shape) == 3 and shape[0] < min(shape[1:])


def _image(shape: Sequence[int]) -> tuple[int, ...]:
    """Returns (H, W, C) of an image, () of anything else."""
    if len(shape) != 3:
        return ()
    if _has_channels_first(shape):
        shape = (*shape[1:], shape[0])
    return tuple(map(int, shape))


def obs_images(obs_spaces: Sequence[Any]) -> tuple[tuple[int, ...], ...]:
    """Returns `EnvSpec.obs_images`."""
    boxes = [space for space in obs_spaces if isinstance(space, spaces.Box)]
    images = tuple(_image(space.shape) for space in boxes)
    if len(images) == len(obs_spaces) and all(images):
        return images
    return ()


def joined_image(images: tuple[tuple[int, ...], ...]) -> tuple[int, ...]:
    """Returns (H, W, C) of all agents' images as one; () if their shapes differ or there are none.

    A policy has one convolution, so that images of several shapes can't be seen as one.
    """
    if len(set(images)) != 1:
        return ()
    height, width, channels = images[0]
    return height, width, channels * len(images)


def state_layout(state: NDArray[Any]) -> StateLayout:
    """Describes the environment's own state."""
    image = _image(state.shape)
    dtype = "float32"
    if image and state.dtype == np.uint8:
        dtype = "uint8"
    return StateLayout(size=state.size, image=image, dtype=dtype)


def to_row(seen: Any) -> NDArray[Any]:
    """Returns an observation or a state as one row; an image with its channels last."""
    array = np.asarray(seen)
    if _has_channels_first(array.shape):
        array = np.moveaxis(array, 0, -1)
    return np.ravel(array)


def are_all_continuous(agents: Sequence[Any], action_spaces: Sequence[Any]) -> bool:
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


def action_sizes(space: Any) -> tuple[int, ...]:
    """Returns one agent's part of `EnvSpec.action_sizes`."""
    if isinstance(space, spaces.MultiDiscrete):
        return tuple(map(int, space.nvec.ravel()))
    if isinstance(space, spaces.Discrete):
        return (int(space.n),)
    return (math.prod(space.shape),)


def action_bounds(action_spaces: Sequence[Any], dimensions: int) -> Bounds:
    """Returns the bounds of Box spaces in a layout of D `dimensions`."""
    low = np.zeros((len(action_spaces), dimensions), np.float32)
    high = np.zeros_like(low)
    for i, space in enumerate(action_spaces):
        low[i, : space.low.size] = space.low.ravel()
        high[i, : space.high.size] = space.high.ravel()
    return Bounds(low=low, high=high)


def action_columns(sizes: tuple[int, ...], branches: tuple[int, ...]) -> NDArray[np.int64]:
    """Returns where an agent's own choices lie among the A of the common layout."""
    firsts = np.cumsum((0, *branches))
    return np.concatenate([first + np.arange(size) for first, size in zip(firsts, sizes)])


def to_native(action: NDArray[np.generic], space: Any) -> Any:
    """Returns an agent's numbers (D,) as an action of its own space."""
    if isinstance(space, spaces.Discrete):
        return int(action[0]) + int(space.start)
    own = action[: math.prod(space.shape)].reshape(space.shape)  # without the padding
    if isinstance(space, spaces.MultiDiscrete):
        own = own + space.start  # our choices begin at 0, the space's own may begin elsewhere
    return own.astype(space.dtype)
