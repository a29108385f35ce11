"""An executor that plays environments of its own (placement `envs`): its side of the wire.

    PLAY -> all steps of a rollout in the slots of this executor -> PLAYED, SHARD ->

N agents, T time, S slots of this executor.
"""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
from numpy.typing import NDArray

from sde_harl.buffers.layout import bytes_of, lay_out
from sde_harl.buffers.played import EPISODE, Played, pack_played, unpack_slots
from sde_harl.codec.tables import Tables, from_bytes
from sde_harl.config.arguments import parse
from sde_harl.config.layers import digest
from sde_harl.errors import UserError
from sde_harl.executor.handlers.base import Dismissed, Handler
from sde_harl.link.transport import Transport
from sde_harl.link.wire import Header, Kind, Message, WireError
from sde_harl.meters.timing import now_ns
from sde_harl.protocol.session import SessionSpec
from sde_harl.server.decision_log import Decisions
from sde_harl.server.shards import STEP
from sde_harl.training.episodes import Episodes
from sde_harl.training.shard_games import ShardGames

SERVER = 0
SIGN_OF_LIFE_NS = 1_000_000_000
"""Time between two signs of life while a rollout is played."""
SENT_S = 60.0
"""Time that a shard may take to leave."""
LONGEST_NS = 2**32 - 1


def make_player(argv: Sequence[str], transport: Transport, session: SessionSpec) -> Handler:
    """Returns the handler of an executor whose command line is `argv`.

    Raises UserError where this host can't play what the server plays.
    """
    config = parse([*argv]).config
    assert session.plays
    # The configuration never comes from the wire: it may name code of the user's own.
    if config is None or digest(config) != session.plays.config:
        raise UserError(
            "placement.mode: expected the server's configuration, got another one"
            " (this executor's command line and files)"
        )
    return ShardPlayer(transport, ShardGames(config, session.plays, session.shape))


class ShardPlayer(Handler):
    """Plays when it is asked to, and sends what was played."""

    def __init__(self, transport: Transport, games: ShardGames) -> None:
        self._transport = transport
        self._games = games
        fields = games.fields()
        # One frame for all rollouts: playing them writes it.
        self._fan = transport.fan({SERVER: bytes_of(fields)})
        self._arrays = lay_out(fields, self._fan.frames[SERVER].payload)
        games.write_to(self._arrays)
        self._flat = np.zeros(0, np.float32)
        self._tables: dict[int, Tables] = {}
        self._has_begun = False
        self._told_ns = 0
        self._question = Header(kind=Kind.PLAY)

    def load(self, flat: NDArray[np.float32]) -> None:
        self._flat = flat

    def set_tables(self, agents: list[int], tables: memoryview) -> None:
        # Read once, however many agents share them.
        shared = from_bytes(tables)
        for agent in agents:
            self._tables[agent] = shared

    def answer(self, message: Message) -> None:
        raise WireError("kind")  # these environments are not the server's

    def play(self, message: Message) -> None:
        self._question = message.header
        if len(message.payload) < STEP.size:
            raise WireError("length")
        (first_step,) = STEP.unpack_from(message.payload)
        games = self._games
        if message.header.version != games.version:
            games.publish(message.header.version, self._flat, self._tables)
        # Rank 0 has the last shard, or it would not ask, but MPI has to say so, too.
        self._transport.flush(SENT_S)
        if not self._has_begun:
            self._begin(message.payload[STEP.size :])
        self._send(games.play(first_step))

    def _begin(self, states: memoryview) -> None:
        """Begins the first episodes, or goes on with those that `states` tells, if any."""
        games = self._games
        loaded = None
        if states:
            loaded = unpack_slots(states, games.slot_shape, slots=games.slots)
        games.begin(loaded, self._look_up)
        self._has_begun = True

    def _send(self, episodes: Episodes) -> None:
        games = self._games
        rows = np.empty(len(episodes.seed), EPISODE)
        for name, column in (
            ("seed", episodes.seed),
            ("length", episodes.length),
            ("returns", episodes.returns),
            ("won", episodes.won),
        ):
            rows[name] = column
        played = Played(episodes=rows, slots=games.states(), is_brought_back=games.are_brought_back)
        self._write(games.decisions())
        told = self._question.answer(Kind.PLAYED, 0)
        self._transport.send(SERVER, told, pack_played(played, games.slot_shape))
        shard = self._question.answer(Kind.SHARD, 0)
        self._transport.send_fan(self._fan, _is_written, header=shard, failure_timeout_s=SENT_S)

    def _write(self, decisions: Decisions) -> None:
        """Writes what the decisions took."""
        arrays = self._arrays
        for name in ("payload_bytes", "ideal_bits", "decode_ns", "policy_ns", "decision_ns"):
            column = getattr(decisions, name)
            array = arrays[name]
            if array.dtype.kind == "u":
                column = np.clip(column, 0, LONGEST_NS)
            array[...] = column.reshape(array.shape)
        arrays["device_ns"][...] = decisions.device_ns.reshape(arrays["device_ns"].shape)

    def _look_up(self) -> None:
        """Looks between two steps what rank 0 says, and gives a sign of life now and then."""
        for message in self._transport.poll():
            # Nothing else comes before the shard is there.
            if message.header.kind is Kind.BYE:
                raise Dismissed(message)
        if now_ns() - self._told_ns > SIGN_OF_LIFE_NS:
            self._told_ns = now_ns()
            self._transport.send(SERVER, self._question.answer(Kind.PLAYED, 0))

    def close(self) -> None:
        self._games.close()


def _is_written(rank: int) -> None:
    """Writes nothing into the frame: it was written while it was played."""
