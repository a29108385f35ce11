"""A pool and its one executor, in one process."""

from __future__ import annotations

from typing import Any

import numpy as np
from pools import SHAPE, session_of, settings_of

from sde_harl.executor.executor import Executor
from sde_harl.link.loopback import Loopback
from sde_harl.link.wire import Kind
from sde_harl.protocol.session import ActuatorSpec
from sde_harl.server.executor_pool import ExecutorPool

ACTIONS = ActuatorSpec(numbers=(2, 1), continuous=False)
"""The first agent chooses in two branches, the second in one of them."""


class Pair:
    """A pool of one executor that has both agents, with the sizes of what passed between them."""

    def __init__(
        self, sensor: str, *, survives_losses: bool = False, **session_fields: Any
    ) -> None:
        self.server, far = Loopback.pair()
        self.executor = Executor(far, sensor)
        self.sizes: list[tuple[Kind, int]] = []

        def step() -> None:
            for message in far.poll():
                self.sizes.append((message.header.kind, len(message.payload)))
                self.executor.handle(message)

        self.server.attach(step)
        settings = settings_of(rows=1, slots=1, action_size=2, survives_losses=survives_losses)
        session = session_of(**{"shape": SHAPE, "actions": ACTIONS, **session_fields})
        self.pool = ExecutorPool(self.server, session, settings)
        self.pool.handshake()

    def decide(self, actions: np.ndarray) -> np.ndarray:
        self.pool.sense(0, 7, np.full((2, 1, 5), 9.0, np.float32))
        latents = self.pool.latents(0)
        self.pool.act(0, actions, policy_ns=0)
        self.server.flush(1.0)
        return latents.values.copy() if latents.ages is None else latents.ages
