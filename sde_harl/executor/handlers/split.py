"""Policies that are split: this executor sends coded latents, the server decides.

n agents of the executor, E environments of one slot, Z latent.
"""

from __future__ import annotations

import numpy as np
from numpy.typing import NDArray

from sde_harl.codec.registry import PLAIN, Codec, make_codec
from sde_harl.codec.tables import from_bytes
from sde_harl.executor.handlers.base import Handler
from sde_harl.executor.observations import ObservationReader
from sde_harl.executor.timings import Timings
from sde_harl.link.transport import SERVER, Transport
from sde_harl.link.wire import Kind, Message
from sde_harl.meters.timing import now_ns
from sde_harl.policy.inference.fallback_head import FallbackPolicy
from sde_harl.policy.inference.local_nets import MakeNets, Nets
from sde_harl.protocol.session import SessionSpec

# Looked up once: an Enum runs Python code to find a member.
LATENTS = Kind.LATENTS


class SplitHandler(Handler):
    """Sends one LATENTS message for each agent."""

    def __init__(
        self,
        transport: Transport,
        session: SessionSpec,
        *,
        nets: MakeNets,
        timings: Timings,
    ) -> None:
        self._transport = transport
        self._session = session
        self._agents = session.agents
        self._make_nets = nets
        self._timings = timings
        self._observations = ObservationReader(session.shape)
        self._sizes = session.shape.latent_sizes()
        # Where each agent's own latents lie in the padded array, as an index made once.
        self._places = [(row, slice(None), slice(size)) for row, size in enumerate(self._sizes)]
        self._codecs: dict[int, Codec] = {}
        plain = PLAIN.get(session.codec)
        if plain:  # entropy coders come with their tables
            self._codecs = {row: plain(size) for row, size in enumerate(self._sizes)}
        self._nets: Nets
        self.fallback: FallbackPolicy | None = None
        """The fallback heads, once their weights are here; None where there are none."""
        self.latents = np.zeros((len(session.agents), 0, 0), np.float32)
        """(n, E, Z) of the last observations, before the codec."""

    def load(self, flat: NDArray[np.float32]) -> None:
        shape = self._session.shape
        if self._session.fallback_head:
            self.fallback = FallbackPolicy(
                shape=shape,
                fallback=self._session.fallback_head,
                weights=flat,
                nets=self._make_nets,
            )
            self._nets = self.fallback.local
        else:
            self._nets = self._make_nets(shape, flat)

    def set_tables(self, agents: list[int], tables: memoryview) -> None:
        # Read once, however many agents share them.
        shared = from_bytes(tables)
        for agent in agents:
            row = self._agents.index(agent)
            self._codecs[row] = make_codec(
                "entropy", self._sizes[row], tables=shared, pack=self._session.pack
            )

    def encode(self, observations: memoryview, rows: int) -> NDArray[np.float32]:
        """Returns the latents (n, E, Z) of a message's observations. Raises WireError."""
        self.latents = self._nets(self._observations.read(observations, rows))
        return self.latents

    def answer(self, message: Message) -> None:
        started = now_ns()
        header = message.header
        latents = self.encode(message.payload, header.environments)
        send = self._transport.send
        before = now_ns()
        local_ns = before - started
        sent: list[tuple[int, int]] = []
        # Each agent's latents leave as soon as they are coded, so that the server decodes them
        # meanwhile.
        for row, agent in enumerate(self._agents):
            payload = self._codecs[row].encode(latents[self._places[row]])
            coded = now_ns()
            send(SERVER, header.answer(LATENTS, agent), payload)
            sent.append((coded - before, coded))
            before = coded
        self._timings.sent(header.slot, local_ns, sent)

    def act(self, message: Message) -> None:
        # The server steps the environments: the executor only notes how long the answer took.
        self._timings.answered(message.header.slot, now_ns())
