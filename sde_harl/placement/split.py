"""Policies that are split: devices send latents, rank 0 decides and answers with actions.

N agents, E environments of one slot, D numbers of an action, H memory.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import numpy as np
from numpy.typing import NDArray

from sde_harl.draws.counters import Draw
from sde_harl.envs.base import EnvSpec, EnvStep
from sde_harl.meters.timing import Stages, now_ns
from sde_harl.placement.base import Placement, SlotDecision
from sde_harl.policy.inference.acting import ActingPolicy
from sde_harl.server.executor_pool import ExecutorPool


class Split(Placement):
    """The devices run the local nets; rank 0 runs the group nets and the heads."""

    sends_latents = True

    def __init__(self, slot: int, *, spec: EnvSpec, pool: ExecutorPool, stages: Stages) -> None:
        super().__init__(slot, spec=spec, pool=pool, stages=stages)
        # (N, E, H) of recurrent policies. It lies here because the trunk that it belongs to does.
        self._memory: NDArray[Any] | None = None
        self._policy_ns = 0

    def decide(
        self,
        now: EnvStep,
        policy: ActingPolicy,
        draw: Draw | None,
        *,
        step: int,
        began: NDArray[np.bool_],
        with_memory: bool,
    ) -> SlotDecision:
        """Returns what the policies choose from the latents that arrive before the deadline."""
        with self._stages("send"):
            self._pool.sense(self._slot, step, now.obs.swapaxes(0, 1))
        with self._stages("latents"):
            latents = self._pool.latents(self._slot)
        with self._stages("policy"):
            started = now_ns()
            # Environments come first in an EnvStep, agents in everything the policies take.
            available = now.available_actions.swapaxes(0, 1)
            # act() returns a new array, so `before` stays as it was until it is recorded.
            before = self._memory
            chosen = policy.act(latents.values, available, draw, before)
            self._memory = chosen.memory
            self._policy_ns = now_ns() - started
            decision = SlotDecision(
                actions=chosen.actions,
                log_probs=chosen.log_probs,
                latents=latents.values,
                ages=latents.ages,
                memory=before,
            )
            return self.fill_gaps(decision, now, latents.fallback)

    def deliver(self, actions: NDArray[Any]) -> None:
        """Sends the actions to the devices, which may have actuators."""
        self._pool.act(self._slot, actions, policy_ns=self._policy_ns)

    def state_dict(self) -> dict[str, NDArray[Any]]:
        if self._memory is None:
            return {}
        return {"memory": self._memory}

    def load_state_dict(self, state: Mapping[str, NDArray[Any]]) -> None:
        self._memory = state.get("memory")

    def restart(self, environments: NDArray[np.integer[Any]] | None = None) -> None:
        """Forgets latents and memory, in some environments or in all."""
        super().restart(environments)
        if environments is None:
            self._memory = None
        elif self._memory is not None:
            self._memory[:, environments] = 0.0
