"""Rank r's side of the wire: what an executor does with each message of the server.

    once:               HELLO ->, <- WELCOME (SessionSpec)
    at each model:      <- WEIGHTS, <- TABLES
    at each decision:   <- SENSOR, LATENTS ->, <- ACTIONS   or   <- SENSOR, DEVICE_ACTIONS ->
    at each rollout:    <- PLAY, PLAYED ->, SHARD ->, where it plays environments of its own
    at each report:     <- METER, METER ->
    where it learns:    <- LEARN, LEARN ->, and no WELCOME
    at the end:         <- BYE

It needs only numpy, unless the run wants torch. An executor keeps nothing but what the server
published: one that starts again has lost nothing. Only recurrent policies that run on the device
remember what they saw, and begin anew then. `Executor.handle` is all of its behaviour; serving.py
drives it from a transport, a loopback drives it from the server.
"""

from __future__ import annotations

from typing import Protocol

import numpy as np

from sde_harl.config.entry_points import one_line
from sde_harl.errors import UserError
from sde_harl.executor.backend import find_nets
from sde_harl.executor.farewell import Farewell, read_farewell, say_bye
from sde_harl.executor.handlers import make_handler
from sde_harl.executor.handlers.base import Handler, NotWelcomed
from sde_harl.executor.sensors import NO_SENSOR, Senses
from sde_harl.executor.timings import Timings
from sde_harl.executor.usage import HostUsage
from sde_harl.link.transport import SERVER, Transport
from sde_harl.link.wire import Header, Kind, Message, WireError
from sde_harl.protocol.hello import describe_host
from sde_harl.protocol.resources import pack_meter
from sde_harl.protocol.session import SessionSpec
from sde_harl.protocol.tables_message import unpack_tables

FLOAT32 = np.dtype("<f4")
# Looked up once: an Enum runs Python code to find a member.
SENSOR = Kind.SENSOR
ACTIONS = Kind.ACTIONS
# The server counts what is too long and drops it, so this is what MPI can send at all.
LARGEST_SENT = (1 << 31) - 1


class MakePlayer(Protocol):
    """Makes the handler of an executor that plays environments of its own."""

    def __call__(self, transport: Transport, session: SessionSpec, /) -> Handler: ...


class MakeLearner(Protocol):
    """Makes the handler of a rank that learns with rank 0, from the first LEARN."""

    def __call__(self, transport: Transport, message: Message, /) -> Handler: ...


class Executor:
    """Acts on the server's messages for the agents of one rank."""

    def __init__(
        self,
        transport: Transport,
        sensor: str = NO_SENSOR,
        make_player: MakePlayer | None = None,
        make_learner: MakeLearner | None = None,
    ) -> None:
        """`sensor` names what senses for the agents, "none" where environments do.

        It comes from the command line that started this process, never from the wire. `make_player`
        makes the handler where this executor is to play environments of its own, `make_learner`
        where it is none, but learns.
        """
        self._transport = transport
        self._sensor = sensor
        self._make_player = make_player
        self._make_learner = make_learner
        self._handler: Handler = NotWelcomed()
        self._timings = Timings()
        self._usage = HostUsage()
        self.has_parted = False
        """True once it has told the server that it can't go on."""
        self.farewell: Farewell | None = None
        """None until the server has said goodbye."""
        hello = describe_host(self._usage.energy)
        transport.send(SERVER, Header(kind=Kind.HELLO), hello.to_json())

    def handle(self, message: Message) -> None:
        """Does what one message of the server says; an ill-formed one raises ValueError.

        Where this host can't do it, it tells the server why; after that it listens only to the
        goodbye.
        """
        # The server may have sent more before it read that this executor has parted.
        if self.has_parted and message.header.kind is not Kind.BYE:
            return
        try:
            self._do(message)
        except UserError as error:
            self._part(error)

    @property
    def is_playing(self) -> bool:
        """Returns whether it plays environments of its own at present."""
        return self._handler.is_playing and not self.has_parted

    def wait_s(self, most_s: float) -> float:
        """Returns the seconds to wait for the server's next message, at most `most_s`.

        After that `act_if_due` is to be called.
        """
        if self.has_parted:
            return most_s
        return self._handler.wait_s(most_s)

    def act_if_due(self) -> None:
        """Acts without the server where it has been silent for too long, if the agents can.

        An executor that plays environments plays one step of them.
        """
        if self.has_parted:
            return
        try:
            self._handler.act_if_due()
        except UserError as error:
            self._part(error)

    def close(self) -> None:
        """Lets go of sensors and environments, if there are any."""
        self._handler.close()

    def _part(self, error: UserError) -> None:
        """Tells the server why this executor can't go on."""
        self.has_parted = True
        say_bye(self._transport, one_line(error))
        # Not only at the run's end: until then its agents must stand still.
        self.close()

    def _do(self, message: Message) -> None:
        kind = message.header.kind
        # The kinds of every decision come first.
        if kind is SENSOR:
            self._handler.answer(message)
        elif kind is ACTIONS:
            self._handler.act(message)
        else:
            self._do_rarely(message)

    def _do_rarely(self, message: Message) -> None:
        """Handles the kinds that come between decisions."""
        kind = message.header.kind
        # First, because these may take long, and the server asks nothing meanwhile.
        self._handler.pause()
        if kind is Kind.WEIGHTS:
            # A copy: the message's own bytes are overwritten by the next one.
            self._handler.load(np.frombuffer(message.payload, FLOAT32).copy())
        elif kind is Kind.TABLES:
            agents, tables = unpack_tables(message.payload)
            self._handler.set_tables(agents, tables)
        elif kind is Kind.PLAY:
            self._handler.play(message)
        elif kind is Kind.LEARN:
            self._learn(message)
        elif kind is Kind.METER:
            self._report(message.header.step)
        elif kind is Kind.WELCOME:
            # Frames of another run are refused from here on. Set before anything can go wrong with
            # the session: the server would refuse a goodbye without it.
            self._transport.run_id = message.header.run_id
            self._begin(SessionSpec.from_json(message.payload))
        elif kind is Kind.BYE:
            self._end(message)
        else:
            raise WireError("kind")

    def _begin(self, session: SessionSpec) -> None:
        """Prepares for a session. Raises UserError where this host can't take part."""
        self._transport.set_frame_bytes(receive=session.frame_bytes, send=LARGEST_SENT)
        # Looked for before the pause for the idle power, so a missing torch is reported at once.
        nets = find_nets(session.backend, session.device)
        self._usage.measure_idle(session.idle_s)
        if session.plays:
            if self._make_player is None:
                raise WireError("welcome")
            self._handler = self._make_player(self._transport, session)
            return
        # A session anew is one of more agents: what was timed of fewer has no place among theirs.
        self._timings.take()
        self._handler = make_handler(
            self._transport,
            session,
            nets=nets,
            timings=self._timings,
            senses=self._make_senses(session),
        )

    def _learn(self, message: Message) -> None:
        if not isinstance(self._handler, NotWelcomed):
            self._handler.learn(message)
            return
        if self._make_learner is None:
            raise WireError("kind")
        self._transport.run_id = message.header.run_id
        self._handler = self._make_learner(self._transport, message)

    def _make_senses(self, session: SessionSpec) -> Senses | None:
        """Returns the agents' own sensors, if they have any.

        Raises UserError where this process was started for another kind of run.
        """
        actuators = session.actions
        if (actuators is None) != (self._sensor == NO_SENSOR):
            wanted = "one (env.name = devices)"
            if actuators is None:
                wanted = "none, for the server plays an environment"
            raise UserError(
                f"executor.sensor: expected {wanted}, got {self._sensor} "
                "(this executor's command line)"
            )
        if actuators is None:
            return None
        return Senses(self._sensor, session.agents, shape=session.shape, actuators=actuators)

    def _end(self, message: Message) -> None:
        self.farewell = read_farewell(message)
        # At once, for a robot must stand still before this process is killed.
        self.close()

    def _report(self, number: int) -> None:
        """Sends what this executor has used and how long its answers took."""
        resources = self._usage.resources(self._transport, self._handler.decisions_alone)
        payload = pack_meter(resources, self._timings.take())
        self._transport.send(SERVER, Header(kind=Kind.METER, step=number), payload)
