"""An executor pool whose executor answers when a test lets it."""

from __future__ import annotations

import numpy as np
from clock import Clock
from pools import ROWS, SHAPE, session_of, settings_of, weights

from sde_harl.executor.executor import Executor
from sde_harl.link.loopback import Loopback
from sde_harl.link.wire import Header, Kind, Message
from sde_harl.policy.shapes import FallbackShape
from sde_harl.protocol.actions import ReceivedLatents
from sde_harl.server.executor_pool import ExecutorPool

OBS = np.random.default_rng(1).normal(size=(2, ROWS, 5)).astype(np.float32)


class Held:
    """A pool with a deadline, over a loopback.

    Its executor does its work, but its answers wait for `release`. Time is the test's own, so that
    an agent is late because its answer is held, and never because the machine is slow.
    """

    def __init__(
        self,
        clock: Clock,
        *,
        max_age: int = 3,
        failure_timeout_s: float = 5.0,
        survives_losses: bool = True,
        codec: str = "float32",
        fallback_head: FallbackShape | None = None,
        heads: list[list[np.ndarray]] | None = None,
    ) -> None:
        """`heads`: those of both agents in wire order, if there is a `fallback_head`."""
        self.server, self.far = Loopback.pair()
        self.executor = Executor(self.far)
        self.held: list[tuple[int, Header, bytes]] = []
        self.holding: set[int] = set()  # agents
        send = self.far.send

        def slow(dest: int, header: Header, payload: bytes = b"") -> int:
            if header.kind is Kind.LATENTS and header.agent in self.holding:
                self.held.append((dest, header, payload))
                return 0
            return send(dest, header, payload)

        self.far.send = slow  # type: ignore[method-assign]
        self._send = send
        self.stopped = False
        self.server.attach(self.step)
        self.server.wait = self.wait  # type: ignore[method-assign]
        self.clock = clock
        settings = settings_of(
            rows=ROWS,
            failure_timeout_s=failure_timeout_s,
            deadline_s=1e-3,
            max_age=max_age,
            survives_losses=survives_losses,
        )
        session = session_of(SHAPE, codec=codec, fallback_head=fallback_head)
        self.pool = ExecutorPool(self.server, session, settings)
        self.pool.handshake()
        self.pool.publish(1, [net + head for net, head in zip(weights(), heads or [[], []])], [])
        self.step()

    def wait(self, timeout_s: float) -> list[Message]:
        """Stands for the server's wait: where nothing has come, the whole time passes at once."""
        messages = self.server.poll()
        if not messages:
            self.clock.move(timeout_s)
        return messages

    def step(self) -> None:
        """Has the executor do its work, unless it is stopped."""
        for message in [] if self.stopped else self.far.poll():
            self.executor.handle(message)

    def release(self, count: int = 10**6) -> None:
        """Lets answers go, the oldest first."""
        now, self.held = self.held[:count], self.held[count:]
        for each in now:
            self._send(*each)

    def decide(self, obs: np.ndarray = OBS, slot: int = 0) -> ReceivedLatents:
        self.pool.sense(slot, 7, obs)
        latents = self.pool.latents(slot)
        self.pool.act(slot, np.zeros((2, ROWS, 1), np.int32), policy_ns=0)
        return ReceivedLatents(latents.values.copy(), latents.ages)
