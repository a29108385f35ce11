"""Logs the decisions since the last report: what was sent, and how long it took.

N agents, K decisions, one for each slot in turn.
"""

from __future__ import annotations

from collections.abc import Collection, Mapping, Sequence
from typing import Any, NamedTuple

import numpy as np
from numpy.typing import NDArray

from sde_harl.meters.timing import now_ns
from sde_harl.server.assignment import ranks_of
from sde_harl.server.slot import Counts, Slot

FRACTIONS = ("ideal_bits", "age")
"""Fields of `Counts` that are not integers."""


class Decisions(NamedTuple):
    """Holds what was sent since the last report: a row is a decision (K), a column an agent (N)."""

    step: NDArray[np.int64]
    """(K,)."""
    environments: NDArray[np.int64]
    """(K,)."""
    rank: NDArray[np.int32]
    """(K, N) of the executor that the agent was on."""
    version: NDArray[np.int64]
    """(K,) of the model."""
    payload_bytes: NDArray[np.int64]
    """(K, N)."""
    ideal_bits: NDArray[np.float32]
    """(K, N), -1 where the codec has no model."""
    decode_ns: NDArray[np.int64]
    """(K, N)."""
    policy_ns: NDArray[np.int64]
    """(K,)."""
    decision_ns: NDArray[np.int64]
    """(K,) from the observations to the actions, on the server's clock."""
    age: NDArray[np.float32]
    """(K, N) mean age in decisions of the latents that were used; NaN where none could be used."""
    missed: NDArray[np.int64]
    """(K, N) environments whose latents had not come by the deadline."""
    idle: NDArray[np.int64]
    """(K, N) environments in which the agent did nothing because it had no latent."""
    fallback: NDArray[np.int64]
    """(K, N) environments in which it acted by its fallback head because it had no latent."""
    answers: NDArray[np.int64]
    """(K, N) answers that `payload_bytes` counts: this decision's, if it came in time, and `late`
    ones."""
    late: NDArray[np.int64]
    """(K, N) answers to earlier decisions that came since the slot's last one."""
    device_ns: NDArray[np.uint32]
    """(K, N, 3): local net, encode, round trip, on the executor's clock."""

    def bytes_per_decision(self) -> float:
        """Returns the mean payload bytes for a decision of one agent."""
        made = self.environments.sum() * self.payload_bytes.shape[1]
        return float(self.payload_bytes.sum() / max(made, 1))

    @classmethod
    def join(cls, parts: Sequence[Decisions]) -> Decisions:
        """Returns the decisions of all parts, one behind another."""
        return cls(*(np.concatenate(column) for column in zip(*parts)))


class LoggedDecision(NamedTuple):
    """One decision that has been taken."""

    step: int
    rows: int
    version: int
    policy_ns: int
    decision_ns: int
    counts: Counts
    left_out: Collection[int]
    """Ranks that were not asked."""


class DecisionLog:
    """Collects decisions until a report takes them."""

    def __init__(self, executors: Mapping[int, tuple[int, ...]]) -> None:
        """`executors` maps ranks to agents."""
        self._executors = executors
        self._agents = sum(map(len, executors.values()))
        self._decisions: list[LoggedDecision] = []

    def __len__(self) -> int:
        return len(self._decisions)

    def add(self, slot: Slot, version: int, policy_ns: int) -> None:
        """Adds a slot's decision, which has been taken."""
        self._decisions.append(
            LoggedDecision(
                step=slot.step,
                rows=slot.rows,
                version=version,
                policy_ns=policy_ns,
                decision_ns=now_ns() - slot.asked_ns,
                counts=slot.end(),
                # No copy: the slot replaces this set, and never changes it.
                left_out=slot.left_out,
            )
        )

    def was_asked(self, rank: int) -> NDArray[np.bool_]:
        """Returns (K,) bool, which of the decisions an executor was asked about."""
        return np.array([rank not in each.left_out for each in self._decisions], bool)

    def take(self, device_ns: NDArray[np.uint32]) -> Decisions:
        """Returns the decisions as arrays and empties the log; `device_ns` as in `Decisions`."""
        decisions = self._decisions
        self._decisions = []  # a new list: the old one is read below
        return Decisions(
            step=np.array([each.step for each in decisions], np.int64),
            environments=np.array([each.rows for each in decisions], np.int64),
            rank=np.tile(ranks_of(self._executors), (len(decisions), 1)),
            version=np.array([each.version for each in decisions], np.int64),
            policy_ns=np.array([each.policy_ns for each in decisions], np.int64),
            decision_ns=np.array([each.decision_ns for each in decisions], np.int64),
            device_ns=device_ns,
            **self._columns([each.counts for each in decisions]),
        )

    def _columns(self, counts: list[Counts]) -> dict[str, NDArray[Any]]:
        """Returns each field of `Counts` as a column (K, N)."""
        columns = {}
        for name in Counts.__slots__:
            dtype: type[np.number[Any]] = np.int64
            if name in FRACTIONS:
                dtype = np.float32
            values = [getattr(each, name) for each in counts]
            columns[name] = np.array(values, dtype).reshape(len(counts), self._agents)
        return columns
