"""Every number from a device has bounds: what exceeds them is counted like a damaged frame."""

from __future__ import annotations

import json
import math
import struct
from typing import Any

import numpy as np
import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from inbox import AGENT_OF, LATENT, MEMORY, RESOURCES, ROWS, Stage

from sde_harl.codec.plain import LARGEST_LATENT
from sde_harl.link.wire import Header, Kind, WireError, frame_of, parse_json
from sde_harl.meters.energy import Energy
from sde_harl.protocol.hello import Hello, describe_host
from sde_harl.protocol.resources import BOUNDS, MAY_BE_NAN, Resources, pack_meter
from sde_harl.protocol.resources import RESOURCES as LAYOUT
from sde_harl.server import report_collector
from sde_harl.server.action_check import (
    LARGEST_ACTION,
    LARGEST_LOG_DENSITY,
    LARGEST_MEMORY,
    LEAST_LOG_PROB,
)

HONEST = 1
HOSTILE = 2


@pytest.fixture(autouse=True)
def _quick_reports(monkeypatch: pytest.MonkeyPatch) -> None:
    """No report is waited for longer than it takes to look once."""
    monkeypatch.setattr(report_collector, "REPORT_S", 1e-3)


def answer(stage: Stage, rank: int, payload: bytes) -> None:
    stage.inbox.put_message(rank, stage.header(rank), payload)


def faults(stage: Stage) -> list[tuple[int, str]]:
    return [(fault.rank, fault.reason) for fault in stage.pool.faults()]


# ---- latents


def latents_of(codec: str, value: float) -> bytes:
    """A payload of ones, but for one number of another value."""
    if codec == "int8":
        scale = np.full(ROWS, 1 / 127, np.float32)
        scale[1] = value / 127
        return scale.tobytes() + np.full((ROWS, LATENT), 127, np.int8).tobytes()
    values = np.ones((ROWS, LATENT), np.float32)
    values[1, 2] = value
    with np.errstate(over="ignore"):
        return values.astype({"float32": "<f4", "float16": "<f2"}[codec]).tobytes()


@pytest.mark.parametrize("codec", ["float32", "float16", "int8"])
@pytest.mark.parametrize("value", [3e38, -3e38, 70000.0, math.inf, math.nan])
def test_latents_out_of_bounds_are_a_fault_and_nobody_else_notices(
    codec: str, value: float
) -> None:
    stage = Stage(codec)
    answer(stage, HOSTILE, latents_of(codec, value))
    answer(stage, HONEST, stage.right_answer())
    latents = stage.decide()["latents"]
    assert (latents[AGENT_OF[HONEST]] == 1.0).all()
    assert not latents[AGENT_OF[HOSTILE]].any()
    assert faults(stage) == [(HOSTILE, "decode")]


@pytest.mark.parametrize("codec", ["float32", "float16", "int8"])
def test_the_largest_latents_are_taken(codec: str) -> None:
    stage = Stage(codec)
    for rank in AGENT_OF:
        answer(stage, rank, latents_of(codec, float(LARGEST_LATENT)))
    latents = stage.decide()["latents"]
    assert np.abs(latents).max() == pytest.approx(float(LARGEST_LATENT), rel=1e-6)
    assert not faults(stage)


# ---- what devices did


def actions_of(
    stage: Stage, *, action: float = 1, log_prob: float = -1.0, memory: float = 0.5
) -> bytes:
    """A payload in which one number of each kind is as given."""
    numbers = np.frombuffer(stage.right_answer(), np.float32).copy()
    first, second, _ = stage.sizes()
    if stage.continuous:
        numbers[1] = action
    else:
        numbers.view(np.int32)[1] = int(action)
    numbers[first // 4 + 1] = log_prob
    numbers[(first + second) // 4 + 1] = memory
    return numbers.tobytes()


WRONG_NUMBERS = [
    (False, {"log_prob": -200.0}, "log_prob"),
    (False, {"log_prob": 0.5}, "log_prob"),
    (False, {"log_prob": math.nan}, "log_prob"),
    (False, {"log_prob": -math.inf}, "log_prob"),
    (False, {"memory": 1.1}, "memory"),
    (False, {"memory": math.nan}, "memory"),
    (False, {"action": 7}, "action"),
    (True, {"log_prob": -200.0}, "log_prob"),
    (True, {"log_prob": 200.0}, "log_prob"),
    (True, {"log_prob": math.nan}, "log_prob"),
    (True, {"action": 3e38}, "action"),
    (True, {"action": math.nan}, "action"),
    (True, {"memory": -3e38}, "memory"),
]


@pytest.mark.parametrize(("continuous", "wrong", "reason"), WRONG_NUMBERS)
def test_what_no_policy_can_have_done_is_a_fault(
    continuous: bool, wrong: dict[str, float], reason: str
) -> None:
    stage = Stage(continuous=continuous)
    answer(stage, HOSTILE, actions_of(stage, **wrong))
    answer(stage, HONEST, stage.right_answer())
    done = stage.decide()
    agent = AGENT_OF[HONEST]
    assert (done["actions"][agent] == 1).all()
    assert (done["log_probs"][agent] == -1.0).all()
    assert (done["memory"][agent] == 0.5).all()
    assert not done["log_probs"][AGENT_OF[HOSTILE]].any()
    assert faults(stage) == [(HOSTILE, reason)]


@pytest.mark.parametrize("number", [{"action": 1.0}, {"log_prob": -1.0}])
def test_the_padding_of_a_continuous_action_is_0(number: dict[str, float]) -> None:
    """A ratio is learnt from all numbers of an action: one that the agent lacks is no freedom."""
    stage = Stage(continuous=True)
    stage.available[AGENT_OF[HOSTILE], :, 1] = False
    padded = np.zeros((ROWS, 2), np.float32)
    padded[:, 0] = -1.0
    right = padded.tobytes() * 2 + bytes(4 * ROWS * MEMORY)
    wrong = np.frombuffer(right, np.float32).copy()
    wrong[1 if "action" in number else ROWS * 2 + 1] = next(iter(number.values()))
    answer(stage, HOSTILE, wrong.tobytes())
    answer(stage, HOSTILE, right)
    answer(stage, HONEST, stage.right_answer())
    done = stage.decide()
    assert (done["actions"][AGENT_OF[HOSTILE]] == padded).all()
    assert faults(stage) == [(HOSTILE, next(iter(number)))]


# ---- reports and greetings


def test_every_field_of_a_report_has_bounds() -> None:
    assert set(BOUNDS) == set(Resources._fields)
    assert set(MAY_BE_NAN) < set(BOUNDS)


FLOAT_FIELDS = ("cpu_s", "sleep_s", *MAY_BE_NAN)
BEYOND = [(name, 4.0 * BOUNDS[name][1]) for name in Resources._fields]
BEYOND += [(name, 4.0 * BOUNDS[name][0] - 1) for name in FLOAT_FIELDS]
BEYOND += [(name, math.inf) for name in FLOAT_FIELDS]
BEYOND += [("cpu_s", math.nan), ("sleep_s", math.nan)]


@pytest.mark.parametrize(("name", "value"), BEYOND)
def test_a_report_out_of_bounds_is_a_fault(name: str, value: float) -> None:
    stage = Stage()
    if name not in FLOAT_FIELDS:
        value = int(value)
    wrong = pack_meter(RESOURCES._replace(**{name: value}), np.zeros((0, 3), np.int64))
    stage.inbox.put_message(HOSTILE, Header(kind=Kind.METER, step=1), wrong)
    assert set(stage.report(HONEST)) == {HONEST}
    assert faults(stage) == [(HOSTILE, "meter")]


@pytest.mark.parametrize(
    "wrong",
    [
        {"cores": 0},
        {"cores": -1},
        {"cores": 10**30},
        {"pid": 2**40},
        {"host": ""},
        {"host": "a\x1b[2J"},
        {"host": "a\nb"},
        {"host": "h" * 257},
        {"arch": "\u202egpj"},
    ],
)
def test_a_greeting_is_printable_and_short(wrong: dict[str, Any]) -> None:
    hello = {**describe_host(Energy())._asdict(), **wrong}
    with pytest.raises(WireError, match="hello"):
        Hello.from_json(memoryview(json.dumps(hello).encode()))


def test_an_honest_host_is_greeted_whatever_its_drivers_say() -> None:
    energy = Energy()
    energy.gpu_scope = "NVML:\n\tnot\x1b found" + "." * 500
    hello = describe_host(energy)
    assert Hello.from_json(memoryview(hello.to_json())) == hello


@pytest.mark.parametrize(
    "text", ['{"a": 1, "a": 2}', '{"a": {"b": 1, "b": 1}}', '{"a": [{"b": 1, "b": 1}]}']
)
def test_a_name_that_comes_twice_is_no_json_of_ours(text: str) -> None:
    with pytest.raises(WireError, match="json"):
        parse_json(memoryview(text.encode()))


# ---- anything at all

EXTREMES = [0.0, 1.0, -1.0, 3e38, -3e38, 65504.0, 7e4, -200.0, -31.0, -33.0, 1e6, 2e6]
COUNTS = st.integers(0, 2**64 - 1) | st.integers(0, 9)
FLOATS = st.one_of(st.sampled_from([*EXTREMES, math.inf, -math.inf, math.nan]), st.floats(width=32))
FIELDS = st.integers(0, 2**16 - 1) | st.integers(0, 2)


def numbers(each: st.SearchStrategy[Any], count: int, kind: str) -> st.SearchStrategy[bytes]:
    """Numbers as they lie on the wire; `kind` as in the module struct."""
    return st.lists(each, min_size=count, max_size=count).map(
        lambda values: struct.pack(f"<{count}{kind}", *values)
    )


@st.composite
def payloads(draw: st.DrawFn, sizes: tuple[int, ...]) -> bytes:
    """Answers of the right size, with any numbers in some of their parts; or any bytes."""
    if draw(st.booleans()):
        return draw(st.binary(max_size=200))
    parts = []
    for size in sizes:
        kind = draw(st.sampled_from(["floats", "choices", "bytes"]))
        if kind == "floats" and size % 4 == 0:
            parts.append(draw(numbers(FLOATS, size // 4, "f")))
        elif kind == "choices" and size % 4 == 0:
            parts.append(draw(numbers(st.integers(-1, 3), size // 4, "i")))
        else:
            parts.append(draw(st.binary(min_size=size, max_size=size)))
    return b"".join(parts)


@st.composite
def meters(draw: st.DrawFn) -> bytes:
    """Reports with any number in any field."""
    values = [
        draw(st.floats())
        if type(value) is float
        else draw(st.integers(-(2**63), 2**63 - 1) if name.startswith("carried") else COUNTS)
        for name, value in RESOURCES._asdict().items()
    ]
    return LAYOUT.pack(*values) + draw(st.binary(max_size=36))


@st.composite
def hostile_frames(draw: st.DrawFn, stage: Stage) -> bytes:
    """Any bytes; or a frame with the right CRC, some right fields and any payload; or damaged."""
    if draw(st.integers(0, 4)) == 0:
        return draw(st.binary(max_size=200))
    right = stage.header(HOSTILE)
    # A BYE is a way to leave, no attack.
    kind = draw(st.sampled_from([right.kind, Kind.METER, *(k for k in Kind if k is not Kind.BYE)]))
    if kind is Kind.METER:
        right = right._replace(step=1)
    fields = right._replace(kind=kind)
    if draw(st.booleans()):
        name = draw(st.sampled_from(["agent", "step", "slot", "environments", "version"]))
        fields = fields._replace(**{name: draw(FIELDS)})
    payload = draw(payloads(stage.sizes()))
    if kind is Kind.METER and draw(st.booleans()):
        payload = draw(meters())
    frame = bytearray(frame_of(fields.in_run(stage.inbox.run_id or 0), payload))
    if draw(st.integers(0, 3)) == 0:
        at = draw(st.integers(0, len(frame) - 1))
        frame[at] ^= draw(st.integers(1, 255))
    return bytes(frame)


def check_anything_goes(data: st.DataObject, stage: Stage) -> None:
    """Checks that hostile frames are counted or taken within bounds, whatever is in them."""
    sent = put_hostile(data, stage)
    answer(stage, HONEST, stage.right_answer())
    check_rows(stage, stage.decide())
    sent += put_hostile(data, stage)
    check_report(stage.report(HONEST))
    taken = stage.pool._parts.receiver.hosts.keys() | {HONEST}
    assert taken == set(AGENT_OF)
    wrong = [fault for fault in stage.pool.faults() if fault.reason != "absent"]
    assert {fault.rank for fault in wrong} <= {HOSTILE}
    # Two of them may be right: the answer, and the report.
    assert len(wrong) >= sent - 2
    # The next decision is as good.
    assert stage.pool.version == 1
    # The hostile one may be, where this machine stood still for a second.
    assert stage.inbox.absent <= {HOSTILE}


def put_hostile(data: st.DataObject, stage: Stage) -> int:
    """Lets some hostile frames arrive; returns how many."""
    count = data.draw(st.integers(0, 3))
    for _ in range(count):
        stage.inbox.put(HOSTILE, data.draw(hostile_frames(stage)))
    return count


def check_rows(stage: Stage, made: dict[str, np.ndarray]) -> None:
    """Checks that the honest executor's rows are as sent, and the other's within bounds."""
    agent = AGENT_OF[HONEST]
    if stage.continuous is None:
        assert (made["latents"][agent] == 1.0).all()
        # An int8's step of -128 is 1/127 beyond.
        assert (np.abs(made["latents"]) <= LARGEST_LATENT * 1.01).all()
        return
    assert (made["actions"][agent] == 1).all()
    assert (made["log_probs"][agent] == -1.0).all()
    assert (made["memory"][agent] == 0.5).all()
    most = LARGEST_LOG_DENSITY if stage.continuous else 0.0
    assert ((made["log_probs"] >= LEAST_LOG_PROB) & (made["log_probs"] <= most)).all()
    assert (np.abs(made["memory"]) <= LARGEST_MEMORY).all()
    if stage.continuous:
        assert (np.abs(made["actions"]) <= LARGEST_ACTION).all()
    else:
        assert ((made["actions"] >= 0) & (made["actions"] < (3, 2))).all()


def check_report(resources: dict[int, Resources]) -> None:
    assert resources[HONEST].rss_bytes == 1
    for each in resources.values():
        for name, value in each._asdict().items():
            low, high = BOUNDS[name]
            assert low <= value <= high or (name in MAY_BE_NAN and math.isnan(value))


STAGES = [("float32", None), ("float16", None), ("int8", None), ("none", False), ("none", True)]
UNHURRIED = [HealthCheck.too_slow, HealthCheck.function_scoped_fixture]


@pytest.mark.parametrize(("codec", "continuous"), STAGES)
@settings(max_examples=60, deadline=None, suppress_health_check=UNHURRIED)
@given(data=st.data())
def test_nothing_that_a_device_sends_reaches_another(
    data: st.DataObject, codec: str, continuous: bool | None
) -> None:
    check_anything_goes(data, Stage(codec, continuous))


@pytest.mark.slow
@pytest.mark.parametrize(("codec", "continuous"), STAGES)
@settings(max_examples=1000, deadline=None, suppress_health_check=UNHURRIED)
@given(data=st.data())
def test_nothing_that_a_device_sends_reaches_another_however_long_it_tries(
    data: st.DataObject, codec: str, continuous: bool | None
) -> None:
    check_anything_goes(data, Stage(codec, continuous))
