"""The frames that cross the link: a fixed little-endian header, then the payload. Nothing here trusts the sender."""

from __future__ import annotations

import json
import math
import struct
import zlib
from enum import IntEnum
from typing import Any, NamedTuple, Union

import numpy as np
from numpy.typing import NDArray

MAGIC = b"SDEH"
PROTOCOL = 1
HEADER = struct.Struct("<4sBBHIIHHIII")  # magic, protocol, the eight fields of Header, CRC-32
CRC = struct.Struct("<I")
CRC_AT = HEADER.size - CRC.size
ZERO_CRC = bytes(CRC.size)
EMPTY = memoryview(b"")

Buffer = Union[bytes, bytearray, memoryview, NDArray[Any]]


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
    FEATURES = 6
    ACTIONS = 7
    METER = 8
    BYE = 9


KINDS = {int(kind): kind for kind in Kind}


class Header(NamedTuple):
    """The header's fields in wire order. `length` (of the payload, bytes) is filled in by packing."""

    kind: Kind
    agent: int = 0
    run_id: int = 0
    step: int = 0
    slot: int = 0
    environments: int = 0
    version: int = 0
    length: int = 0


def as_bytes(payload: Buffer) -> memoryview:
    """A flat view of the payload's bytes. Raises TypeError if it is not C-contiguous."""
    view = payload.data if isinstance(payload, np.ndarray) else memoryview(payload)
    if view.nbytes == 0:
        return EMPTY
    return view.cast("B")


def pack_into(frame: memoryview, header: Header, payload: bytes | memoryview) -> int:
    """Writes the frame of `header` and the flat `payload` to the start of `frame`; returns its size in bytes.

    Raises ValueError if `frame` is too small and struct.error if a field does not fit its width.
    """
    length = len(payload)
    total = HEADER.size + length
    if total > len(frame):
        raise ValueError(f"a frame of {total} bytes does not fit a buffer of {len(frame)}")
    kind, agent, run_id, step, slot, environments, version, _ = header
    HEADER.pack_into(frame, 0, MAGIC, PROTOCOL, kind, agent, run_id, step, slot, environments, version, length, 0)
    frame[HEADER.size : total] = payload
    CRC.pack_into(frame, CRC_AT, zlib.crc32(frame[:total]))
    return total


def unpack(frame: memoryview, run_id: int | None) -> tuple[Header, memoryview]:
    """Checks a received frame and returns its header and a view of its payload.

    `run_id` None accepts any run (an executor that has not been welcomed yet); a HELLO with run id 0 is always
    accepted, for its sender can't know better. Raises WireError with the reason short, magic, protocol, length, crc,
    kind or run.
    """
    if len(frame) < HEADER.size:
        raise WireError("short")
    magic, protocol, kind, agent, run, step, slot, environments, version, length, crc = HEADER.unpack_from(frame)
    if magic != MAGIC:
        raise WireError("magic")
    if protocol != PROTOCOL:
        raise WireError("protocol")
    payload = frame[HEADER.size :]
    if length != len(payload):
        raise WireError("length")
    if crc != zlib.crc32(payload, zlib.crc32(ZERO_CRC, zlib.crc32(frame[:CRC_AT]))):
        raise WireError("crc")
    if kind not in KINDS:
        raise WireError("kind")
    if run_id is not None and run != run_id and not (kind == Kind.HELLO and run == 0):
        raise WireError("run")
    return Header(KINDS[kind], agent, run, step, slot, environments, version, length), payload


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


class Resources(NamedTuple):
    """What one executor has used since its start: the head of a METER payload, 64 bytes."""

    cpu_s: float
    rss_bytes: int
    peak_rss_bytes: int
    sleep_s: float
    waits: int
    rejected: int
    sent: int
    received: int


RESOURCES = struct.Struct("<dQQdQQQQ")
TIMINGS = np.dtype("<u4")
TIMINGS_A_ROW = 3  # local net, encode, round trip


def pack_meter(resources: Resources, timings: NDArray[np.integer[Any]]) -> bytes:
    """A METER payload. `timings` (k, 3) in ns; what is longer than 4.29 s is sent as that."""
    return RESOURCES.pack(*resources) + np.clip(timings, 0, 2**32 - 1).astype(TIMINGS).tobytes()


def unpack_meter(payload: memoryview) -> tuple[Resources, NDArray[np.uint32]]:
    """The resources and the (k, 3) timings in ns of a METER payload. Raises WireError("meter")."""
    if len(payload) < RESOURCES.size or (len(payload) - RESOURCES.size) % (TIMINGS_A_ROW * TIMINGS.itemsize):
        raise WireError("meter")
    resources = Resources(*RESOURCES.unpack_from(payload))
    if not (math.isfinite(resources.cpu_s) and math.isfinite(resources.sleep_s)):
        raise WireError("meter")
    timings = np.frombuffer(payload, TIMINGS, offset=RESOURCES.size).reshape(-1, TIMINGS_A_ROW)
    return resources, timings.astype(np.uint32)
