"""An executor that plays environments of its own (placement `envs`): its side of the wire.

    PLAY -> all steps of a rollout in some slots -> PLAYED, SHARD ->

Slots that are dealt together are a hand. An executor is dealt one at the beginning, and others
where executors are lost; it plays them one after the other.

N agents, T time, S slots of a hand.
"""

from __future__ import annotations

import functools
from collections import deque
from collections.abc import Callable, Iterator, Sequence
from typing import Any, NamedTuple

import numpy as np
from numpy.typing import NDArray

from sde_harl.buffers.layout import bytes_of, lay_out
from sde_harl.buffers.played import EPISODE, Played, pack_played, unpack_slots
from sde_harl.codec.tables import Tables, from_bytes
from sde_harl.config.arguments import parse
from sde_harl.config.layers import digest
from sde_harl.errors import UserError
from sde_harl.executor.handlers.base import Handler
from sde_harl.link.transport import SERVER, Fan, Transport
from sde_harl.link.wire import Header, Kind, Message, WireError
from sde_harl.meters.timing import now_ns
from sde_harl.protocol.session import SessionSpec, ShardSpec
from sde_harl.server.decision_log import Decisions
from sde_harl.server.shards import PLAY
from sde_harl.training.episodes import Episodes
from sde_harl.training.shard_games import ShardGames

SENT_S = 60.0
"""Time that a shard may take to leave."""
LONGEST_NS = 2**32 - 1

MakeGames = Callable[[ShardSpec], ShardGames]
"""Makes the environments of a hand."""


class Hand(NamedTuple):
    """Slots that are played together."""

    games: ShardGames
    fan: Fan
    """One frame for all rollouts: playing them writes it."""
    arrays: dict[str, NDArray[Any]]
    """The shard, as views of the frame."""


class Order(NamedTuple):
    """A rollout that the server has asked for."""

    question: Header
    first_step: int
    slots: int
    states: bytes
    """Where the slots of a new hand stand; empty for a hand that has been played."""
    flat: NDArray[np.float32]
    tables: dict[int, Tables]
    """Those of each agent. The server may publish others before this rollout is played."""


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
    # Four within the time after which rank 0 gives up one that is silent.
    sign_of_life_s = config.link.failure_timeout_s / 4
    make_games = functools.partial(ShardGames, config, shape=session.shape)
    return ShardPlayer(transport, session.plays, make_games, sign_of_life_s=sign_of_life_s)


class ShardPlayer(Handler):
    """Plays when it is asked to, step by step, and sends what was played."""

    def __init__(
        self,
        transport: Transport,
        plays: ShardSpec,
        make_games: MakeGames,
        *,
        sign_of_life_s: float,
    ) -> None:
        """`plays`: the first hand; `sign_of_life_s`: time between two signs of life."""
        self._transport = transport
        self._plays = plays
        self._make_games = make_games
        self._sign_of_life_ns = int(sign_of_life_s * 1e9)
        self._told_ns = 0
        self._flat = np.zeros(0, np.float32)
        self._tables: dict[int, Tables] = {}
        self._orders: deque[Order] = deque()
        self._playing: Iterator[None] | None = None
        self._hands = {plays.first_slot: self._new_hand(plays)}

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
        if len(message.payload) < PLAY.size:
            raise WireError("length")
        first_step, slots = PLAY.unpack_from(message.payload)
        self._orders.append(
            Order(
                question=message.header,
                first_step=first_step,
                slots=slots,
                states=bytes(message.payload[PLAY.size :]),
                flat=self._flat,
                tables={**self._tables},
            )
        )

    @property
    def is_playing(self) -> bool:
        return bool(self._playing or self._orders)

    def wait_s(self, most_s: float) -> float:
        if self.is_playing:
            return 0.0
        return most_s

    def act_if_due(self) -> None:
        """Plays one step of what was asked for."""
        if self._playing is None:
            if not self._orders:
                return
            self._playing = self._play(self._orders.popleft())
        try:
            next(self._playing)
        except StopIteration:
            self._playing = None

    def _play(self, order: Order) -> Iterator[None]:
        """Plays a rollout, a step at a time, and sends it."""
        hand = self._hand_of(order)
        games = hand.games
        # Rank 0 has the last shard, or it would not ask, but MPI has to say so, too.
        self._transport.await_fan(hand.fan, SENT_S)
        if order.question.version != games.version:
            games.publish(order.question.version, order.flat, order.tables)
        if order.states:
            states = memoryview(order.states)
            games.begin(unpack_slots(states, games.slot_shape, slots=games.slots))
        parts: list[Episodes] = []
        for ended in games.play(order.first_step):
            parts.append(ended)
            self._give_sign(order.question)
            yield
        self._send(hand, order.question, Episodes.join(parts))

    def _hand_of(self, order: Order) -> Hand:
        """Returns the hand that is asked for, which is made where it is a new one."""
        first = order.question.slot
        hand = self._hands.get(first)
        if hand is None:
            hand = self._new_hand(self._plays._replace(first_slot=first, slots=order.slots))
            self._hands[first] = hand
            # Rank 0 has more patience with games that have not started yet.
            self._told_ns = 0
        return hand

    def _new_hand(self, plays: ShardSpec) -> Hand:
        games = self._make_games(plays)
        fields = games.fields()
        fan = self._transport.fan({SERVER: bytes_of(fields)})
        arrays = lay_out(fields, fan.frames[SERVER].payload)
        games.write_to(arrays)
        return Hand(games=games, fan=fan, arrays=arrays)

    def _send(self, hand: Hand, question: Header, episodes: Episodes) -> None:
        games = hand.games
        rows = np.empty(len(episodes.seed), EPISODE)
        for name, column in (
            ("seed", episodes.seed),
            ("length", episodes.length),
            ("returns", episodes.returns),
            ("won", episodes.won),
        ):
            rows[name] = column
        played = Played(episodes=rows, slots=games.states(), is_brought_back=games.are_brought_back)
        _write(games.decisions(), hand.arrays)
        told = question.answer(Kind.PLAYED, 0)
        self._transport.send(SERVER, told, pack_played(played, games.slot_shape))
        shard = question.answer(Kind.SHARD, 0)
        self._transport.send_fan(hand.fan, _is_written, header=shard, failure_timeout_s=SENT_S)

    def _give_sign(self, question: Header) -> None:
        """Tells rank 0 now and then that this executor still plays."""
        if now_ns() - self._told_ns > self._sign_of_life_ns:
            self._told_ns = now_ns()
            self._transport.send(SERVER, question.answer(Kind.PLAYED, 0))

    def close(self) -> None:
        self._orders.clear()
        self._playing = None
        for hand in self._hands.values():
            hand.games.close()


def _write(decisions: Decisions, arrays: dict[str, NDArray[Any]]) -> None:
    """Writes what the decisions of a rollout took into its shard."""
    for name in ("payload_bytes", "ideal_bits", "decode_ns", "policy_ns", "decision_ns"):
        column = getattr(decisions, name)
        array = arrays[name]
        if array.dtype.kind == "u":
            column = np.clip(column, 0, LONGEST_NS)
        array[...] = column.reshape(array.shape)
    arrays["device_ns"][...] = decisions.device_ns.reshape(arrays["device_ns"].shape)


def _is_written(rank: int) -> None:
    """Writes nothing into the frame: it was written while it was played."""
