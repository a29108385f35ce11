"""One slot: environments that step together, and the placement that decides for them.

N agents, E environments of the slot.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from typing import Any

import numpy as np
from numpy.typing import NDArray

from sde_harl.draws.counters import Draw
from sde_harl.envs.base import EnvStep, VectorEnv
from sde_harl.meters.timing import Stages
from sde_harl.placement.base import Placement, SlotDecision
from sde_harl.policy.inference.acting import ActingPolicy
from sde_harl.training.episodes import Episodes


class EnvSlot:
    """The environments of one slot and where they stand."""

    def __init__(
        self,
        slot: int,
        env: VectorEnv,
        *,
        placement: Placement,
        stages: Stages,
        note: Callable[[str, str], None],
    ) -> None:
        """`note` records that something went wrong: a short slug, and a sentence for the log."""
        self._env = env
        self._placement = placement
        self._stages = stages
        self._note = note
        self.num_envs = env.num_envs
        # The slot's environments among those of all slots.
        self.rows = slice(slot * env.num_envs, (slot + 1) * env.num_envs)
        self.reset()

    def reset(self) -> None:
        """Starts the environments' random streams anew: the same episodes come again."""
        self.step: EnvStep = self._env.reset()
        self.seeds = self._env.episode_seeds().copy()
        """(E,) of the episodes that are being played."""
        self._began = np.ones(self._env.num_envs, bool)
        self._placement.restart()

    @property
    def is_brought_back(self) -> bool:
        """Returns False where interrupted episodes could not be brought back: they began anew."""
        return self._env.is_brought_back

    def state_dict(self) -> dict[str, NDArray[Any]]:
        """Returns which episodes begin with the next decision (E,), and the placement's memory."""
        return {"began": self._began, **self._placement.state_dict()}

    def load_state_dict(self, state: Mapping[str, NDArray[Any]]) -> None:
        """Takes over what `state_dict` returned, after a reset brought the episodes back."""
        if not self.is_brought_back:
            return  # the episodes began anew, and nothing is remembered of them
        self._began = state["began"].copy()
        self._placement.load_state_dict(state)

    def decide(
        self,
        step: int,
        policy: ActingPolicy,
        draw: Draw | None,
        *,
        with_memory: bool = False,
    ) -> SlotDecision:
        """Chooses actions for the present observations and starts the environments with them.

        `step` counts the environments' steps; `draw` None takes the most likely actions;
        `with_memory` asks for the policies' memory before this decision.
        """
        decision = self._placement.decide(
            self.step,
            policy,
            draw,
            step=step,
            began=self._began,
            with_memory=with_memory,
        )
        with self._stages("send"):
            # The environments come first: worker processes step while the actions travel.
            self._env.send(np.ascontiguousarray(decision.actions.swapaxes(0, 1)))
            self._placement.deliver(decision.actions)
        return decision

    def advance(self) -> Episodes | None:
        """Waits for the environments; returns the episodes that ended, None where none did.

        Void episodes are noted, and are not among those that it returns.
        """
        with self._stages("environment"):
            self.step = self._env.recv()
        self._began = self.step.terminated | self.step.truncated
        ended = np.flatnonzero(self._began)
        if not len(ended):
            return None
        return self._end_episodes(ended)

    def _end_episodes(self, ended: NDArray[np.intp]) -> Episodes:
        """Returns the episodes that the last step ended; `ended` are environments of the slot."""
        self._placement.restart(ended)
        for e in ended[self.step.void[ended]]:
            number = self.rows.start + e
            self._note("void", f"environment {number}: its game failed, and the episode is void")
        ended = ended[~self.step.void[ended]]
        episodes = Episodes(
            environment=self.rows.start + ended,
            seed=self.seeds[ended],
            length=self.step.lengths[ended].astype(np.int64),
            returns=self.step.returns[ended],
            won=self.step.won[ended].astype(np.int64),
        )
        # Only now: the environments play their next episodes already, whose seeds these are.
        self.seeds = self._env.episode_seeds().copy()
        return episodes
