"""Defines a placement: the collector asks it for actions and never learns who chose them.

N agents, E environments of one slot, D numbers of an action, Z latent, H memory.
"""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Mapping
from typing import Any, ClassVar, NamedTuple

import numpy as np
from numpy.typing import NDArray

from sde_harl.draws.counters import Draw
from sde_harl.envs.base import EnvSpec, EnvStep
from sde_harl.meters.timing import Stages
from sde_harl.policy.inference.acting import ActingPolicy
from sde_harl.protocol.actions import NO_LATENT
from sde_harl.server.executor_pool import ExecutorPool


class SlotDecision(NamedTuple):
    """The actions of all agents in all environments of a slot, and what they were decided from."""

    actions: NDArray[Any]
    """(N, E, D)."""
    log_probs: NDArray[Any]
    """(N, E, D), 0 where the policy did not choose the action."""
    latents: NDArray[Any]
    """(N, E, Z) as decoded; Z = 0 where the devices send none."""
    ages: NDArray[np.int32] | None = None
    """(N, E) steps since the observation that a decision used; NO_LATENT where the policy had no
    part in it; None where every age is 0."""
    memory: NDArray[Any] | None = None
    """(N, E, H) before this decision; None where nothing is remembered or it was not asked for."""


class Placement(ABC):
    """Chooses the actions of one slot of environments."""

    sends_latents: ClassVar[bool]
    """True where rank 0 gets the latents that it decides on, to be kept for learning."""

    def __init__(self, slot: int, *, spec: EnvSpec, pool: ExecutorPool, stages: Stages) -> None:
        self._slot = slot
        self._spec = spec
        self._pool = pool
        self._stages = stages

    # The arguments are single values, not one object, because this runs at every step of a slot.
    @abstractmethod
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
        """Returns the actions for the observations of `now`.

        policy: rank 0's part of the policies. draw: the random numbers to sample actions with;
        None takes the most likely actions. step: steps of these environments so far. began: (E,)
        bool, True where an episode begins with `now`. with_memory: the memory before this decision
        is needed.

        Raises UserError where an executor is lost and the run must not go on without it.
        """

    @abstractmethod
    def deliver(self, actions: NDArray[Any]) -> None:
        """Tells the devices the actions (N, E, D) that were decided.

        Called after the environments have been started, so that they step meanwhile.
        """

    def restart(self, environments: NDArray[np.integer[Any]] | None = None) -> None:
        """Forgets what came before: episodes begin in `environments` (indices), or in all."""
        self._pool.forget(self._slot, environments)

    def state_dict(self) -> dict[str, NDArray[Any]]:
        """Returns what rank 0 remembers of the episodes under way: "memory" (N, E, H), if any."""
        return {}

    def load_state_dict(self, state: Mapping[str, NDArray[Any]]) -> None:  # noqa: B027
        """Takes over what `state_dict` returned; `restart` would forget it again."""

    def fill_gaps(
        self, decision: SlotDecision, now: EnvStep, fallback: NDArray[np.bool_] | None
    ) -> SlotDecision:
        """Returns the decision with a substitute where the policy had no part in an action.

        `fallback` (N, E) bool: where the agent's fallback head acts. Elsewhere it does nothing.
        """
        if decision.ages is None:
            return decision
        unknown = (decision.ages == NO_LATENT)[..., None]  # (N, E, 1)
        if not unknown.any():
            return decision
        available = now.available_actions.swapaxes(0, 1)
        # Some games forbid the no-op to living agents: there it is the first available action.
        instead = self._spec.idle(available)  # (N, E, D)
        if fallback is not None and fallback.any():
            heads = self._pool.fallback_actions(now.obs.swapaxes(0, 1), available)
            instead = np.where(fallback[..., None], heads, instead)
        # Learning leaves these rows out; their log-probability must be a number all the same.
        return decision._replace(
            actions=np.where(unknown, instead, decision.actions),
            log_probs=np.where(unknown, np.float32(0.0), decision.log_probs),
        )
