"""Sensors for tests. Executors import this file by its name, as they would a user's."""

from __future__ import annotations

from typing import ClassVar

import numpy as np

SIZE = 5


class Arm:
    """Sees its number and how often it has looked; remembers what it was made to do."""

    made: ClassVar[list[Arm]] = []

    def __init__(self, agent: int) -> None:
        self.agent, self.looks, self.did, self.closed = agent, 0, list[np.ndarray](), 0
        self.made.append(self)

    def read(self) -> np.ndarray:
        self.looks += 1
        return np.full(SIZE, self.agent + 0.25 * self.looks)

    def act(self, action: np.ndarray) -> None:
        self.did.append(action)

    def close(self) -> None:
        self.closed += 1


class Short(Arm):
    def read(self) -> np.ndarray:
        return np.zeros(SIZE - 1, np.float32)


class Text(Arm):
    def read(self) -> np.ndarray:
        return np.array(["a"] * SIZE)


class Infinite(Arm):
    def read(self) -> np.ndarray:
        return np.full(SIZE, np.inf)


class Unplugged(Arm):
    def read(self) -> np.ndarray:
        raise OSError("no such device\nreally")


class Stuck(Arm):
    def act(self, action: np.ndarray) -> None:
        raise RuntimeError("a joint is stuck")

    def close(self) -> None:
        raise RuntimeError("a joint is stuck")


class Worn(Arm):
    """Agent 1's sees three times."""

    def read(self) -> np.ndarray:
        if self.agent == 1 and self.looks == 3:
            raise OSError("worn out")
        return super().read()


def absent(agent: int) -> None:
    raise LookupError("nothing is connected")
