"""Policies that run entirely on their devices: these decide, and send what they did.

N agents, E environments of one slot.
"""

from __future__ import annotations

from typing import Any

import numpy as np
from numpy.typing import NDArray

from sde_harl.draws.counters import Draw
from sde_harl.envs.base import EnvStep
from sde_harl.placement.base import Placement, SlotDecision
from sde_harl.policy.inference.acting import ActingPolicy
from sde_harl.protocol.requests import ActRequest


class OnDevice(Placement):
    """The devices run all of the policy and keep its memory; rank 0 checks and records."""

    sends_latents = False

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
        """Returns what the devices did by the deadline; `policy` has no part in it.

        The devices make their own `draw`, of the same seed and step: here it matters only whether
        there is one.
        """
        # Environments come first in an EnvStep, agents in everything the policies take.
        available = now.available_actions.swapaxes(0, 1)
        with self._stages("devices"):
            request = ActRequest(
                available=available,
                begins=began,
                greedy=draw is None,
                send_memory=with_memory,
                step=step,
            )
            obs = now.obs.swapaxes(0, 1)
            done = self._pool.decide(self._slot, step, obs, request=request)
            decision = SlotDecision(
                actions=done.actions,
                log_probs=done.log_probs,
                # Of size 0, so that the collector records latents in any placement.
                latents=np.zeros((*available.shape[:2], 0), np.float32),
                ages=done.ages,
                memory=done.memory,
            )
            # Such a device has no fallback head. If its answer is missing, rank 0 can't know what
            # its agents did, but it must step the environments: there its agents do nothing.
            return self.fill_gaps(decision, now, None)

    def deliver(self, actions: NDArray[Any]) -> None:
        """Does nothing: the devices know what they did."""
