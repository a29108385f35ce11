"""Decisions on their way (a slot) and behind us (the log): what was sent, how long it took, what it cost.

N agents, E environments of a slot, Z latent, K half-steps.
"""

from __future__ import annotations

from collections.abc import Collection, Iterable
from typing import NamedTuple

import numpy as np

from sde_harl.meters.timing import now_ns

REAL = ("ideal_bits", "age")
"""Of `Counts`, what is no whole number."""
NO_LATENT = -1
"""Age of a latent where there is none that may be used."""


class Decisions(NamedTuple):
    """What was sent since the last report, one row a half-step (K) and agent (N)."""

    step: np.ndarray
    """(K,)."""
    environments: np.ndarray
    """(K,)."""
    version: np.ndarray
    """(K,)."""
    payload_bytes: np.ndarray
    """(K, N)."""
    ideal_bits: np.ndarray
    """(K, N), -1 where the codec has no model."""
    decode_ns: np.ndarray
    """(K, N)."""
    policy_ns: np.ndarray
    """(K,)."""
    decision_ns: np.ndarray
    """(K,) from the observations to the actions, on the server's clock."""
    age: np.ndarray
    """(K, N) mean steps between the latents used and the observations they stand for; NaN where none could be used."""
    missed: np.ndarray
    """(K, N) environments whose latents had not come by the deadline."""
    idle: np.ndarray
    """(K, N) environments in which the agent did nothing, for want of a latent."""
    fallback: np.ndarray
    """(K, N) environments in which it did what its exit head says, for want of one."""
    answers: np.ndarray
    """(K, N) that payload_bytes are of: this decision's, if it came in time, and `late` ones."""
    late: np.ndarray
    """(K, N) answers to earlier decisions that came since the slot's last one."""
    device_ns: np.ndarray
    """(K, N, 3): local net, encode, round trip, on the executor's clock."""

    def bytes_per_decision(self) -> float:
        """Payload bytes for a decision of one agent."""
        made = self.environments.sum() * self.payload_bytes.shape[1]
        return float(self.payload_bytes.sum() / max(made, 1))


class ReceivedLatents(NamedTuple):
    """What a slot's agents are known to have sensed."""

    values: np.ndarray
    """(N, E, Z) decoded; 0 where there are none."""
    ages: np.ndarray | None = None
    """(N, E) int32, steps since what they are of; NONE where there are none. None where all are 0."""
    exits: np.ndarray | None = None
    """(N, E) bool, where there are none and the agent does what its exit head says; None where nowhere."""


class DeviceActions(NamedTuple):
    """What devices with whole policies have chosen, in a slot."""

    available: np.ndarray
    """(N, E, A) bool, what they may."""
    actions: np.ndarray
    """(N, E, D)."""
    log_probs: np.ndarray
    """(N, E, D)."""
    memory: np.ndarray
    """(N, E, H) that it was done with; H = 0 where that was not asked for."""


class Counts:
    """What a slot's decision took, a number an agent; fields as in `Decisions`."""

    __slots__ = (
        "payload_bytes",
        "ideal_bits",
        "decode_ns",
        "age",
        "missed",
        "idle",
        "fallback",
        "answers",
        "late",
    )

    def __init__(self, agents: int) -> None:
        self.payload_bytes, self.ideal_bits, self.decode_ns = (
            [0] * agents,
            [-1.0] * agents,
            [0] * agents,
        )
        self.age = [0.0] * agents
        self.missed, self.idle, self.fallback = [0] * agents, [0] * agents, [0] * agents
        self.answers, self.late = [0] * agents, [0] * agents


class Slot:
    """One part of the environments, on its way, and what was last heard of each agent."""

    def __init__(self, agents: int, rows: int, latent: int) -> None:
        self.latents = np.zeros((agents, rows, latent), np.float32)
        """The last ones of each agent; `came` says of which decision."""
        self.came = [NO_LATENT] * agents
        self.began = np.zeros(rows, np.int64)
        """The decision that each environment's episode began with."""
        self.choices: DeviceActions | None = None
        """What whole policies do, if they do."""
        self.number, self.step, self.rows = -1, -1, rows
        """`number` counts the slot's decisions; `step` is the environments', which an evaluation stops."""
        self.asked_ns = 0
        self.missing: set[int] = set()
        self.left_out: Collection[int] = ()
        """Ranks that were not asked."""
        self.counts = Counts(agents)

    def begin(self, step: int, rows: int) -> None:
        """Observations of `rows` environments are about to be sent; all agents' answers are missing."""
        agents = len(self.latents)
        self.number, self.step, self.missing, self.left_out = (
            self.number + 1,
            step,
            set(range(agents)),
            (),
        )
        self.asked_ns = now_ns()
        if rows != self.rows:
            self.rows = rows
            self.forget()

    def forget(self, environments: np.ndarray | None = None) -> None:
        """Episodes begin with the next decision, in some environments or in all: nothing before it may be used."""
        self.began[slice(None) if environments is None else environments] = self.number + 1

    def leave_out(self, ranks: Collection[int], agents: Iterable[int]) -> None:
        """Nobody waits for the ranks' agents."""
        self.left_out = {*self.left_out, *ranks}
        self.missing.difference_update(agents)

    def arrived(self, agent: int, payload_bytes: int, ideal_bits: float, decode_ns: int) -> None:
        """An agent's answer is here."""
        counts = self.counts
        counts.payload_bytes[agent] += payload_bytes
        counts.answers[agent] += 1
        counts.ideal_bits[agent], counts.decode_ns[agent] = ideal_bits, decode_ns
        self.came[agent] = self.number
        self.missing.discard(agent)

    def arrived_late(self, agent: int, payload_bytes: int, number: int | None) -> None:
        """The answer to an earlier question, whose latents are now the last ones of decision `number`, or unusable."""
        self.counts.payload_bytes[agent] += payload_bytes
        self.counts.answers[agent] += 1
        self.counts.late[agent] += 1
        if number is not None:
            self.came[agent] = number

    def substitute(self, agents: Iterable[int], max_age: int) -> np.ndarray:
        """Ages (N, E) of the latents there are, where the answers of `agents` are not; zeroes what may not be used."""
        ages = np.zeros((len(self.latents), self.rows), np.int32)
        for agent in agents:
            came = self.came[agent]
            age = self.number - came
            usable = (self.began[: self.rows] <= came) & (came != NO_LATENT and age <= max_age)
            ages[agent] = np.where(usable, age, NO_LATENT)
            self.latents[agent, : self.rows][~usable] = 0.0
        return ages

    def count(self, ages: np.ndarray, exits: np.ndarray | None = None) -> None:
        """Note the ages (N, E) of the latents that are used, and where exit heads act, as in `ReceivedLatents`."""
        counts = self.counts
        for agent in np.flatnonzero(ages.any(1)).tolist():
            known = ages[agent][ages[agent] != NO_LATENT]
            counts.age[agent] = float(known.mean()) if len(known) else float("nan")
            fallback = 0 if exits is None else int(exits[agent].sum())
            counts.missed[agent], counts.fallback[agent] = int((ages[agent] != 0).sum()), fallback
            counts.idle[agent] = self.rows - len(known) - fallback

    def end(self) -> Counts:
        """What its decision took; what comes from now on belongs to the next."""
        counts, self.counts = self.counts, Counts(len(self.latents))
        return counts


class DecisionLog:
    """Half-steps since the last report."""

    def __init__(self, agents: int) -> None:
        self._agents = agents
        self._rows: list[tuple[int, int, int, int, int]] = []
        self._counts: list[Counts] = []
        self._left_out: list[Collection[int]] = []

    @property
    def count(self) -> int:
        return len(self._rows)

    def add(self, slot: Slot, version: int, policy_ns: int) -> None:
        """Note a slot whose decision has been taken."""
        self._rows.append((slot.step, slot.rows, version, policy_ns, now_ns() - slot.asked_ns))
        self._counts.append(slot.end())
        self._left_out.append(slot.left_out)

    def asked(self, rank: int) -> np.ndarray:
        """(K,) bool, which of the half-steps an executor was asked about."""
        return np.array([rank not in ranks for ranks in self._left_out], bool)

    def take(self, device_ns: np.ndarray) -> Decisions:
        """The rows as arrays; then start anew."""
        count, agents = len(self._rows), self._agents
        step, rows, version, policy, decision = np.array(self._rows, np.int64).reshape(count, 5).T
        own = {}
        for name in Counts.__slots__:
            values, dtype = (
                [getattr(each, name) for each in self._counts],
                np.float32 if name in REAL else np.int64,
            )
            own[name] = np.array(values, dtype).reshape(count, agents)
        self.__init__(agents)  # type: ignore[misc]
        times = {"policy_ns": policy, "decision_ns": decision, "device_ns": device_ns}
        return Decisions(step=step, environments=rows, version=version, **own, **times)
