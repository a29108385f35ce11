"""Decisions on their way (a slot) and behind us (the log): what was sent, how long it took, what it cost.

N agents, E environments of a slot, Z latent, K half-steps.
"""

from __future__ import annotations

from typing import NamedTuple

import numpy as np


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
    device_ns: np.ndarray
    """(K, N, 3): local net, encode, round trip, on the executor's clock."""


class Choices(NamedTuple):
    """What devices with whole policies have chosen, in a slot."""

    available: np.ndarray
    """(N, E, A) bool, what they may."""
    actions: np.ndarray
    """(N, E, D)."""
    log_probs: np.ndarray
    """(N, E, D)."""
    memory: np.ndarray
    """(N, E, H) that it was done with; H = 0 where that was not asked for."""


class Slot:
    """One part of the environments, on its way."""

    def __init__(self, agents: int, rows: int, latent: int) -> None:
        self.latents = np.zeros((agents, rows, latent), np.float32)
        self.choices: Choices | None = None
        """What whole policies do, if they do."""
        self.step, self.rows = -1, 0
        self.missing: set[int] = set()
        self.payload_bytes: list[int] = []
        self.ideal_bits: list[float] = []
        self.decode_ns: list[int] = []

    def begin(self, step: int, rows: int) -> None:
        agents = len(self.latents)
        self.step, self.rows, self.missing = step, rows, set(range(agents))
        self.payload_bytes, self.ideal_bits, self.decode_ns = [0] * agents, [-1.0] * agents, [0] * agents

    def arrived(self, agent: int, payload_bytes: int, ideal_bits: float, decode_ns: int) -> None:
        self.payload_bytes[agent], self.ideal_bits[agent] = payload_bytes, ideal_bits
        self.decode_ns[agent] = decode_ns
        self.missing.discard(agent)

    def missing_ranks(self, rank_of: np.ndarray) -> list[int]:
        return sorted({int(rank_of[agent]) for agent in self.missing})


class DecisionLog:
    """Half-steps since the last report."""

    def __init__(self, agents: int) -> None:
        self._agents = agents
        self._rows: list[tuple[int, int, int, int]] = []
        self._payload_bytes: list[list[int]] = []
        self._ideal_bits: list[list[float]] = []
        self._decode_ns: list[list[int]] = []

    @property
    def count(self) -> int:
        return len(self._rows)

    def add(self, slot: Slot, version: int, policy_ns: int) -> None:
        """Note a slot whose decision has been taken; the next `begin` gives it new lists."""
        self._rows.append((slot.step, slot.rows, version, policy_ns))
        self._payload_bytes.append(slot.payload_bytes)
        self._ideal_bits.append(slot.ideal_bits)
        self._decode_ns.append(slot.decode_ns)

    def take(self, device_ns: np.ndarray) -> Decisions:
        """The rows as arrays; then start anew."""
        count, agents = len(self._rows), self._agents
        step, rows, version, policy = np.array(self._rows, np.int64).reshape(count, 4).T
        payload = np.array(self._payload_bytes, np.int64).reshape(count, agents)
        decode = np.array(self._decode_ns, np.int64).reshape(count, agents)
        ideal = np.array(self._ideal_bits, np.float32).reshape(count, agents)
        self.__init__(agents)  # type: ignore[misc]
        return Decisions(step, rows, version, payload, ideal, decode, policy, device_ns)
