"""Agents that have sensors and actuators of their own, around the handler for their placement."""

from __future__ import annotations

from typing import Any

import numpy as np
from numpy.typing import NDArray

from sde_harl.executor.handlers.base import Handler
from sde_harl.executor.sensors import Senses
from sde_harl.link.wire import Message, WireError


class SensingHandler(Handler):
    """Reads the agents' sensors when the server asks, and does what was decided with actuators."""

    def __init__(self, inner: Handler, senses: Senses) -> None:
        self._inner = inner
        self._senses = senses

    def load(self, flat: NDArray[np.float32]) -> None:
        self._inner.load(flat)

    def set_tables(self, agents: list[int], tables: memoryview) -> None:
        self._inner.set_tables(agents, tables)

    def answer(self, message: Message) -> NDArray[Any] | None:
        if message.header.environments != 1:  # a robot lives in one world
            raise WireError("step")
        # The inner handler sees its agents' readings where the server would have sent observations.
        payload = memoryview(self._senses.read() + bytes(message.payload))
        actions = self._inner.answer(message._replace(payload=payload))
        if actions is not None:
            self._senses.act(actions.tobytes())
        return actions

    def act(self, message: Message) -> None:
        # Before the actuators, whose time is not part of the answer's round trip.
        self._inner.act(message)
        self._senses.act(message.payload)

    def close(self) -> None:
        self._senses.close()
