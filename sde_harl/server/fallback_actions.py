"""The fallback heads at rank 0, which plays the environments and so acts for the devices.

N agents, E environments, O observation, A choices, D numbers of an action.
"""

from __future__ import annotations

import numpy as np

from sde_harl.policy.inference.fallback_head import FallbackPolicy, fallback_orders
from sde_harl.policy.shapes import FallbackShape
from sde_harl.protocol.actions import NO_LATENT
from sde_harl.protocol.session import SessionSpec
from sde_harl.server.settings import PoolSettings


class FallbackActions:
    """Stands for the fallback heads of the devices."""

    def __init__(
        self,
        session: SessionSpec,
        fallback_head: FallbackShape,
        *,
        settings: PoolSettings,
        rank_of: np.ndarray,
    ) -> None:
        """`rank_of` (N,): executor of each agent."""
        self._session = session
        self._fallback_head = fallback_head
        self._settings = settings
        self._rank_of = rank_of
        self._policy: FallbackPolicy | None = None

    def load(self, flat: np.ndarray) -> None:
        """Takes the weights of all agents, as the devices have them."""
        self._policy = FallbackPolicy(
            shape=self._session.shape, fallback=self._fallback_head, weights=flat
        )

    def act(self, obs: np.ndarray, available: np.ndarray) -> np.ndarray:
        """Returns the heads' actions (N, E, D) on observations (N, E, O); available (N, E, A) bool.

        Agents that have actuators of their own get the order to act by their heads instead: rank 0
        has not read their sensors.
        """
        assert self._policy, "nothing has been published"
        if self._session.actions:
            shape = (*obs.shape[:2], self._settings.action_size)
            return fallback_orders(shape, self._settings.continuous)
        # Observations are transposed views of the environments' arrays, and may be bytes.
        latents = self._policy.local(np.ascontiguousarray(obs, np.float32))
        return self._policy.act(latents, available)

    def mask(self, ages: np.ndarray, absent: list[int]) -> np.ndarray:
        """Returns (N, E) bool, where the heads act, from the ages (N, E) of the latents."""
        # Nobody knows whether an absent executor still acts at all.
        is_there = ~np.isin(self._rank_of, absent)
        mask: np.ndarray = (ages == NO_LATENT) & is_there[:, None]
        return mask
