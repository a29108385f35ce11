"""Policies that run on this executor's device from end to end.

They decide and act at once; the server is sent what they did.

n agents of the executor, E environments of one slot, D numbers of an action, H memory.
"""

from __future__ import annotations

from typing import Any

import numpy as np
from numpy.typing import NDArray

from sde_harl.draws.counters import Draw, Purpose
from sde_harl.executor.handlers.base import Handler
from sde_harl.executor.observations import ObservationReader
from sde_harl.executor.timings import Timings
from sde_harl.link.transport import SERVER, Transport
from sde_harl.link.wire import Kind, Message, WireError
from sde_harl.meters.timing import now_ns
from sde_harl.policy.inference.local_nets import MakeNets
from sde_harl.policy.inference.on_device import OnDevicePolicy
from sde_harl.policy.shapes import OnDeviceShape
from sde_harl.protocol.actions import pack_actions
from sde_harl.protocol.requests import read_request, request_bytes
from sde_harl.protocol.session import SessionSpec

# Looked up once: an Enum runs Python code to find a member.
DEVICE_ACTIONS = Kind.DEVICE_ACTIONS
ACTING = Purpose.ACTING


class OnDeviceHandler(Handler):
    """Sends what all agents did as one DEVICE_ACTIONS message, which names the first of them."""

    def __init__(
        self,
        transport: Transport,
        session: SessionSpec,
        shape: OnDeviceShape,
        *,
        nets: MakeNets,
        timings: Timings,
    ) -> None:
        self._transport = transport
        self._session = session
        self._shape = shape
        self._agents = session.agents
        self._make_nets = nets
        self._timings = timings
        self._observations = ObservationReader(session.shape)
        self._agent_indices = np.array(session.agents, np.int32)
        self._policy: OnDevicePolicy
        # Memory by slot and by greedy or not: greedy play is an evaluation, during which the
        # environments that are learnt from stand still and must not be forgotten.
        self._memory: dict[tuple[int, bool], NDArray[np.float32]] = {}

    def load(self, flat: NDArray[np.float32]) -> None:
        self._policy = OnDevicePolicy(
            shape=self._session.shape, on_device=self._shape, weights=flat, nets=self._make_nets
        )

    def answer(self, message: Message) -> NDArray[Any]:
        started = now_ns()
        header = message.header
        rows = header.environments
        agents = len(self._agents)
        payload = message.payload
        split_at = self._observations.bytes_of(rows)
        if len(payload) != split_at + request_bytes(self._shape, agents, rows):
            raise WireError("length")
        obs = self._observations.read(payload[:split_at], rows)
        request = read_request(payload[split_at:], self._shape, agents=agents, rows=rows)
        before = self._recall((header.slot, request.greedy), request.begins)
        draw = None
        if not request.greedy:
            draw = Draw(
                seed=self._shape.seed,
                purpose=ACTING,
                step=request.step,
                # Environments are numbered through all slots, which have equally many.
                first_environment=header.slot * rows,
                agents=self._agent_indices,
            )
        decision = self._policy.act(obs, request.available, draw, before)
        if decision.memory is not None:
            self._memory[header.slot, request.greedy] = decision.memory
        self._timings.decided(agents, now_ns() - started)
        # The memory before the decision, from which learning starts: only this device knows it.
        sent_memory = None
        if request.send_memory:
            sent_memory = before
        answer = header.answer(DEVICE_ACTIONS, self._agents[0])
        done = pack_actions(decision.actions, decision.log_probs, sent_memory)
        self._transport.send(SERVER, answer, done)
        return decision.actions

    def _recall(self, key: tuple[int, bool], begins: NDArray[np.bool_]) -> NDArray[np.float32]:
        """Returns the memory (n, E, H), zero where an episode `begins` (E,) and at the start."""
        memory = self._memory.get(key)
        if memory is None or memory.shape[1] != len(begins):
            return np.zeros((len(self._agents), len(begins), self._shape.memory), np.float32)
        # In place: the last decision's memory is needed only as the start of this one.
        memory[:, begins] = 0.0
        return memory
