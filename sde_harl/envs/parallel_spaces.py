"""Turns the spaces of PettingZoo's environments into the rows of numbers that policies work with.

`pettingzoo.ParallelGame` is its only user, and its module says what each kind of space becomes.
What can't become numbers, or isn't what its space promises, raises `MisfitError`.
"""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from typing import Any, NamedTuple

import numpy as np
from gymnasium import spaces
from numpy.typing import NDArray

from sde_harl.config.wording import brief
from sde_harl.envs.specs import MAX_SIZE

MAX_WHOLE = 1 << 24
"""Largest bound of a Box of whole numbers: float32, in which policies act, has all up to here."""
MASK = "action_mask"


class MisfitError(Exception):
    """Says what was expected and what came instead. The caller knows of whom."""

    def __init__(self, expected: str, got: str) -> None:
        super().__init__(expected, got)
        self.expected = expected
        self.got = got


class StateLayout(NamedTuple):
    """The fields of an EnvSpec that describe the state."""

    size: int  # EnvSpec.state_size
    image: tuple[int, ...]  # EnvSpec.state_image
    dtype: str  # EnvSpec.state_dtype


MAX_RANGE = 1e6
"""Bound of an action's numbers, above which they count as unbounded."""


class Bounds(NamedTuple):
    """The lowest and highest actions of all agents; padding is 0."""

    low: NDArray[np.float32]  # (N, D)
    high: NDArray[np.float32]  # (N, D)
    whole: NDArray[np.bool_] | None
    """(N, D), the action is a whole number; None where none is."""

    def nearest(self, actions: NDArray[np.generic]) -> NDArray[np.generic]:
        """Returns the possible actions (N, D) that are nearest to these."""
        actions = np.clip(actions, self.low, self.high)
        if self.whole is not None:
            actions = np.where(self.whole, np.rint(actions), actions)
        return actions


def has_mask(space: Any) -> bool:
    """Returns whether an observation says which actions are available."""
    return isinstance(space, spaces.Dict) and MASK in space.spaces


def seen_space(space: Any) -> Any:
    """Returns the space of what the agent sees: that of its observation, without an action mask.

    Raises MisfitError where it can't become a row of numbers.
    """
    if has_mask(space):
        if set(space.spaces) != {"observation", MASK}:
            raise MisfitError(f"observation and {MASK} in the Dict, alone", ", ".join(space.spaces))
        space = space["observation"]
    if not isinstance(space, spaces.Space):
        raise MisfitError("a space of gymnasium's", f"{type(space).__name__}")
    if not space.is_np_flattenable:
        raise MisfitError(
            "a space of fixed size (Box, Discrete, MultiDiscrete, MultiBinary,"
            " or a Dict or Tuple of these)",
            brief(space),
        )
    _check_size(spaces.flatdim(space), space)
    return space


def _check_size(size: int, space: Any) -> None:
    if not 0 < size <= MAX_SIZE:
        raise MisfitError(f"1 to {MAX_SIZE} numbers", f"{size} ({brief(space)})")


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


def to_row(array: NDArray[Any]) -> NDArray[Any]:
    """Returns an observation or a state as one row; an image with its channels last."""
    if _has_channels_first(array.shape):
        array = np.moveaxis(array, 0, -1)
    return array.reshape(-1)


def obs_row(space: Any, seen: Any) -> NDArray[Any]:
    """Returns an observation of `space` as one row. Raises MisfitError where it is none."""
    if isinstance(space, spaces.Box):
        # not gymnasium's flatten: it would leave an image's channels first
        return to_row(as_array(seen, shape=space.shape, dtype=space.dtype))
    _check_element(space, seen)
    row: NDArray[Any] = spaces.flatten(space, seen)
    return row


def as_array(seen: Any, *, shape: tuple[int, ...], dtype: Any) -> NDArray[Any]:
    """Returns numbers as an array of `shape`.

    Raises MisfitError for another shape, and for numbers that `dtype` can't hold: no fractions for
    integers, and for bytes nothing but 0 to 255. A gymnasium Box is stricter: many environments
    declare float32 and return float64.
    """
    if type(seen) is np.ndarray and seen.dtype == dtype and seen.shape == shape:
        return seen
    try:
        array = np.asarray(seen)
    except (TypeError, ValueError):  # lists of several lengths, for one
        raise MisfitError(f"shape {shape} and dtype {dtype}", f"a {type(seen).__name__}") from None
    if array.shape != shape or not np.can_cast(array.dtype, dtype, "same_kind"):
        raise MisfitError(
            f"shape {shape} and dtype {dtype}", f"shape {array.shape} and dtype {array.dtype}"
        )
    is_wider = dtype == np.uint8 and array.dtype not in (np.uint8, np.bool_)
    if is_wider and array.size and not (array.min() >= 0 and array.max() <= 255):
        raise MisfitError("numbers from 0 to 255", f"{array.min()} to {array.max()}")
    return array


def _check_element(space: Any, seen: Any) -> None:
    """Raises MisfitError where `seen` is none of `space`; its Boxes are as strict as `as_array`."""
    if isinstance(space, spaces.Box):
        as_array(seen, shape=space.shape, dtype=space.dtype)
    elif isinstance(space, spaces.Dict):
        if not isinstance(seen, Mapping) or set(seen) != set(space.spaces):
            raise MisfitError(f"a dict of {', '.join(map(str, space.spaces))}", _keys(seen))
        for name, part in space.spaces.items():
            _check_element(part, seen[name])
    elif isinstance(space, spaces.Tuple):
        if not isinstance(seen, (tuple, list)) or len(seen) != len(space.spaces):
            raise MisfitError(f"{len(space.spaces)} values in a tuple", _keys(seen))
        for part, value in zip(space.spaces, seen):
            _check_element(part, value)
    elif not _contains(space, seen):
        raise MisfitError(f"an element of {brief(space)}", brief(seen))


def _contains(space: Any, seen: Any) -> bool:
    try:
        return bool(space.contains(seen))
    except Exception:  # gymnasium's spaces raise various errors for what they don't expect
        return False


def _keys(seen: Any) -> str:
    if isinstance(seen, Mapping):
        return f"a dict of {', '.join(map(str, seen)) or 'nothing'}"
    return brief(seen)


def mask_row(mask: Any, *, size: int) -> NDArray[np.bool_]:
    """Returns an action mask as (`size`,): all branches' choices, one after the other.

    As gymnasium has it for MultiDiscrete, it may be a tuple of one array a branch. Raises
    MisfitError for another length, and for numbers other than 0 and 1.
    """
    if isinstance(mask, tuple):
        mask = [choice for branch in mask for choice in np.ravel(branch)]
    array = as_array(mask, shape=(size,), dtype=np.float64)
    available: NDArray[np.bool_] = array.astype(bool)
    if array.dtype != bool and not (array == available).all():
        raise MisfitError("an action mask of 0 and 1", brief(mask))
    return available


def are_all_continuous(action_spaces: Sequence[Any]) -> bool:
    """Returns whether actions are continuous. Raises MisfitError where some are and some aren't."""
    are_boxes = [isinstance(space, spaces.Box) for space in action_spaces]
    if any(are_boxes) and not all(are_boxes):
        raise MisfitError(
            "agents that all choose or all act continuously", ", ".join(map(brief, action_spaces))
        )
    return all(are_boxes)


def action_sizes(space: Any) -> tuple[int, ...]:
    """Returns one agent's part of `EnvSpec.action_sizes`.

    Raises MisfitError for a space of another kind, and for one in which nothing can be done.
    """
    if isinstance(space, spaces.MultiDiscrete):
        sizes = tuple(map(int, space.nvec.ravel()))
    elif isinstance(space, spaces.Discrete):
        sizes = (int(space.n),)
    elif isinstance(space, spaces.Box):
        sizes = (math.prod(space.shape),)
        _check_whole(space)
    else:
        raise MisfitError("actions in Discrete, MultiDiscrete or Box", brief(space))
    _check_size(sum(sizes), space)
    return sizes


def _is_whole(space: spaces.Box) -> bool:
    return np.dtype(space.dtype).kind in "biu"


def _check_whole(space: spaces.Box) -> None:
    if _is_whole(space) and max(-float(space.low.min()), float(space.high.max())) > MAX_WHOLE:
        raise MisfitError(f"whole numbers within -{MAX_WHOLE} to {MAX_WHOLE}", brief(space))


def action_bounds(action_spaces: Sequence[Any], dimensions: int) -> Bounds:
    """Returns the bounds of Box spaces in a layout of D `dimensions`.

    They are float32 within the spaces' own: rounded to the nearest, 0.1 of a space in float64
    would be a bit above it.
    """
    low = np.zeros((len(action_spaces), dimensions), np.float32)
    high = np.zeros_like(low)
    whole = np.zeros(low.shape, np.bool_)
    for i, space in enumerate(action_spaces):
        own = slice(space.low.size)
        low[i, own] = _rounded(space.low, up=True)
        high[i, own] = _rounded(space.high, up=False)
        whole[i, own] = _is_whole(space)
    return Bounds(low=low, high=high, whole=whole if whole.any() else None)


def action_ranges(
    action_spaces: Sequence[Any],
) -> tuple[tuple[tuple[float, float], ...], ...]:
    """Returns the range of each dimension of each agent's action, as `EnvSpec.action_bounds`.

    Returns () where spaces are no Boxes, or where a range is infinite or empty.
    """
    if not all(isinstance(space, spaces.Box) for space in action_spaces):
        return ()
    found = tuple(
        tuple(
            (float(low), float(high))
            for low, high in zip(_rounded(space.low, up=True), _rounded(space.high, up=False))
        )
        for space in action_spaces
    )
    ranges = [each for own in found for each in own]
    # float32 can't hold the width of a range between its own largest numbers.
    if all(-MAX_RANGE < low < high < MAX_RANGE for low, high in ranges):
        return found
    return ()


def _rounded(bounds: NDArray[Any], *, up: bool) -> NDArray[np.float32]:
    """Returns bounds as float32, flat, those between two of its numbers rounded up or down."""
    exact = bounds.ravel()
    with np.errstate(over="ignore"):
        nearest = exact.astype(np.float32)
    if up:
        return np.where(nearest < exact, np.nextafter(nearest, np.float32(np.inf)), nearest)
    return np.where(nearest > exact, np.nextafter(nearest, np.float32(-np.inf)), nearest)


def action_columns(sizes: tuple[int, ...], branches: tuple[int, ...]) -> NDArray[np.int64]:
    """Returns where an agent's own choices lie among the A of the common layout."""
    firsts = np.cumsum((0, *branches))
    return np.concatenate([first + np.arange(size) for first, size in zip(firsts, sizes)])


def to_native(action: NDArray[np.generic], space: Any) -> Any:
    """Returns an agent's numbers (D,) as an action of its own space."""
    if isinstance(space, spaces.Discrete):
        return int(action[0]) + int(space.start)
    shape = space.shape
    own = action[: math.prod(shape)].reshape(shape)  # without the padding
    if isinstance(space, spaces.MultiDiscrete):
        own = own + space.start  # our choices begin at 0, the space's own may begin elsewhere
    return own.astype(space.dtype)
