"""A shard at rank 0: what one executor has played of one hand, and what that took.

N agents, T time.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any, NamedTuple

import numpy as np
from numpy.typing import NDArray

from sde_harl.buffers.played import Played
from sde_harl.server.decision_log import Decisions


class Shard(NamedTuple):
    """The part of one hand that one executor has played."""

    rank: int
    slots: range
    envs: slice
    """Its environments among those of the run."""
    arrays: dict[str, NDArray[Any]]
    """As `shard_fields` describes them; they are written over by the next one."""
    played: Played
    is_first: bool
    """Whether its executor was told where the slots stood, and had to bring episodes back."""


def decisions_of(shards: Sequence[Shard], *, first_step: int, version: int, rows: int) -> Decisions:
    """Returns what the decisions of a rollout took, those of one time together, slot by slot."""

    def joined(name: str) -> NDArray[Any]:
        return np.concatenate([shard.arrays[name] for shard in shards], 1)

    payload_bytes = joined("payload_bytes")  # (T, S, N)
    steps, slots, agents = payload_bytes.shape
    shape = (steps * slots, agents)
    none = np.zeros(shape, np.int64)
    ranks = [shard.rank for shard in shards for _ in shard.slots]
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
