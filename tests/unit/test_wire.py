"""The wire's bytes, and that nothing but whole frames of this run gets through."""

from __future__ import annotations

import json
import math
import zlib

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from sde_harl.link.wire import (
    Header,
    Kind,
    WireError,
    frame_of,
    new_frame,
    parse_json,
    seal,
    unpack,
)
from sde_harl.protocol.resources import Resources, pack_meter, unpack_meter

RUN = 0x0A0B0C0D
HEADERS = st.builds(
    Header,
    kind=st.sampled_from(Kind),
    agent=st.integers(0, 2**16 - 1),
    run_id=st.just(RUN),
    step=st.integers(0, 2**32 - 1),
    slot=st.integers(0, 2**16 - 1),
    environments=st.integers(0, 2**16 - 1),
    version=st.integers(0, 2**32 - 1),
)


def reason_of(frame: bytes, run_id: int | None = RUN) -> str:
    with pytest.raises(WireError) as caught:
        unpack(3, memoryview(frame), run_id)
    return caught.value.reason


def with_crc(frame: bytearray) -> bytes:
    """The frame with its CRC made right, computed here the way the documentation says it."""
    return bytes(frame[:-4]) + crc32_bitwise(bytes(frame[:-4])).to_bytes(4, "little")


def crc32_bitwise(data: bytes) -> int:
    crc = 0xFFFFFFFF
    for byte in data:
        crc ^= byte
        for _ in range(8):
            crc = (crc >> 1) ^ (0xEDB88320 if crc & 1 else 0)
    return crc ^ 0xFFFFFFFF


def test_golden_bytes() -> None:
    header = Header(
        Kind.LATENTS, agent=7, run_id=RUN, step=1000, slot=1, environments=32, version=9
    )
    golden = "53444548070607000d0c0b0ae8030000010020000900000003000000616263f92f249c"
    assert frame_of(header, b"abc").hex() == golden
    assert crc32_bitwise(bytes.fromhex(golden[:-8])).to_bytes(4, "little").hex() == golden[-8:]


def test_kinds_keep_their_numbers() -> None:
    names = "HELLO WELCOME WEIGHTS TABLES SENSOR LATENTS ACTIONS METER BYE DEVICE_ACTIONS"
    names += " PLAY PLAYED SHARD LEARN"
    assert {kind.name: kind.value for kind in Kind} == {
        name: i + 1 for i, name in enumerate(names.split())
    }


@given(HEADERS, st.binary(max_size=300))
def test_round_trip(header: Header, payload: bytes) -> None:
    source, got, body = unpack(3, memoryview(frame_of(header, payload)), RUN)
    assert source == 3
    assert got == header
    assert isinstance(got.kind, Kind)
    assert body == payload


@given(st.binary(max_size=200))
def test_random_bytes_are_refused(noise: bytes) -> None:
    reason_of(noise)
    reason_of(noise, None)


@given(HEADERS, st.binary(max_size=100), st.data())
def test_a_truncated_frame_is_refused(header: Header, payload: bytes, data: st.DataObject) -> None:
    frame = frame_of(header, payload)
    assert reason_of(frame[: data.draw(st.integers(0, len(frame) - 1))]) in {"short", "length"}
    assert reason_of(frame + b"\0") == "length"


@given(HEADERS, st.binary(max_size=100), st.data())
def test_a_flipped_bit_is_refused(header: Header, payload: bytes, data: st.DataObject) -> None:
    frame = bytearray(frame_of(header, payload))
    bit = data.draw(st.integers(0, len(frame) * 8 - 1))
    frame[bit // 8] ^= 1 << bit % 8
    assert reason_of(bytes(frame)) in {"magic", "protocol", "length", "crc"}


@pytest.mark.parametrize(
    ("at", "value", "reason"),
    [
        (0, 0, "magic"),
        (4, 1, "protocol"),
        (5, 0, "kind"),
        (5, 15, "kind"),
        (8, 0, "run"),
        (24, 4, "length"),
    ],
)
def test_reasons(at: int, value: int, reason: str) -> None:
    frame = bytearray(frame_of(Header(Kind.SENSOR, run_id=RUN), b"xyz"))
    frame[at] = value
    assert reason_of(with_crc(frame)) == reason


def test_the_run_is_checked_once_it_is_known() -> None:
    frame = frame_of(Header(Kind.SENSOR, run_id=5), b"")
    assert reason_of(frame, 6) == "run"
    assert unpack(3, memoryview(frame), None).header.run_id == 5
    assert unpack(3, memoryview(frame_of(Header(Kind.HELLO), b"")), 6).header.kind is Kind.HELLO
    assert reason_of(frame_of(Header(Kind.LATENTS), b""), 6) == "run"
    assert reason_of(frame_of(Header(Kind.HELLO, run_id=5), b""), 6) == "run"


def test_a_field_that_does_not_fit_is_an_error() -> None:
    for wrong in ({"agent": 1 << 16}, {"step": 1 << 32}, {"slot": -1}):
        with pytest.raises(OverflowError):
            frame_of(Header(Kind.SENSOR, **wrong), b"")
    with pytest.raises(TypeError):
        frame_of((1, 2, 3), b"")  # type: ignore[arg-type]


@given(HEADERS, st.binary(max_size=100))
def test_a_frame_written_in_place_is_the_same_frame(header: Header, payload: bytes) -> None:
    frame = new_frame(len(payload))
    frame.payload[:] = payload
    seal(frame.data, header)
    assert frame.data == frame_of(header, payload)


@settings(deadline=None)
@given(st.integers(0, 5000), st.integers(0, 15), st.integers(0, 99))
def test_the_crc_of_long_frames_is_zlibs(size: int, shift: int, seed: int) -> None:
    """Long frames take another way through the processor, in blocks that don't fit here."""
    payload = np.random.default_rng(seed).bytes(size + shift)[shift:]
    frame = frame_of(Header(Kind.SENSOR, run_id=RUN), payload)
    assert int.from_bytes(frame[-4:], "little") == zlib.crc32(frame[:-4])
    shifted = memoryview(bytes(shift) + frame)[shift:]
    assert unpack(0, shifted, RUN).payload == payload


def test_what_can_hold_no_frame_is_not_sealed() -> None:
    with pytest.raises(ValueError, match="32 bytes"):
        seal(memoryview(bytearray(31)), Header(Kind.BYE))


def test_json() -> None:
    assert parse_json(memoryview(b'{"agents": [1, 2]}')) == {"agents": [1, 2]}
    long = json.dumps({"a": "x" * 100}).encode()
    for bad in (b"", b"[]", b"{", b"\xff", b'{"a": NaN}', b'{"a": Infinity}', b"[" * 50000, long):
        with pytest.raises(WireError, match="json"):
            parse_json(memoryview(bad), 100 if bad is long else 65536)


@given(st.binary(max_size=200))
def test_json_noise(noise: bytes) -> None:
    try:
        found: object = parse_json(memoryview(noise))
    except WireError as error:
        found = error.reason
    assert isinstance(found, dict) or found == "json"


def test_meter() -> None:
    used = Resources(1.5, 80 << 20, 90 << 20, 0.25, 7, 1, 4, 100, 101, 2**40, 3, 4, -1, -1, 5)
    timings = np.array([[1, 2, 3], [4, 5, 2**40]])
    payload = pack_meter(used, timings)
    assert len(payload) == 152 + 2 * 12
    got, nanoseconds = unpack_meter(memoryview(payload))
    assert got[:-4] == used[:-4]
    assert np.isnan(got[-4:]).all()  # no sensor
    assert unpack_meter(memoryview(pack_meter(used._replace(joules=2.5), timings)))[0].joules == 2.5
    assert nanoseconds.tolist() == [[1, 2, 3], [4, 5, 2**32 - 1]]
    assert unpack_meter(memoryview(pack_meter(used, timings[:0])))[1].shape == (0, 3)


NO_TIMES = np.zeros((1, 3), int)
BAD_METERS = [pack_meter(Resources(math.nan, *[0] * 14), NO_TIMES)]
BAD_METERS += [pack_meter(Resources(*[0] * 15, joules=-math.inf), NO_TIMES)]
BAD_METERS += [pack_meter(Resources(0.0, 2**63, *[0] * 13), NO_TIMES)]  # more than run.h5 can hold
BAD_METERS += [pack_meter(Resources(*[0] * 6, 2**63, *[0] * 8), NO_TIMES)]
BAD_METERS += [pack_meter(Resources(*[0] * 10, 2**63, *[0] * 4), NO_TIMES)]


@pytest.mark.parametrize("payload", [b"", bytes(143), bytes(145), bytes(148), *BAD_METERS])
def test_a_bad_meter_is_refused(payload: bytes) -> None:
    with pytest.raises(WireError, match="meter"):
        unpack_meter(memoryview(payload))
