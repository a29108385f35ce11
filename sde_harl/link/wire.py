"""The frames that cross the link: a little-endian header, the payload, a CRC-32. Nothing here trusts the sender.

Bytes are made and checked in frames.c, which says how they lie:

    frame_of(header, payload) -> bytes: the frame of a Header's fields and a payload; OverflowError if one doesn't fit.
    seal(frame, header): writes a Header's fields and the CRC around the payload that a Frame's data holds.
    unpack(source, frame, run_id) -> Message: checks a received frame. `run_id` None accepts any run (an executor that
        has not been welcomed yet); a HELLO with run id 0 is always accepted, for its sender can't know better.
        WireError with the reason short, magic, protocol, length, crc, kind or run.
"""

from __future__ import annotations

import json
import math
import struct
from enum import IntEnum
from typing import Any, NamedTuple
from zlib import crc32

import numpy as np
from numpy.typing import NDArray

from sde_harl.link import _frames
from sde_harl.link._frames import frame_of, seal, unpack

__all__ = ["frame_of", "seal", "unpack"]  # and what is defined here

HEADER_BYTES = 28
AGENT = np.dtype("<u2")
OVERHEAD = HEADER_BYTES + 4  # bytes of a frame beside its payload: header and CRC


class WireError(ValueError):
    """A frame or payload that must not be acted on; `reason` is a short slug for the fault counters."""

    def __init__(self, reason: str) -> None:
        super().__init__(reason)
        self.reason = reason


class Kind(IntEnum):
    """What a frame is for; docs/architecture.md tells the payloads."""

    HELLO = 1
    WELCOME = 2
    WEIGHTS = 3
    TABLES = 4
    SENSOR = 5
    LATENTS = 6
    ACTIONS = 7
    METER = 8
    BYE = 9
    DEVICE_ACTIONS = 10


class Header(NamedTuple):
    """What a frame says of its payload, in wire order."""

    kind: Kind
    agent: int = 0
    run_id: int = 0
    step: int = 0
    slot: int = 0
    environments: int = 0
    version: int = 0


class Message(NamedTuple):
    """A checked frame; an executor's `payload` is valid until its next poll or wait."""

    source: int
    header: Header
    payload: memoryview


class Frame(NamedTuple):
    """A frame whose payload is written in place, to be sealed and sent again and again."""

    data: memoryview
    payload: memoryview
    """The part of `data` that is the payload."""


def new_frame(size: int) -> Frame:
    """A frame for a payload of `size` bytes."""
    data = memoryview(bytearray(OVERHEAD + size))
    return Frame(data, data[HEADER_BYTES : HEADER_BYTES + size])


_frames.use(Message, Header, (None, *Kind), WireError, crc32)


def parse_json(payload: memoryview, limit: int = 65536) -> dict[str, Any]:
    """The JSON object in a payload of at most `limit` bytes; its types are the caller's to check.

    Raises WireError("json").
    """
    if len(payload) > limit:
        raise WireError("json")
    try:
        value = json.loads(str(payload, "utf-8"), parse_constant=_no_constant)
    except (ValueError, RecursionError) as error:
        raise WireError("json") from error
    if not isinstance(value, dict):
        raise WireError("json")
    return value


def _no_constant(name: str) -> None:
    raise ValueError(f"{name} is not JSON")


def pack_tables(agents: list[int], tables: bytes) -> bytes:
    """A TABLES payload: how many agents code with these tables, which, and the tables (codec/tables.py)."""
    return np.array([len(agents), *agents], AGENT).tobytes() + tables


def tables_head(agents: int) -> int:
    """Bytes of a TABLES payload before the tables."""
    return AGENT.itemsize * (1 + agents)


def unpack_tables(payload: memoryview) -> tuple[list[int], memoryview]:
    """The agents and the tables' bytes of a TABLES payload. Raises WireError("tables")."""
    count = int(np.frombuffer(payload, AGENT, 1)[0]) if len(payload) >= tables_head(0) else 0
    if not count or len(payload) < tables_head(count):
        raise WireError("tables")
    return np.frombuffer(payload, AGENT, count, tables_head(0)).tolist(), payload[
        tables_head(count) :
    ]


class Resources(NamedTuple):
    """What one executor has used since its start: the head of a METER payload, 152 bytes."""

    cpu_s: float
    rss_bytes: int
    peak_rss_bytes: int
    sleep_s: float
    waits: int
    rejected: int
    alone: int
    """Decisions that it took without the server, for all its agents."""
    sent: int
    received: int
    sent_bytes: int
    """Of its frames, as `received_bytes`."""
    received_bytes: int
    carried_sent_bytes: int
    """By the interfaces it talks over (meters/network.py), as what follows; -1: unknown."""
    carried_received_bytes: int
    carried_sent_packets: int
    carried_received_packets: int
    joules: float = math.nan
    """Of its whole host, counted from some moment before; here and below NaN where it has no sensor."""
    gpu_joules: float = math.nan
    idle_w: float = math.nan
    """Of its host before the run began."""
    gpu_idle_w: float = math.nan


RESOURCES = struct.Struct("<dQQdQQQQQQQqqqqdddd")
TIMINGS = np.dtype("<u4")
TIMINGS_A_ROW = 3  # local net, encode, round trip
LARGEST_BYTES = 1 << 50  # of memory; what is said to be more would not even fit the record
METER_BYTES, TIMING_BYTES = RESOURCES.size, TIMINGS_A_ROW * TIMINGS.itemsize
"""Of a METER payload without its timings, and of each row of these."""


def pack_meter(resources: Resources, timings: NDArray[np.integer[Any]]) -> bytes:
    """A METER payload. `timings` (k, 3) in ns; what is longer than 4.29 s is sent as that."""
    return RESOURCES.pack(*resources) + np.clip(timings, 0, 2**32 - 1).astype(TIMINGS).tobytes()


def unpack_meter(payload: memoryview) -> tuple[Resources, NDArray[np.uint32]]:
    """The resources and the (k, 3) timings in ns of a METER payload. Raises WireError("meter")."""
    if len(payload) < RESOURCES.size or (len(payload) - RESOURCES.size) % (
        TIMINGS_A_ROW * TIMINGS.itemsize
    ):
        raise WireError("meter")
    resources = Resources(*RESOURCES.unpack_from(payload))
    finite = math.isfinite(resources.cpu_s) and math.isfinite(resources.sleep_s)
    counts = (*resources[1:3], *resources[6:11])  # what run.h5 keeps of the unsigned ones
    if (
        not finite
        or any(math.isinf(each) for each in resources[-4:])
        or max(counts) > LARGEST_BYTES
    ):
        raise WireError("meter")
    timings = np.frombuffer(payload, TIMINGS, offset=RESOURCES.size).reshape(-1, TIMINGS_A_ROW)
    return resources, timings.astype(np.uint32)
