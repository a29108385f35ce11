"""Holds one slot: its environments' decision on the way, and its agents' last latents.

N agents, E environments of the slot, Z latent.
"""

from __future__ import annotations

from collections.abc import Collection, Iterable, Mapping
from typing import Any

import numpy as np
from numpy.typing import NDArray

from sde_harl.meters.timing import now_ns
from sde_harl.protocol.actions import NO_LATENT, DeviceActions
from sde_harl.protocol.session import SessionSpec
from sde_harl.server.membership import Question
from sde_harl.server.settings import PoolSettings


class Counts:
    """Counts what a slot's decision took, one number an agent; `Decisions` explains the fields."""

    __slots__ = (
        "age",
        "answers",
        "decode_ns",
        "fallback",
        "ideal_bits",
        "idle",
        "late",
        "missed",
        "payload_bytes",
    )

    def __init__(self, agents: int) -> None:
        # Lists, not arrays: single numbers are written far more often than columns are read.
        self.payload_bytes = [0] * agents
        self.ideal_bits = [-1.0] * agents
        self.decode_ns = [0] * agents
        self.age = [0.0] * agents
        self.missed = [0] * agents
        self.idle = [0] * agents
        self.fallback = [0] * agents
        self.answers = [0] * agents
        self.late = [0] * agents

    def note_ages(self, agent: int, ages: NDArray[np.int32], fallback: int) -> None:
        """Counts the ages (E,) of an agent's latents; in `fallback` environments its head acts."""
        known = ages[ages != NO_LATENT]
        self.age[agent] = float("nan")
        if len(known):  # numpy's mean of nothing would warn
            self.age[agent] = float(known.mean())
        self.missed[agent] = int((ages != 0).sum())
        self.fallback[agent] = fallback
        self.idle[agent] = len(ages) - len(known) - fallback


class Slot:
    """Holds the decision that is being made in one slot."""

    def __init__(
        self,
        index: int,
        executors: Mapping[int, tuple[int, ...]],
        *,
        rows: int,
        latent_sizes: tuple[int, ...],
        answers_as_one: bool,
    ) -> None:
        """Makes a slot that has not decided yet.

        `executors` maps ranks to agents; `answers_as_one`: one answer of an executor is for all its
        agents.
        """
        self._executors = executors
        self._answers_as_one = answers_as_one
        self._latent_sizes = latent_sizes
        agents = len(latent_sizes)
        self.index = index
        self.latents = np.zeros((agents, rows, max(latent_sizes)), np.float32)
        """The last ones of each agent, those of decision `decision_of[agent]`."""
        self.decision_of = [NO_LATENT] * agents
        self.began = np.zeros(rows, np.int64)
        """The decision that each environment's episode began with."""
        self.device_actions: DeviceActions | None = None
        """Actions of policies on devices, filled as they come; None where policies are split."""
        self.number = -1
        """Counts the slot's decisions."""
        self.step = -1
        """The environments' step, which an evaluation doesn't count."""
        self.rows = rows
        self.places = self._make_places()
        """Each agent's own part of `latents`, (rows, its size), which its codec decodes into."""
        self.asked_ns = 0
        self.missing: set[int] = set()
        """Agents whose answers are waited for."""
        self.left_out: Collection[int] = ()
        """Ranks that were not asked."""
        self.left_out_agents: set[int] = set()
        """The agents that these ranks held."""
        self.counts = Counts(agents)

    def begin(self, step: int, rows: int) -> None:
        """Begins a decision for `rows` environments: all agents' answers are missing."""
        self.number += 1
        self.step = step
        self.missing = set(range(len(self.latents)))
        self.left_out = ()
        self.left_out_agents = set()
        self.asked_ns = now_ns()
        if rows != self.rows:
            # An evaluation has environments of its own: the latents belong to others now.
            self.rows = rows
            self.places = self._make_places()
            self.forget()

    def _make_places(self) -> list[NDArray[np.float32]]:
        # Made once: slicing for every answer would take longer than most checks of an answer.
        return [self.latents[i, : self.rows, :size] for i, size in enumerate(self._latent_sizes)]

    def forget(self, environments: NDArray[np.integer[Any]] | None = None) -> None:
        """Begins episodes with the next decision, in some environments or in all.

        Nothing older may be used for them.
        """
        if environments is None:
            self.began[:] = self.number + 1
        else:
            self.began[environments] = self.number + 1

    def leave_out(self, ranks: Iterable[int]) -> None:
        """Stops waiting for these ranks' agents."""
        # A new set, because the decision log keeps the one of the last decision.
        self.left_out = {*self.left_out, *ranks}
        for rank in ranks:
            self.left_out_agents.update(self._executors[rank])
        self.missing -= self.left_out_agents

    def questions(self, agents: Iterable[int]) -> list[Question]:
        """Returns the questions of this decision to some agents, all of one executor."""
        questions = [Question(slot=self.index, number=self.number, agent=each) for each in agents]
        if self._answers_as_one:
            return questions[:1]
        return questions

    def missing_by_rank(self) -> dict[int, list[int]]:
        """Returns the agents whose answers are missing, by executor."""
        found = {}
        for rank, agents in self._executors.items():
            missing = [agent for agent in agents if agent in self.missing]
            if missing:
                found[rank] = missing
        return found

    def arrived(self, agent: int, *, payload_bytes: int, ideal_bits: float, decode_ns: int) -> None:
        """Notes that an agent's answer is here."""
        counts = self.counts
        # Added, because late answers to earlier decisions count in the same place.
        counts.payload_bytes[agent] += payload_bytes
        counts.answers[agent] += 1
        counts.ideal_bits[agent] = ideal_bits
        counts.decode_ns[agent] = decode_ns
        self.decision_of[agent] = self.number
        self.missing.discard(agent)

    def arrived_late(self, agent: int, *, payload_bytes: int, decision: int | None) -> None:
        """Notes an answer to an earlier question.

        `decision` is the number of that question if its latents are now the agent's last ones.
        """
        # Counted for the decision that is being made: the row of its own is written already.
        self.counts.payload_bytes[agent] += payload_bytes
        self.counts.answers[agent] += 1
        self.counts.late[agent] += 1
        if decision is not None:
            self.decision_of[agent] = decision

    def substitute(self, agents: Iterable[int], max_age: int) -> NDArray[np.int32]:
        """Returns ages (N, E) where `agents` have not answered; zeroes unusable latents."""
        ages = np.zeros((len(self.latents), self.rows), np.int32)
        for agent in agents:
            decision = self.decision_of[agent]
            age = self.number - decision
            is_known = decision != NO_LATENT and age <= max_age
            # A latent from before an environment's episode says nothing about it.
            usable = (self.began[: self.rows] <= decision) & is_known
            ages[agent] = np.where(usable, age, NO_LATENT)
            self.latents[agent, : self.rows][~usable] = 0.0
        return ages

    def count_ages(
        self, ages: NDArray[np.int32], fallback: NDArray[np.bool_] | None = None
    ) -> None:
        """Counts the ages (N, E) of the latents in use, and where fallback heads act (N, E)."""
        # Most agents' latents have age 0 everywhere, which is what the counts begin with.
        for agent in np.flatnonzero(ages.any(1)).tolist():
            acts_alone = 0
            if fallback is not None:
                acts_alone = int(fallback[agent].sum())
            self.counts.note_ages(agent, ages[agent], acts_alone)

    def end(self) -> Counts:
        """Returns what the decision took; what comes from now on counts for the next."""
        counts = self.counts
        self.counts = Counts(len(self.latents))
        return counts

    def state_dict(self) -> dict[str, Any]:
        """Returns what the next decision depends on: last latents and numbers of decisions."""
        return {
            "number": self.number,
            "rows": self.rows,
            "latents": self.latents.copy(),
            "decision_of": list(self.decision_of),
            "began": self.began.copy(),
        }

    def load_state_dict(self, state: dict[str, Any]) -> None:
        """Goes on from a state. Raises ValueError where it is of another shape."""
        if len(state["decision_of"]) != len(self.decision_of):
            raise ValueError(
                f"{len(state['decision_of'])} agents, expected {len(self.decision_of)}"
            )
        # Filled in place, which raises ValueError for another shape.
        self.latents[:] = state["latents"]
        self.began[:] = state["began"]
        self.number = int(state["number"])
        self.rows = int(state["rows"])
        self.places = self._make_places()
        self.decision_of = [int(each) for each in state["decision_of"]]


def make_slots(
    session: SessionSpec, settings: PoolSettings, executors: Mapping[int, tuple[int, ...]]
) -> list[Slot]:
    """Returns all slots of a run."""
    return [
        Slot(
            index,
            executors,
            rows=settings.rows,
            latent_sizes=session.shape.latent_sizes(),
            # Policies on devices send what all agents of an executor did as one message.
            answers_as_one=session.on_device is not None,
        )
        for index in range(settings.slots)
    ]
