"""How long an executor's answers took, kept until its next report."""

from __future__ import annotations

import numpy as np
from numpy.typing import NDArray


class Timings:
    """Holds ns of each agent's answers: local net, encode, round trip (0: no answer yet)."""

    def __init__(self) -> None:
        self._rows: list[list[int]] = []
        # By slot: rows that wait for the server's answer, each with the time when it was sent.
        self._waiting: dict[int, list[tuple[list[int], int]]] = {}

    def sent(self, slot: int, local_ns: int, agents: list[tuple[int, int]]) -> None:
        """Adds a slot's latents: for each agent the ns of coding them, and when they were sent."""
        waiting = self._waiting.setdefault(slot, [])
        for encode_ns, at_ns in agents:
            row = [local_ns, encode_ns, 0]
            self._rows.append(row)
            waiting.append((row, at_ns))

    def decided(self, agents: int, local_ns: int) -> None:
        """Adds a decision taken on the device: nothing is coded, and the server does not answer."""
        # The same list for all agents is safe here: nothing fills in a round trip later.
        self._rows += [[local_ns, 0, 0]] * agents

    def answered(self, slot: int, at_ns: int) -> None:
        """Completes the slot's rows: the server's actions came at `at_ns`."""
        # All rows that wait: an answer that never came leaves its row to the next one.
        for row, sent_ns in self._waiting.pop(slot, ()):
            row[2] = at_ns - sent_ns

    def take(self) -> NDArray[np.int64]:
        """Returns the rows (k, 3) int64 and forgets them."""
        rows = np.array(self._rows, np.int64).reshape(-1, 3)
        self._rows.clear()
        self._waiting.clear()
        return rows
