"""Rank 0's side of executors that play environments of their own: it asks, and takes what comes.

    rank 0 -> PLAY -> executors: play all steps of a rollout -> PLAYED, SHARD -> rank 0

N agents, T time, E environments.
"""

from __future__ import annotations

import struct
from collections.abc import Callable, Sequence
from typing import NamedTuple

from sde_harl.buffers.layout import bytes_of, lay_out
from sde_harl.buffers.played import (
    Played,
    SlotShape,
    SlotState,
    largest_played,
    pack_slots,
    unpack_played,
)
from sde_harl.buffers.rollout import Rollout
from sde_harl.envs.vector.history import MOST_STEPS
from sde_harl.link.transport import Transport
from sde_harl.link.wire import Header, Kind, Message, WireError
from sde_harl.meters.timing import now_ns
from sde_harl.server.hands import Hand, Hands
from sde_harl.server.pool_parts import PoolParts
from sde_harl.server.publisher import Sent
from sde_harl.server.settings import PoolSettings
from sde_harl.server.shard import Shard
from sde_harl.server.shard_check import ShardCheck

PLAY = struct.Struct("<QH")
"""The head of a PLAY payload: steps of the environments so far, and how many slots are asked for.

Behind it is where these slots stand, if their executor has to be told."""
STARTING_S = 600.0
"""Time that an executor's games may take to start, before its first sign of life."""
LOOK_NS = 1_000_000_000
"""Time after which executors are looked at again that tell nothing."""


class Asked(NamedTuple):
    """A rollout that executors were asked for."""

    number: int
    model: Sent
    """The one that plays it."""
    first_step: int
    states: Sequence[SlotState]
    """Where all slots stood when it began, by number."""


NOTHING = Asked(number=0, model=Sent(version=0, payloads=()), first_step=0, states=())


class Shards:
    """Asks executors to play, and takes their shards."""

    def __init__(
        self,
        transport: Transport,
        parts: PoolParts,
        *,
        settings: PoolSettings,
        hands: Hands,
        shape: SlotShape,
        check: ShardCheck,
    ) -> None:
        self._transport = transport
        self._waiter = parts.waiter
        self._publisher = parts.publisher
        self._settings = settings
        self._hands = hands
        self._shape = shape
        self._check = check
        self._rollout: Rollout
        self._asked = NOTHING
        self.played_by: Sent | None = None
        """The model that plays the rollout that is under way; None while there is none."""
        # Slots whose part of the rollout has come.
        self._here: set[int] = set()
        self._heard_ns: dict[int, int] = {}
        # By first slot.
        self._played: dict[int, Played] = {}
        self._arrived: list[Shard] = []
        self._fresh: list[Shard] = []
        self._refused: dict[int, str] = {}
        parts.receiver.others = {Kind.PLAYED: self._on_played, Kind.SHARD: self._on_shard}

    def start(self, rollout: Rollout) -> int:
        """Makes room for the shards of such rollouts; returns the bytes of the largest frame.

        Raises UserError where a shard is too large for a message.
        """
        self._rollout = rollout
        largest = 0
        for hand in self._hands:
            hand.make_room(rollout, self._settings.rows)
            told = largest_played(
                self._shape,
                slots=len(hand.slots),
                most=hand.fields["rewards"].size,
                steps=MOST_STEPS,
            )
            largest = max(largest, len(hand.room), told)
        # Hands that are dealt later are smaller.
        return largest

    def play(self, model: Sent, first_step: int, states: Sequence[SlotState]) -> None:
        """Asks all executors for a rollout from `first_step` on, played by `model`.

        `states`: where all slots stand.
        """
        self._asked = Asked(
            number=self._asked.number + 1, model=model, first_step=first_step, states=states
        )
        self.played_by = model
        self._here = set()
        self._arrived = []
        self._ask()

    def _missing(self) -> list[Hand]:
        return [hand for hand in self._hands if hand.first not in self._here]

    def _ask(self) -> None:
        """Asks for what is missing and hasn't been asked for."""
        asked = self._asked
        for hand in self._missing():
            if hand.asked == asked.number:
                continue
            # An executor that has just been dealt it.
            if not hand.fields:
                hand.make_room(self._rollout, self._settings.rows)
            hand.asked = asked.number
            # A lost executor may have told the first half.
            self._played.pop(hand.first, None)
            payload = PLAY.pack(asked.first_step, len(hand.slots))
            if hand.is_new:
                payload += pack_slots([asked.states[slot] for slot in hand.slots], self._shape)
            self._transport.expect(hand.rank, hand.room)
            self._heard_ns[hand.rank] = now_ns()
            self._send(hand.rank, hand.first, payload)

    def _send(self, rank: int, first_slot: int, payload: bytes) -> None:
        """Sends the question for a hand; its executor plays by the model that it has by then."""
        model = self._asked.model
        present = self._publisher.sent
        if model.version != present.version:
            self._publisher.send([rank], model)
        header = Header(
            kind=Kind.PLAY, step=self._asked.number, slot=first_slot, version=model.version
        )
        self._transport.send(rank, header, payload)
        if model.version != present.version:
            self._publisher.send([rank], present)

    def collect(self, take: Callable[[Shard], None]) -> list[Shard]:
        """Waits for all shards, hands each to `take` as it comes; returns them in order.

        Raises UserError where an executor is lost, or has sent what can't have been played, and
        nobody may do its part.
        """
        # Nobody has listened to them since they were asked.
        self._heard_ns = {hand.rank: now_ns() for hand in self._hands}
        while self._missing() or self._fresh:
            while self._fresh:
                take(self._fresh.pop())
            if self._missing():
                # Not for long: an executor that tells nothing must be noticed.
                self._waiter.wait(self._has_news, now_ns() + LOOK_NS)
            self._lose_unwell()
            # What those played that were lost.
            self._ask()
        self.played_by = None
        return sorted(self._arrived, key=lambda shard: shard.slots.start)

    def _has_news(self) -> bool:
        return bool(self._fresh or self._refused)

    def _lose_unwell(self) -> None:
        """Gives up executors whose shard was refused, and silent ones."""
        why = {
            rank: f"what it played is refused: {reason}" for rank, reason in self._refused.items()
        }
        self._refused.clear()
        for hand in self._missing():
            silence_s = self._settings.failure_timeout_s
            if not hand.is_heard:
                silence_s = max(silence_s, STARTING_S)
            if now_ns() - self._heard_ns[hand.rank] > silence_s * 1e9:
                self._transport.absent.add(hand.rank)
                why[hand.rank] = f"nothing was heard of its games within {silence_s:g} s"
        if why:
            self._waiter.lose(why)

    def _on_played(self, message: Message) -> None:
        """Takes what an executor tells before its shard; without a payload it is a sign of life."""
        rank = message.source
        hand = self._hand_of(message)
        hand.is_heard = True
        self._heard_ns[rank] = now_ns()
        if not message.payload:
            return
        most = hand.fields["rewards"].size
        try:
            self._played[hand.first] = unpack_played(
                message.payload, self._shape, slots=len(hand.slots), most=most
            )
        except ValueError as error:
            self._refused[rank] = str(error)
            raise WireError("played") from error

    def _on_shard(self, message: Message) -> None:
        rank = message.source
        hand = self._hand_of(message)
        self._heard_ns[rank] = now_ns()
        played = self._played.pop(hand.first, None)
        if played is None or len(message.payload) != bytes_of(hand.fields):
            self._refused[rank] = "length"
            raise WireError("length")
        arrays = lay_out(hand.fields, message.payload)
        try:
            self._check.check(arrays, played)
        except WireError as error:
            self._refused[rank] = error.reason
            raise
        rows = self._settings.rows
        shard = Shard(
            rank=rank,
            slots=hand.slots,
            envs=slice(hand.slots.start * rows, hand.slots.stop * rows),
            arrays=arrays,
            played=played,
            is_first=hand.is_new,
        )
        hand.is_new = False
        self._arrived.append(shard)
        self._fresh.append(shard)
        self._here.update(hand.slots)

    def _hand_of(self, message: Message) -> Hand:
        """Returns the hand that a message is of. Raises WireError unless its sender was asked."""
        header = message.header
        hand = self._hands.find(header.slot)
        if hand is None or hand.rank != message.source:
            raise WireError("slot")
        if header.step != self._asked.number or hand.asked != header.step:
            raise WireError("step")
        if hand.first in self._here:
            raise WireError("step")
        if header.version != self._asked.model.version:
            raise WireError("version")
        return hand
