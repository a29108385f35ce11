"""What the critic sees: the environment's state, an agent's own version of it, or the agent's observation alone.

N agents, E environments, O observation, S state; V values a state has (1, or N) and W numbers that each is made of.
"""

from __future__ import annotations

from typing import NamedTuple

import numpy as np

from sde_harl.envs.base import EnvSpec

KINDS = ("EP", "FP", "own")
"""EP: one state for the whole team; FP: the state and the agent's own observation (HARL's names); own: the latter."""


class View(NamedTuple):
    """How critic inputs (V, E, W) are made of a step."""

    kind: str
    sizes: tuple[int, ...]
    """(V,) numbers that are no padding."""

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
        return np.concatenate([np.broadcast_to(state, (len(own), *state.shape)), own], -1)


def make_view(kind: str, spec: EnvSpec) -> View:
    """The view of `kind`, one of KINDS."""
    if kind == "EP":
        return View(kind, (spec.state_size,))
    shared = spec.state_size if kind == "FP" else 0
    return View(kind, tuple(shared + size for size in spec.obs_sizes))
