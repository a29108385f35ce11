"""Keeps which executor plays which slots of environments (placement `envs`).

Slots that are dealt together are a hand: they are asked for together, and make one shard.
"""

from __future__ import annotations

from collections.abc import Iterator
from collections.abc import Set as AbstractSet
from dataclasses import dataclass, field

from sde_harl.buffers.layout import Field, bytes_of
from sde_harl.buffers.rollout import Rollout
from sde_harl.buffers.shard import shard_fields
from sde_harl.errors import UserError
from sde_harl.link.wire import OVERHEAD
from sde_harl.server.assignment import deal, deal_slots, numbered
from sde_harl.server.redeal import Executors

LARGEST_FRAME = (1 << 31) - 1
"""Bytes of a message that MPI can count."""


@dataclass(kw_only=True, eq=False)
class Hand:
    """Some slots, and where they are."""

    slots: range
    rank: int
    is_new: bool = True
    """Whether its executor has to be told where the slots stand: it has never played them."""
    asked: int = 0
    """Number of the rollout that its executor was asked for last."""
    is_heard: bool = False
    """Whether its executor has played any of it."""
    fields: dict[str, Field] = field(default_factory=dict)
    """Describes its shards; empty until there is a rollout."""
    room: memoryview = field(default_factory=lambda: memoryview(b""))
    """Where its shards are received."""

    @property
    def first(self) -> int:
        """Returns its first slot, which it is named by on the wire."""
        return self.slots.start

    def make_room(self, rollout: Rollout, rows: int) -> None:
        """Makes room for its shards of such rollouts; `rows`: environments of a slot.

        Raises UserError where a shard is too large for a message.
        """
        envs = len(self.slots) * rows
        self.fields = shard_fields(rollout, envs=envs, slots=len(self.slots))
        size = OVERHEAD + bytes_of(self.fields)
        if size > LARGEST_FRAME:
            raise UserError(
                f"train.rollout: {len(rollout.rewards):,} steps of {envs:,} environments are"
                f" {size:,} bytes, and an executor can send {LARGEST_FRAME:,}: use more executors"
            )
        self.room = memoryview(bytearray(size))


class Hands:
    """All hands of a run."""

    def __init__(self, slots: int, executors: Executors, *, learners: int = 1) -> None:
        """Deals so many slots to the ranks of `executors`, from which lost ones will be taken.

        `learners` are the other ranks. Raises UserError where one would have none.
        """
        self._executors = executors
        self._hands = {
            dealt.start: Hand(slots=dealt, rank=rank)
            for rank, dealt in deal_slots(slots, len(executors), learners=learners).items()
        }

    def __iter__(self) -> Iterator[Hand]:
        return iter([*self._hands.values()])

    def find(self, first: int) -> Hand | None:
        """Returns the hand that begins with a slot, if there is one."""
        return self._hands.get(first)

    def deal(self, lost: AbstractSet[int], absent: AbstractSet[int]) -> dict[int, str]:
        """Deals what lost executors play to those that are there; `Dealer` has the rest.

        Each slot becomes a hand of its own, so that the slots are spread evenly.
        """
        there = self._executors.keys() - absent
        orphans = [hand for hand in self if hand.rank in lost]
        if not orphans or not there:
            return {}
        for rank in lost:
            self._executors.pop(rank, None)
        held: dict[int, list[int]] = {rank: [] for rank in sorted(there)}
        for hand in self:
            if hand.rank in held:
                held[hand.rank] += hand.slots
        before = {rank: len(slots) for rank, slots in held.items()}
        for hand in orphans:
            del self._hands[hand.first]
        deal([slot for hand in orphans for slot in hand.slots], held)
        dealt: dict[int, str] = {}
        for rank, slots in held.items():
            gained = slots[before[rank] :]
            for slot in gained:
                self._hands[slot] = Hand(slots=range(slot, slot + 1), rank=rank)
            if gained:
                dealt[rank] = f"plays {numbered('slot', gained)} from now on"
        return dealt
