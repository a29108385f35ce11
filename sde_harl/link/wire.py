"""The frames that cross the link: a little-endian header, the payload, a CRC-32.

Nothing here trusts the sender.

frames.c makes and checks the bytes, and its first comment shows their layout:

    frame_of(header, payload) -> bytes
        Builds the frame of a header and a payload. Raises OverflowError where a field doesn't fit.
    seal(frame, header)
        Writes a header and the CRC around the payload that a Frame's data holds.
    unpack(source, frame, run_id) -> Message
        Checks a received frame. `run_id` None accepts any run: an executor does not know its run
        before the WELCOME. A HELLO with run id 0 is always accepted, for the same reason. Raises
        WireError with the reason short, magic, protocol, length, crc, kind or run.
"""

from __future__ import annotations

from enum import IntEnum
from typing import Any, NamedTuple, Tuple
from zlib import crc32

from sde_harl.link import _frames
from sde_harl.link._frames import frame_of, seal, unpack
from sde_harl.outside.text import strict_json

__all__ = ["frame_of", "seal", "unpack"]  # and what is defined here

HEADER_BYTES = 28
OVERHEAD = HEADER_BYTES + 4
"""Bytes of a frame beside its payload: header and CRC."""
LARGEST_JSON = 65536

Fields = Tuple[int, int, int, int, int, int, int]
"""The numbers of a header, in wire order."""


class WireError(ValueError):
    """A frame or payload that must not be acted on; `reason` is a slug for the fault counters."""

    def __init__(self, reason: str) -> None:
        super().__init__(reason)
        self.reason = reason


class Kind(IntEnum):
    """The kinds of frames; docs/architecture.md describes the payloads."""

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
    PLAY = 11
    PLAYED = 12
    SHARD = 13
    LEARN = 14


_new_tuple = tuple.__new__


class Header(NamedTuple):
    """Describes a frame's payload; the fields are in wire order."""

    kind: Kind
    agent: int = 0
    run_id: int = 0
    """The transport that sends the frame fills it in."""
    step: int = 0
    """Number of the decision in its slot; of a METER, number of the report."""
    slot: int = 0
    environments: int = 0
    """Rows of the payload."""
    version: int = 0
    """Version of the published model that the payload was made with."""

    def answer(self, kind: Kind, agent: int) -> Header:
        """Returns the header of an answer to this one: the same run, step, slot, rows and model."""
        # Not by keyword, which takes three times as long: an executor makes one for every answer.
        fields = (
            kind,
            agent,
            self.run_id,
            self.step,
            self.slot,
            self.environments,
            self.version,
        )
        return _new_tuple(Header, fields)

    def in_run(self, run_id: int) -> Fields:
        """Returns the fields with a run's id, for `frame_of` and `seal`."""
        # A plain tuple, which takes a quarter of the time of another Header.
        return (
            self.kind,
            self.agent,
            run_id,
            self.step,
            self.slot,
            self.environments,
            self.version,
        )


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
    """Returns a frame for a payload of `size` bytes."""
    data = memoryview(bytearray(OVERHEAD + size))
    return Frame(data=data, payload=data[HEADER_BYTES : HEADER_BYTES + size])


# frames.c builds these types itself: calling back into Python for each frame would cost as much as
# the frame.
_frames.use(Message, Header, (None, *Kind), WireError, crc32)


def parse_json(payload: memoryview, limit: int = LARGEST_JSON) -> dict[str, Any]:
    """Returns the JSON object in a payload of at most `limit` bytes; the caller checks its types.

    Raises WireError("json").
    """
    if len(payload) > limit:
        raise WireError("json")
    try:
        value = strict_json(str(payload, "utf-8"))
    except ValueError as error:
        raise WireError("json") from error
    if not isinstance(value, dict):
        raise WireError("json")
    return value
