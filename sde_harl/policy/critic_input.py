"""The critic's input: the environment's state, with or without an agent's observation.

N agents, E environments, O observation, S state; V values of a state (1, or N), W numbers that the
critic is shown for each of them.
"""

from __future__ import annotations

from typing import Any, NamedTuple

import numpy as np
from numpy.typing import NDArray

from sde_harl.envs.base import EnvSpec

KINDS = ("EP", "FP", "own")
"""EP: one state for the team. FP: for each agent, the state and its observation (both names
are HARL's). own: for each agent, its observation alone."""


class CriticInput(NamedTuple):
    """How the critic's inputs (V, E, W) are made from a step of the environments."""

    kind: str
    sizes: tuple[int, ...]
    """(V,) numbers of each input that are not padding."""
    image: tuple[int, ...] = ()
    """(H, W, C) where an input is an image; FP's has the channels of state and observation."""
    dtype: str = "float32"
    """Type of the inputs, "uint8" where they are bytes."""

    @property
    def size(self) -> int:
        """W."""
        return max(self.sizes)

    def __call__(self, state: NDArray[Any], obs: NDArray[Any]) -> NDArray[Any]:
        """Returns the inputs (V, E, W) of states (E, S) and observations (E, N, O)."""
        if self.kind == "EP":
            return state[None]  # (1, E, S)
        own = obs.swapaxes(0, 1)  # (N, E, O)
        if self.kind == "own":
            return own
        shared = np.broadcast_to(state, (len(own), *state.shape))  # (N, E, S)
        if not self.image:
            return np.concatenate([shared, own], -1)  # (N, E, S + O)
        images = [each.reshape(*own.shape[:2], *self.image[:2], -1) for each in (shared, own)]
        joined: NDArray[Any] = np.concatenate(images, -1).reshape(*own.shape[:2], -1)
        return joined  # (N, E, H W C)


def make_critic_input(kind: str, spec: EnvSpec) -> CriticInput:
    """Returns the input of a `kind`, one of KINDS, in an environment."""
    if kind == "EP":
        return CriticInput(
            kind=kind, sizes=(spec.state_size,), image=spec.state_image, dtype=spec.state_dtype
        )
    own: tuple[int, ...] = ()
    if len(set(spec.obs_images)) == 1:
        own = spec.obs_images[0]
    if kind == "own":
        return CriticInput(kind=kind, sizes=spec.obs_sizes, image=own, dtype=spec.obs_dtype)
    return _state_and_observation(own, spec)


def _state_and_observation(own: tuple[int, ...], spec: EnvSpec) -> CriticInput:
    """Returns the input of kind FP; `own` (H, W, C) of the observations, () where they differ."""
    sizes = tuple(spec.state_size + size for size in spec.obs_sizes)
    if spec.state_dtype != spec.obs_dtype:
        # Bytes beside floats become floats, so it is no image whose bytes are scaled later.
        return CriticInput(kind="FP", sizes=sizes)
    image: tuple[int, ...] = ()
    if own and own[:2] == spec.state_image[:2]:
        image = (own[0], own[1], spec.state_image[2] + own[2])
    return CriticInput(kind="FP", sizes=sizes, image=image, dtype=spec.obs_dtype)
