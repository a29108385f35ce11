"""An executor's report beside its shard: the episodes that ended, and where its slots stand.

By the second a run can go on after an interruption (`VectorEnv.state_dict`, `EnvSlot.state_dict`).

E environments of a slot, N agents, D numbers of an action, H memory, L steps of the longest episode
under way.
"""

from __future__ import annotations

import struct
from collections.abc import Mapping, Sequence
from math import prod
from typing import Any, NamedTuple

import numpy as np
from numpy.typing import NDArray

EPISODE = np.dtype([("seed", "<i8"), ("length", "<i8"), ("returns", "<f4"), ("won", "<i4")])
"""An episode that ended, in the order of (time, environment)."""
HEAD = struct.Struct("<I?")
"""How many episodes, and whether interrupted ones could be brought back."""
STEPS = struct.Struct("<i")
NO_STEPS = -1
"""In place of L, where a slot's state tells no actions: its episodes begin."""

SlotState = Mapping[str, NDArray[Any]]
"""The arrays of a slot by name: its environments' and its own."""


class SlotShape(NamedTuple):
    """Sizes of a slot."""

    envs: int
    agents: int
    dimensions: int
    continuous: bool
    memory: int
    """H of what rank 0 remembers in `local`; 0 where it remembers nothing."""

    def fields(self, steps: int) -> dict[str, tuple[str, tuple[int, ...]]]:
        """Returns type and shape of each array of a state whose L is `steps`."""
        counters: dict[str, tuple[str, tuple[int, ...]]] = {"episodes": ("<i8", (self.envs,))}
        if steps == NO_STEPS:
            return counters
        number = "<f4" if self.continuous else "<i4"
        return {
            **counters,
            "lengths": ("<i8", (self.envs,)),
            "seen": ("<i8", (self.envs,)),
            "actions": (number, (self.envs, steps, self.agents, self.dimensions)),
            "began": ("|b1", (self.envs,)),
            "memory": ("<f4", (self.agents, self.envs, self.memory)),
        }


class Played(NamedTuple):
    """The contents of a PLAYED message."""

    episodes: NDArray[np.void]
    """(k,) of type EPISODE."""
    slots: list[SlotState]
    is_brought_back: bool = True


def pack_played(played: Played, shape: SlotShape) -> bytes:
    """Returns a PLAYED payload."""
    head = HEAD.pack(len(played.episodes), played.is_brought_back)
    return head + played.episodes.tobytes() + pack_slots(played.slots, shape)


def unpack_played(payload: memoryview, shape: SlotShape, *, slots: int, most: int) -> Played:
    """Takes a PLAYED payload apart, whose episodes are at most `most`.

    The arrays are copies. Raises ValueError where sizes don't fit together.
    """
    if len(payload) < HEAD.size:
        raise ValueError("played: it is too short")
    count, is_brought_back = HEAD.unpack_from(payload)
    end = HEAD.size + count * EPISODE.itemsize
    if count > most or len(payload) < end:
        raise ValueError(f"played: {count} episodes")
    return Played(
        episodes=np.frombuffer(payload[HEAD.size : end], EPISODE).copy(),
        slots=unpack_slots(payload[end:], shape, slots=slots),
        is_brought_back=is_brought_back,
    )


def pack_slots(states: Sequence[SlotState], shape: SlotShape) -> bytes:
    """Returns the states of slots as bytes."""
    parts: list[bytes] = []
    for state in states:
        steps = NO_STEPS
        if "actions" in state:
            steps = state["actions"].shape[1]
        parts.append(STEPS.pack(steps))
        for name, (dtype, size) in shape.fields(steps).items():
            array = state.get(name, np.zeros(size, dtype))
            parts.append(np.ascontiguousarray(array, dtype).tobytes())
    return b"".join(parts)


def unpack_slots(payload: memoryview, shape: SlotShape, *, slots: int) -> list[SlotState]:
    """Returns the states of so many slots. Raises ValueError where sizes don't fit together."""
    states: list[SlotState] = []
    at = 0
    for _ in range(slots):
        if len(payload) - at < STEPS.size:
            raise ValueError("played: a slot is missing")
        (steps,) = STEPS.unpack_from(payload, at)
        at += STEPS.size
        if steps < NO_STEPS:
            raise ValueError(f"played: {steps} steps")
        state: dict[str, NDArray[Any]] = {}
        for name, (dtype, size) in shape.fields(steps).items():
            end = at + np.dtype(dtype).itemsize * prod(size)
            # Before anything is made of this size: it comes from the wire.
            if len(payload) < end:
                raise ValueError(f"played: {name} is too short")
            state[name] = np.frombuffer(payload[at:end], dtype).reshape(size).copy()
            at = end
        states.append(state)
    if at != len(payload):
        raise ValueError("played: it is too long")
    return states


def largest_played(shape: SlotShape, *, slots: int, most: int, steps: int) -> int:
    """Returns the bytes of the largest PLAYED payload: `most` episodes, L up to `steps`."""
    state = sum(
        np.dtype(dtype).itemsize * prod(size) for dtype, size in shape.fields(steps).values()
    )
    return HEAD.size + most * EPISODE.itemsize + slots * (STEPS.size + state)
