"""What the critic sees: the environment's state, an agent's own version of it, or the agent's observation alone.

N agents, E environments, O observation, S state; V values a state has (1, or N) and W numbers that each is made of.
"""

from __future__ import annotations

from typing import NamedTuple

import numpy as np

from sde_harl.envs.base import EnvSpec

KINDS = ("EP", "FP", "own")
"""EP: one state for the whole team; FP: the state and the agent's own observation (HARL's names); own: the latter."""


class CriticInput(NamedTuple):
    """How critic inputs (V, E, W) are made of a step."""

    kind: str
    sizes: tuple[int, ...]
    """(V,) numbers that are no padding."""
    image: tuple[int, ...] = ()
    """(H, W, C) of what is seen where that is an image; of state and observation, all channels of both."""
    dtype: str = "float32"
    """Of the inputs, "uint8" where they are bytes."""

    @property
    def size(self) -> int:
        """W."""
        return max(self.sizes)

    def __call__(self, state: np.ndarray, obs: np.ndarray) -> np.ndarray:
        """(V, E, W) of states (E, S) and observations (E, N, O)."""
        if self.kind == "EP":
            return state[None]
        own = obs.swapaxes(0, 1)
        if self.kind == "own":
            return own
        shared = np.broadcast_to(state, (len(own), *state.shape))
        if not self.image:
            return np.concatenate([shared, own], -1)
        images = [each.reshape(*own.shape[:2], *self.image[:2], -1) for each in (shared, own)]
        return np.concatenate(images, -1).reshape(*own.shape[:2], -1)


def make_critic_input(kind: str, spec: EnvSpec) -> CriticInput:
    """The view of `kind`, one of KINDS."""
    if kind == "EP":
        return CriticInput(kind, (spec.state_size,), spec.state_image, spec.state_dtype)
    own = spec.obs_images[0] if len(set(spec.obs_images)) == 1 else ()
    if kind == "own":
        return CriticInput(kind, spec.obs_sizes, own, spec.obs_dtype)
    sizes = tuple(spec.state_size + size for size in spec.obs_sizes)
    if spec.state_dtype != spec.obs_dtype:
        return CriticInput(kind, sizes)
    image = (
        (*own[:2], spec.state_image[2] + own[2]) if own and own[:2] == spec.state_image[:2] else ()
    )
    return CriticInput(kind, sizes, image, spec.obs_dtype)
