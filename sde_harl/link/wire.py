"""The frames that cross the link: a little-endian header, the payload, a CRC-32. Nothing here trusts the sender."""

from __future__ import annotations

import json
import math
import struct
from enum import IntEnum
from typing import Any, NamedTuple
from zlib import crc32

import numpy as np
from numpy.typing import NDArray

MAGIC = b"SDEH"
PROTOCOL = 2
HEADER = struct.Struct("<4sBBHIIHHII")  # magic, protocol, the seven fields of Header, the payload's length
CRC = struct.Struct("<I")
WHOLE = 0x2144DF1C  # the CRC-32 of anything that ends with its own CRC-32
_new = tuple.__new__
OVERHEAD = HEADER.size + CRC.size  # bytes of a frame beside its payload


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
    """What a frame says of its payload, in wire order."""

    kind: Kind
    agent: int = 0
    run_id: int = 0
    step: int = 0
    slot: int = 0
    environments: int = 0
    version: int = 0


def frame_of(header: tuple[int, int, int, int, int, int, int], payload: bytes) -> bytes:
    """The frame of a Header's fields and a payload. Raises struct.error if a field does not fit its width."""
    head = HEADER.pack(MAGIC, PROTOCOL, *header, len(payload))
    return b"".join((head, payload, CRC.pack(crc32(payload, crc32(head)))))


class Frame:
    """A frame whose payload is written in place, to be sealed and sent again and again."""

    def __init__(self, size: int) -> None:
        self.data = memoryview(bytearray(OVERHEAD + size))
        self.payload = self.data[HEADER.size : -CRC.size]
        self._size, self._covered = size, self.data[: -CRC.size]

    def seal(self, header: tuple[int, int, int, int, int, int, int]) -> None:
        """Write a Header's fields and the CRC around the payload as it is now."""
        HEADER.pack_into(self.data, 0, MAGIC, PROTOCOL, *header, self._size)
        CRC.pack_into(self.data, HEADER.size + self._size, crc32(self._covered))


def unpack(frame: memoryview, run_id: int | None) -> tuple[Header, memoryview]:
    """Checks a received frame and returns its header and a view of its payload.

    `run_id` None accepts any run (an executor that has not been welcomed yet); a HELLO with run id 0 is always
    accepted, for its sender can't know better. Raises WireError with the reason short, magic, protocol, length, crc,
    kind or run.
    """
    size = len(frame)
    if size < OVERHEAD:
        raise WireError("short")
    magic, protocol, kind, agent, run, step, slot, environments, version, length = HEADER.unpack_from(frame)
    if magic != MAGIC:
        raise WireError("magic")
    if protocol != PROTOCOL:
        raise WireError("protocol")
    if length != size - OVERHEAD:
        raise WireError("length")
    if crc32(frame) != WHOLE:
        raise WireError("crc")
    if kind not in KINDS:
        raise WireError("kind")
    if run != run_id and run_id is not None and not (kind == Kind.HELLO and run == 0):
        raise WireError("run")
    # tuple.__new__: what Header(...) does, without its Python function, which is half of this one's time
    header = _new(Header, (KINDS[kind], agent, run, step, slot, environments, version))
    return header, frame[HEADER.size : -CRC.size]


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
