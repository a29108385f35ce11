"""Sends the executors what they need: their session, once, and every published model."""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from typing import NamedTuple

import numpy as np
from numpy.typing import NDArray

from sde_harl.codec.tables import Tables, to_bytes
from sde_harl.link.transport import Transport
from sde_harl.link.wire import Header, Kind
from sde_harl.protocol.session import SessionSpec, ShardSpec
from sde_harl.protocol.tables_message import pack_tables

NOTHING = np.zeros(0, np.float32)


class Model(NamedTuple):
    """Holds what executors compute with: their local nets and coding tables."""

    version: int
    weights: list[list[NDArray[np.float32]]]
    """Each agent's arrays in the order of policy/shapes.py."""
    tables: list[Tables]
    """Each agent's; empty for plain codecs."""
    acting: NDArray[np.float32] = NOTHING
    """Rank 0's part, flat, where executors act for it; it travels behind the local nets."""


class Sent(NamedTuple):
    """Holds a model as executors are sent it: copies, which no learning changes."""

    version: int
    payloads: tuple[tuple[Kind, bytes], ...]
    """The WEIGHTS and then the TABLES, if there are any."""


class Publisher:
    """Sends the session and the models to executors."""

    def __init__(
        self,
        transport: Transport,
        session: SessionSpec,
        executors: Mapping[int, tuple[int, ...]],
        plays: Mapping[int, ShardSpec],
    ) -> None:
        """`executors` maps ranks to agents; `plays` those that play environments to these."""
        self._transport = transport
        self._session = session
        self._executors = executors
        self._plays = plays
        self._model = Model(version=0, weights=[], tables=[])
        self._run_id = 0
        self._max_frame_bytes = 0
        self.sent = Sent(version=0, payloads=())
        """The model that was published last, where all executors hold the same agents."""
        # Ranks that were absent when the model was published.
        self._behind: set[int] = set()

    def welcome(self, run_id: int, max_frame_bytes: int) -> None:
        """Sends every executor its session, with the size of the largest frame that it will get."""
        self._run_id = run_id
        self._max_frame_bytes = max_frame_bytes
        for rank in self._executors:
            self._welcome(rank, self._session)

    def welcome_again(self, rank: int) -> None:
        """Sends an executor that holds other agents by now a new session, and their model."""
        # Its idle power has been measured: a pause now would cost a decision.
        self._welcome(rank, self._session._replace(idle_s=0.0))
        self.send([rank], self._as_sent(self._executors[rank]))

    def _welcome(self, rank: int, session: SessionSpec) -> None:
        own = session.for_agents(
            self._executors[rank], run_id=self._run_id, max_frame_bytes=self._max_frame_bytes
        )
        own = own._replace(plays=self._plays.get(rank))
        self._transport.send(rank, Header(kind=Kind.WELCOME), own.to_json())

    def publish(self, model: Model) -> None:
        """Sends a model to all executors that are there; the others get it when they are back."""
        self._model = model
        # Nothing may be sent to absent executors: one that has stopped reading would fill the link.
        self._behind = set(self._executors) & self._transport.absent
        # Executors that hold the same agents are sent the same bytes, which are made once.
        holders: dict[tuple[int, ...], list[int]] = {}
        for rank in sorted(set(self._executors) - self._behind):
            holders.setdefault(self._executors[rank], []).append(rank)
        for agents, ranks in holders.items():
            self.sent = self._as_sent(agents)
            self.send(ranks, self.sent)

    def catch_up(self, rank: int) -> None:
        """Sends the model to an executor that is back, unless it has it."""
        if rank in self._behind:
            self._behind.discard(rank)
            self.send([rank], self._as_sent(self._executors[rank]))

    def send(self, ranks: Iterable[int], sent: Sent) -> None:
        """Sends some executors a model, the present one or one of before."""
        for kind, payload in sent.payloads:
            self._transport.send_all(ranks, Header(kind=kind, version=sent.version), payload)

    def _as_sent(self, agents: tuple[int, ...]) -> Sent:
        """Returns the present model, as an executor that holds these agents is sent it."""
        model = self._model
        weights = self.flat_weights(agents).tobytes() + model.acting.tobytes()
        payloads = [(Kind.WEIGHTS, weights)]
        if model.tables:
            # Agents of a role group may share tables (codec.share_tables): equal ones are sent
            # once.
            sharing: dict[bytes, list[int]] = {}
            for agent in agents:
                sharing.setdefault(to_bytes(model.tables[agent]), []).append(agent)
            for coded, users in sharing.items():
                payloads.append((Kind.TABLES, pack_tables(users, coded)))
        return Sent(version=model.version, payloads=tuple(payloads))

    def flat_weights(self, agents: Iterable[int]) -> NDArray[np.float32]:
        """Returns the weights of some agents as they travel, one float32 vector.

        The same array of all agents lies together, stacked.
        """
        # The nets of all agents are computed together, each layer with its weights in one array.
        columns = zip(*(self._model.weights[agent] for agent in agents))
        flat: NDArray[np.float32] = np.concatenate([np.stack(arrays).ravel() for arrays in columns])
        return flat
