"""Runs the fallback heads at rank 0, which steps the environments and so acts for the devices.

N agents, E environments, O observation, A choices, D numbers of an action.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import numpy as np
from numpy.typing import NDArray

from sde_harl.policy.inference.fallback_head import FallbackPolicy, fallback_orders
from sde_harl.policy.shapes import FallbackShape
from sde_harl.protocol.actions import NO_LATENT
from sde_harl.protocol.session import SessionSpec
from sde_harl.server.assignment import ranks_of
from sde_harl.server.settings import PoolSettings


class FallbackActions:
    """Computes what the fallback heads of the devices would do."""

    def __init__(
        self,
        session: SessionSpec,
        fallback_head: FallbackShape,
        *,
        settings: PoolSettings,
        executors: Mapping[int, tuple[int, ...]],
    ) -> None:
        """`executors` maps ranks to agents."""
        self._session = session
        self._fallback_head = fallback_head
        self._settings = settings
        self._executors = executors
        self._policy: FallbackPolicy | None = None

    def load(self, flat: NDArray[np.float32]) -> None:
        """Takes the weights of all agents, as the devices have them."""
        self._policy = FallbackPolicy(
            shape=self._session.shape, fallback=self._fallback_head, weights=flat
        )

    def act(self, obs: NDArray[Any], available: NDArray[np.bool_]) -> NDArray[Any]:
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

    def mask(self, ages: NDArray[np.int32], absent: list[int]) -> NDArray[np.bool_]:
        """Returns (N, E) bool, where the heads act, from the ages (N, E) of the latents."""
        # An absent executor may not act at all, so its agents do nothing here.
        is_there = ~np.isin(ranks_of(self._executors), absent)
        mask: NDArray[np.bool_] = (ages == NO_LATENT) & is_there[:, None]
        return mask
