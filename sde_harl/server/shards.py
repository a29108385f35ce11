"""Rank 0's side of executors that play environments of their own: it asks, and takes what comes.

    rank 0 -> PLAY -> executors: play all steps of a rollout -> PLAYED, SHARD -> rank 0

N agents, T time, E environments.
"""

from __future__ import annotations

import struct
from collections.abc import Callable, Mapping, Sequence
from typing import Any, NamedTuple

import numpy as np
from numpy.typing import NDArray

from sde_harl.buffers.layout import Field, bytes_of, lay_out
from sde_harl.buffers.played import (
    Played,
    SlotShape,
    SlotState,
    largest_played,
    pack_slots,
    unpack_played,
)
from sde_harl.buffers.rollout import Rollout
from sde_harl.buffers.shard import shard_fields
from sde_harl.envs.vector.history import MOST_STEPS
from sde_harl.errors import UserError
from sde_harl.link.transport import Transport
from sde_harl.link.wire import OVERHEAD, Header, Kind, Message, WireError
from sde_harl.meters.timing import now_ns
from sde_harl.server.decision_log import Decisions
from sde_harl.server.pool_parts import PoolParts
from sde_harl.server.settings import PoolSettings
from sde_harl.server.shard_check import ShardCheck

STEP = struct.Struct("<Q")
"""The head of a PLAY payload: steps of the environments so far."""
STARTING_S = 600.0
"""Time that an executor's games may take to start, before its first sign of life."""
LOOK_NS = 1_000_000_000
"""Time after which executors are looked at again that tell nothing."""
LARGEST_FRAME = (1 << 31) - 1
"""Bytes of a message that MPI can count."""


class Shard(NamedTuple):
    """What one executor has played."""

    slots: range
    envs: slice
    """Its environments among those of the run."""
    arrays: dict[str, NDArray[Any]]
    """As `shard_fields` describes them; they are written over by the next one."""
    played: Played


class Shards:
    """Asks executors to play, and takes their shards."""

    def __init__(
        self,
        transport: Transport,
        parts: PoolParts,
        *,
        settings: PoolSettings,
        slots_of: Mapping[int, range],
        shape: SlotShape,
        check: ShardCheck,
    ) -> None:
        """`slots_of` maps ranks to slots."""
        self._transport = transport
        self._waiter = parts.waiter
        self._settings = settings
        self._slots_of = slots_of
        self._shape = shape
        self._check = check
        self._fields: dict[int, dict[str, Field]] = {}
        self._rooms: dict[int, memoryview] = {}
        self._largest_played = 0
        self._number = 0
        self._missing: set[int] = set()
        self._is_heard: set[int] = set()
        self._heard_ns: dict[int, int] = {}
        self._played: dict[int, Played] = {}
        self._arrived: dict[int, Shard] = {}
        self._fresh: list[Shard] = []
        self._refused: tuple[int, str] | None = None
        parts.receiver.others = {Kind.PLAYED: self._on_played, Kind.SHARD: self._on_shard}

    def start(self, rollout: Rollout) -> int:
        """Makes room for the shards of such rollouts; returns the bytes of the largest frame.

        Raises UserError where a shard is too large for a message.
        """
        steps = len(rollout.rewards)
        for rank, slots in self._slots_of.items():
            envs = len(slots) * self._settings.rows
            fields = shard_fields(rollout, envs=envs, slots=len(slots))
            size = OVERHEAD + bytes_of(fields)
            if size > LARGEST_FRAME:
                raise UserError(
                    f"train.rollout: {steps:,} steps of {envs:,} environments are {size:,} bytes,"
                    f" and an executor can send {LARGEST_FRAME:,}: use more executors"
                )
            self._fields[rank] = fields
            self._rooms[rank] = memoryview(bytearray(size))
            most = steps * envs
            self._largest_played = max(
                self._largest_played,
                largest_played(self._shape, slots=len(slots), most=most, steps=MOST_STEPS),
            )
        return max(self._largest_played, *map(len, self._rooms.values()))

    def play(
        self, version: int, first_step: int, states: Sequence[SlotState] | None = None
    ) -> None:
        """Asks all executors for a rollout from `first_step` on, played by model `version`.

        `states` of all slots, with which the first one of a run begins.
        """
        self._number += 1
        self._missing = set(self._slots_of)
        self._arrived = {}
        for rank, slots in self._slots_of.items():
            payload = STEP.pack(first_step)
            if states is not None:
                payload += pack_slots([states[slot] for slot in slots], self._shape)
            self._transport.expect(rank, self._rooms[rank])
            self._heard_ns[rank] = now_ns()
            header = Header(kind=Kind.PLAY, step=self._number, version=version)
            self._transport.send(rank, header, payload)
        self._version = version

    def collect(self, take: Callable[[Shard], None]) -> list[Shard]:
        """Waits for all shards, hands each to `take` as it comes; returns them in order.

        Raises UserError where an executor is lost, or has sent what can't have been played.
        """
        while self._missing or self._fresh:
            while self._fresh:
                take(self._fresh.pop())
            if self._missing:
                # Not for long: an executor that tells nothing must be noticed.
                self._waiter.wait(self._has_news, now_ns() + LOOK_NS)
            self._check_all_well()
        return [self._arrived[rank] for rank in sorted(self._arrived)]

    def _has_news(self) -> bool:
        return bool(self._fresh or self._refused)

    def _check_all_well(self) -> None:
        """Raises UserError for a shard that was refused, and for an executor that is silent."""
        if self._refused:
            rank, reason = self._refused
            raise self._waiter.error(rank, f"what it played is refused: {reason}")
        for rank in sorted(self._missing):
            silence_s = self._settings.failure_timeout_s
            if rank not in self._is_heard:
                silence_s = max(silence_s, STARTING_S)
            if now_ns() - self._heard_ns[rank] > silence_s * 1e9:
                self._transport.absent.add(rank)
                raise self._waiter.error(
                    rank, f"nothing was heard of its games within {silence_s:g} s"
                )

    def _on_played(self, message: Message) -> None:
        """Takes what an executor tells before its shard; without a payload it is a sign of life."""
        rank = message.source
        self._check_is_asked(message)
        self._is_heard.add(rank)
        self._heard_ns[rank] = now_ns()
        if not message.payload:
            return
        slots = self._slots_of[rank]
        most = self._fields[rank]["rewards"].shape
        try:
            self._played[rank] = unpack_played(
                message.payload, self._shape, slots=len(slots), most=most[0] * most[1]
            )
        except ValueError as error:
            self._refused = (rank, str(error))
            raise WireError("played") from error

    def _on_shard(self, message: Message) -> None:
        rank = message.source
        self._check_is_asked(message)
        fields = self._fields[rank]
        if rank not in self._played or len(message.payload) != bytes_of(fields):
            self._refused = (rank, "length")
            raise WireError("length")
        arrays = lay_out(fields, message.payload)
        played = self._played.pop(rank)
        try:
            self._check.check(arrays, played)
        except WireError as error:
            self._refused = (rank, error.reason)
            raise
        slots = self._slots_of[rank]
        rows = self._settings.rows
        shard = Shard(
            slots=slots,
            envs=slice(slots.start * rows, slots.stop * rows),
            arrays=arrays,
            played=played,
        )
        self._arrived[rank] = shard
        self._fresh.append(shard)
        self._missing.discard(rank)

    def _check_is_asked(self, message: Message) -> None:
        header = message.header
        if message.source not in self._missing or header.step != self._number:
            raise WireError("step")
        if header.version != self._version:
            raise WireError("version")


def decisions_of(shards: Sequence[Shard], *, first_step: int, version: int, rows: int) -> Decisions:
    """Returns what the decisions of a rollout took, those of one time together, slot by slot."""

    def joined(name: str) -> NDArray[Any]:
        return np.concatenate([shard.arrays[name] for shard in shards], 1)

    payload_bytes = joined("payload_bytes")  # (T, S, N)
    steps, slots, agents = payload_bytes.shape
    shape = (steps * slots, agents)
    none = np.zeros(shape, np.int64)
    ranks = [rank for rank, shard in enumerate(shards, 1) for _ in shard.slots]
    return Decisions(
        step=np.repeat(first_step + np.arange(steps), slots),
        environments=np.full(shape[0], rows),
        rank=np.repeat(np.tile(np.array(ranks, np.int32), steps), agents).reshape(shape),
        version=np.full(shape[0], version),
        payload_bytes=payload_bytes.reshape(shape).astype(np.int64),
        ideal_bits=joined("ideal_bits").reshape(shape),
        decode_ns=joined("decode_ns").reshape(shape).astype(np.int64),
        policy_ns=joined("policy_ns").ravel().astype(np.int64),
        decision_ns=joined("decision_ns").ravel().astype(np.int64),
        # All latents are there at once, where agents and environments are in one process.
        age=np.zeros(shape, np.float32),
        missed=none,
        idle=none,
        fallback=none,
        answers=none + 1,
        late=none,
        device_ns=joined("device_ns").reshape(*shape, 3),
    )
