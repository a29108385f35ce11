"""Evaluation: greedy episodes, the same ones each time."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any, NamedTuple

import numpy as np
from numpy.typing import NDArray

from sde_harl.codec.symbols import SymbolCounts
from sde_harl.outside.process import interruption
from sde_harl.policy.inference.acting import ActingPolicy
from sde_harl.training.env_slot import EnvSlot
from sde_harl.training.episodes import EpisodeRecorder, Episodes


class RecordedSlot(NamedTuple):
    """A slot of an evaluation."""

    env_slot: EnvSlot
    recorder: EpisodeRecorder | None
    """Keeps the counted episodes step by step; None where these are not recorded."""


class Evaluator:
    """Plays evaluations in environments of their own, which are made for the first one."""

    def __init__(
        self,
        episodes: int,
        make_slots: Callable[[], list[EnvSlot]],
        make_recorder: Callable[[int], EpisodeRecorder] | None,
    ) -> None:
        """`episodes`: played in one evaluation. `make_recorder`: for a number of environments."""
        self._episodes = episodes
        self._make_slots = make_slots
        self._make_recorder = make_recorder
        self._env_slots: list[EnvSlot] = []

    def evaluate(
        self, policy: ActingPolicy, step: int, *, symbols: SymbolCounts | None
    ) -> Episodes:
        """Plays one evaluation at `step` of the training environments.

        `symbols` counts what is sent, where it is coded by tables.
        """
        # Not before: a run that never evaluates needs no second set of games.
        self._env_slots = self._env_slots or self._make_slots()
        slots = [RecordedSlot(each, self._recorder(each)) for each in self._env_slots]
        return GreedyPlay(slots, policy, step, symbols=symbols).play(self._episodes)

    def _recorder(self, env_slot: EnvSlot) -> EpisodeRecorder | None:
        return self._make_recorder and self._make_recorder(env_slot.num_envs)


class GreedyPlay:
    """One evaluation under way.

    Every environment plays the same number of episodes, or one more, to the end; later ones are
    not counted. The first so many episodes of all would hold too many short ones.
    """

    def __init__(
        self,
        slots: list[RecordedSlot],
        policy: ActingPolicy,
        step: int,
        *,
        symbols: SymbolCounts | None,
    ) -> None:
        self._slots = slots
        self._policy = policy
        self._step = step
        self._symbols = symbols

    def play(self, episodes: int) -> Episodes:
        """Plays so many episodes; returns them in the order in which they ended."""
        envs = self._slots[-1].env_slot.rows.stop
        left = episodes // envs + (np.arange(envs) < episodes % envs)  # (all E) to be played
        counted: list[Episodes] = []
        self._start()
        while left.any():
            interruption.check()
            for slot in self._slots:
                counted += self._finish(slot, left)
                self._begin(slot)
        # Their last steps still run: environments can't be started again before they are waited
        # for.
        for slot in self._slots:
            slot.env_slot.advance()
        return Episodes.join(counted)

    def _start(self) -> None:
        """Resets all environments and takes the first decision in each slot."""
        # The same start for each evaluation, so that they play the same games.
        for slot in self._slots:
            slot.env_slot.reset()
        for slot in self._slots:
            self._begin(slot)

    def _begin(self, slot: RecordedSlot) -> None:
        obs = slot.env_slot.step.obs
        decision = slot.env_slot.decide(self._step, self._policy, None)
        if self._symbols:
            self._symbols.add(decision.latents, decision.ages)
        if slot.recorder:
            slot.recorder.decided(obs, decision.actions)

    def _finish(self, slot: RecordedSlot, left: NDArray[Any]) -> list[Episodes]:
        """Waits for a slot's environments; takes the ended episodes that count off `left`."""
        env_slot = slot.env_slot
        # Read before `advance`, which replaces the seeds of ended episodes by the next ones'.
        seeds = env_slot.seeds
        ended = env_slot.advance()
        if slot.recorder:
            slot.recorder.advanced(env_slot.step, seeds, left[env_slot.rows] > 0)
        if ended is None:
            return []
        counts = left[ended.environment] > 0
        left[ended.environment] -= counts
        return [ended.select(counts)]
