"""The server's side of the wire: only messages whose every field is right are acted on."""

from __future__ import annotations

import json

import numpy as np
import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from pools import ROWS, SHAPE, send_latents, session_of, settings_of, weights

from sde_harl.errors import UserError
from sde_harl.executor.executor import Executor
from sde_harl.link.loopback import Loopback
from sde_harl.link.transport import Transport
from sde_harl.link.wire import Header, Kind
from sde_harl.meters.energy import Energy
from sde_harl.policy.shapes import (
    LocalShape,
    OnDeviceShape,
    local_parameter_shapes,
    on_device_parameter_shapes,
)
from sde_harl.protocol.actions import NO_LATENT
from sde_harl.protocol.hello import describe_host
from sde_harl.protocol.requests import ActRequest
from sde_harl.server import membership
from sde_harl.server.assignment import assign_agents
from sde_harl.server.executor_pool import ExecutorPool

MEMORY = 4
OBS = np.zeros((2, ROWS, 5), np.float32)


def act_request(
    available: np.ndarray,
    greedy: bool,
    begins: list[bool] | None = None,
    send_memory: bool = False,
) -> ActRequest:
    return ActRequest(
        available=available,
        begins=np.array(begins or [True] * ROWS),
        greedy=greedy,
        send_memory=send_memory,
    )


def start(
    codec: str = "float32", failure_timeout_s: float = 5.0
) -> tuple[ExecutorPool, Loopback, Transport, Executor]:
    server, far = Loopback.pair()
    executor = Executor(far)

    def step() -> None:
        for message in far.poll():
            executor.handle(message)

    server.attach(step)
    settings = settings_of(rows=ROWS, failure_timeout_s=failure_timeout_s)
    pool = ExecutorPool(server, session_of(SHAPE, codec=codec), settings)
    pool.handshake()
    pool.publish(1, weights(), [])
    step()  # the welcome has told the run's number
    return pool, server, far, executor


def answer_header(kind: Kind, agent: int) -> Header:
    """The header of an agent's right answer to the first decision of slot 0."""
    return Header(kind=kind, agent=agent, step=0, slot=0, environments=ROWS, version=1)


WRONG = {
    "stale version": ({"version": 0}, "version"),
    "future version": ({"version": 2}, "version"),
    "another's agent": ({"agent": 2}, "agent"),
    "no such slot": ({"slot": 9}, "agent"),
    "another slot": ({"slot": 1}, "step"),
    "old step": ({"step": 2**32 - 1}, "step"),
    "rows": ({"environments": ROWS + 1}, "step"),
}


@pytest.mark.parametrize("case", WRONG)
def test_latents_with_a_wrong_field_are_counted_and_not_used(case: str) -> None:
    wrong, reason = WRONG[case]
    pool, _server, far, _ = start()
    obs = np.random.default_rng(1).normal(size=(2, ROWS, 5)).astype(np.float32)
    pool.sense(0, 7, obs)
    send_latents(far, **wrong)
    latents = pool.latents(0).values
    assert not (latents == 99.0).any()
    assert [(fault.rank, fault.reason) for fault in pool.faults()] == [(1, reason)]


def start_on_device(
    agents: int = 2, memory: int = MEMORY, **more: float | bool
) -> tuple[ExecutorPool, Loopback, Transport]:
    """A pool of one device that decides for itself."""
    server, far = Loopback.pair()
    executor = Executor(far)
    shape = LocalShape((5,) * agents, 5, 8, 8, 1, True)
    on_device = OnDeviceShape((3, 2), False, 1, memory)
    settings = settings_of(rows=ROWS, failure_timeout_s=0.2, action_size=2)._replace(**more)

    def step() -> None:
        for message in far.poll():
            executor.handle(message)

    server.attach(step)
    session = session_of(shape, codec="none", on_device=on_device)
    pool = ExecutorPool(server, session, settings)
    pool.handshake()
    rng = np.random.default_rng(0)
    shapes = [*local_parameter_shapes(shape), *on_device_parameter_shapes(shape, on_device)]
    pool.publish(
        1,
        [[rng.normal(size=each[1:]).astype(np.float32) for each in shapes] for _ in range(agents)],
        [],
    )
    step()  # the welcome has told the run's number
    return pool, server, far


@pytest.fixture
def on_device() -> tuple[ExecutorPool, Loopback, Transport]:
    return start_on_device()


def choices(actions: object, log_prob: float = -1.0, memory: float | None = None) -> bytes:
    """A DEVICE_ACTIONS payload of two agents, from what the rows of each did."""
    chosen = np.array(actions, np.int32)
    recalled = np.full((2, ROWS, 0 if memory is None else MEMORY), memory, np.float32)
    return (
        chosen.tobytes()
        + np.full(chosen.shape, log_prob, np.float32).tobytes()
        + recalled.tobytes()
    )


def test_devices_that_run_policies_answer_with_what_they_did(
    on_device: tuple[ExecutorPool, Loopback, Transport],
) -> None:
    pool, _, _ = on_device
    available = np.ones((2, ROWS, 5), bool)
    available[1, :, :2] = available[1, :, 4] = (
        False  # agent 1 may only take 2, and 0 in its second branch
    )
    decision = pool.decide(0, 7, OBS, request=act_request(available, greedy=False))
    assert (decision.actions[1] == [2, 0]).all()
    assert (decision.log_probs[1] == 0.0).all()
    assert (decision.log_probs[0] < 0.0).all()
    assert not pool.faults()


def test_a_device_remembers_until_an_episode_begins_and_apart_where_it_is_greedy(
    on_device: tuple[ExecutorPool, Loopback, Transport],
) -> None:
    pool, _, _ = on_device
    asked = {"available": np.ones((2, ROWS, 5), bool), "send_memory": True}
    assert not pool.decide(0, 1, OBS, request=act_request(**asked, greedy=False)).memory.any()
    first = pool.decide(
        0, 2, OBS, request=act_request(**asked, greedy=False, begins=[False, True, False])
    ).memory
    assert first[:, [0, 2]].all()
    assert not first[:, 1].any()
    assert first.shape == (2, ROWS, MEMORY)
    second = pool.decide(
        0, 3, OBS, request=act_request(**asked, greedy=False, begins=[False] * ROWS)
    ).memory
    assert not np.array_equal(first[:, 0], second[:, 0])
    np.testing.assert_array_equal(
        second[:, 1], first[:, 0]
    )  # one step after its beginning, as row 0 was then
    assert not pool.decide(
        1, 4, OBS, request=act_request(**asked, greedy=False, begins=[False] * ROWS)
    ).memory.any()  # another slot
    pool.decide(0, 5, OBS, request=act_request(**asked, greedy=True))
    kept = pool.decide(
        0, 6, OBS, request=act_request(**asked, greedy=False, begins=[False, True, False])
    ).memory
    assert kept[:, [0, 2]].all()
    assert not kept[:, 1].any()
    assert not pool.faults()


@pytest.mark.parametrize("wrong", [np.nan, np.inf, 1.5])
def test_an_impossible_memory_is_refused(
    on_device: tuple[ExecutorPool, Loopback, Transport], wrong: float
) -> None:
    pool, _, far = on_device
    available = np.ones((2, ROWS, 5), bool)
    far.send(0, answer_header(Kind.DEVICE_ACTIONS, 0), choices(np.ones((2, ROWS, 2)), memory=wrong))
    decision = pool.decide(0, 7, OBS, request=act_request(available, greedy=True, send_memory=True))
    assert {fault.reason for fault in pool.faults()} == {"memory"}
    assert not decision.memory.any()  # the device's own answer, which came later


@pytest.mark.parametrize(
    ("last", "log_prob", "first", "reason"),
    [
        ([3, 0], -1.0, 0, "action"),  # where the second branch begins
        ([-1, 0], -1.0, 0, "action"),
        ([2, 2], -1.0, 0, "action"),  # behind the last choice
        ([0, 0], -1.0, 0, "action"),  # not available
        ([1, 1], np.nan, 0, "log_prob"),
        ([1, 1], -1.0, 1, "agent"),  # an executor's answer is all its agents'
        ([1, 1], -1.0, 2, "agent"),
    ],
)
def test_impossible_choices_are_refused(
    on_device: tuple[ExecutorPool, Loopback, Transport],
    last: list[int],
    log_prob: float,
    first: int,
    reason: str,
) -> None:
    """One number that can't be refuses the message, of the agent that did right too."""
    pool, _server, far = on_device
    available = np.ones((2, ROWS, 5), bool)
    available[1, :, 0] = False
    actions = [[[1, 1]] * ROWS, [[1, 1]] * (ROWS - 1) + [last]]
    far.send(0, answer_header(Kind.DEVICE_ACTIONS, first), choices(actions, log_prob))
    far.send(0, answer_header(Kind.LATENTS, 1), bytes(4))
    decision = pool.decide(0, 7, OBS, request=act_request(available, greedy=True))
    assert {fault.reason for fault in pool.faults()} == {reason, "kind"}
    assert not (
        decision.log_probs[0] == log_prob
    ).any()  # the device's own answer, which came later
    assert np.isin(decision.actions[1, :, 0], (1, 2)).all()


@pytest.mark.parametrize("rows", [ROWS - 1, ROWS + 1])
def test_choices_of_another_length_are_refused(
    on_device: tuple[ExecutorPool, Loopback, Transport], rows: int
) -> None:
    pool, _, far = on_device
    right = choices(np.ones((2, ROWS, 2)))
    for payload in (choices(np.ones((2, rows, 2))), right[:-4], right[:-1], right + bytes(8)):
        far.send(0, answer_header(Kind.DEVICE_ACTIONS, 0), payload)
    pool.decide(0, 7, OBS, request=act_request(np.ones((2, ROWS, 5), bool), greedy=True))
    assert [fault.reason for fault in pool.faults()] == ["length"] * 4


def test_the_bytes_of_one_answer_are_shared_by_its_agents_and_none_is_lost() -> None:
    """Three agents: the header's 32 bytes don't divide evenly."""
    pool, _, far = start_on_device(agents=3)
    before, messages = far.sent_bytes, far.sent[0]
    asked = act_request(np.ones((3, ROWS, 5), bool), greedy=False)
    for step in range(4):
        pool.decide(
            0,
            step,
            np.zeros((3, ROWS, 5), np.float32),
            request=asked._replace(send_memory=step == 2),
        )
    after, count = far.sent_bytes, far.sent[0] - messages
    decisions, _ = pool.report()
    assert count == 4
    assert (decisions.answers == 1).all()
    done, remembered = 8 * 2 * ROWS, 4 * MEMORY * ROWS
    assert decisions.payload_bytes[:, 0].tolist() == [done, done, done + remembered, done]
    assert sorted(pool.overhead) == [10, 11, 11]
    assert (decisions.payload_bytes + pool.overhead * decisions.answers).sum() == after - before
    assert (decisions.device_ns[..., 0] > 0).all()
    assert (decisions.decode_ns > 0).all()


def test_an_answer_that_comes_late_is_late_for_all_its_agents(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    """It is counted, not played; an executor is back when it has sent the answer that it owes."""
    monkeypatch.setattr(membership, "ABSENT_NS", 2_500_000)
    pool, server, _far = start_on_device(
        memory=0, deadline_s=1e-3, failure_timeout_s=5.0, survives_losses=True
    )
    asked = act_request(np.ones((2, ROWS, 5), bool), greedy=False)
    work, server._step = server._step, None
    for step in range(20):
        ages = pool.decide(0, step, OBS, request=asked).ages
        assert ages is not None
        assert (ages == NO_LATENT).all()
    assert pool.absent == [1]
    server._step = work
    pool.decide(0, 20, OBS, request=asked)  # it works off what it was sent
    assert not pool.absent
    assert pool.decide(0, 21, OBS, request=asked).ages is None
    assert [fault.reason for fault in pool.faults()] == ["absent", "back"]
    decisions, _ = pool.report()
    late = int(decisions.late[20, 0])
    assert late
    assert decisions.late[20].tolist() == decisions.answers[20].tolist() == [late, late]
    assert decisions.payload_bytes[20].tolist() == [late * 8 * 2 * ROWS] * 2
    assert decisions.answers[21].tolist() == [1, 1]
    assert decisions.missed[:21].all()
    assert not decisions.missed[21].any()


def test_a_report_may_be_as_long_as_what_it_is_about() -> None:
    """A long evaluation has many decisions: their times don't fit the frames of a decision."""
    pool, _, _, _ = start()
    obs = np.zeros((2, ROWS, 5), np.float32)
    for step in range(3000):
        pool.sense(0, step, obs)
        pool.latents(0)
        pool.act(0, np.zeros((2, ROWS, 1), np.int32), policy_ns=0)
    decisions, _ = pool.report()
    assert (decisions.device_ns > 0).all()
    assert len(decisions.device_ns) == 3000
    assert not pool.faults()


def test_the_first_right_answer_counts_and_a_second_does_not() -> None:
    pool, _server, far, _ = start()
    pool.sense(0, 7, np.zeros((2, ROWS, 5), np.float32))
    send_latents(far)
    latents = pool.latents(0).values
    assert (latents[0] == 99.0).all()
    assert not (latents[1] == 99.0).any()
    assert [fault.reason for fault in pool.faults()] == ["step"]


@settings(max_examples=300, deadline=None, suppress_health_check=[HealthCheck.too_slow])
@given(
    kind=st.sampled_from(sorted({*Kind} - {Kind.BYE})),
    payload=st.binary(max_size=200),
    fields=st.tuples(*[st.integers(0, 5)] * 5),
)
def test_no_message_of_a_device_can_hurt(
    kind: Kind, payload: bytes, fields: tuple[int, ...]
) -> None:
    """But for BYE, with which it takes leave: test_sensors.py."""
    pool, _server, far, _ = start()
    pool.sense(0, 3, np.zeros((2, ROWS, 5), np.float32))
    names = ("agent", "step", "slot", "environments", "version")
    far.send(0, Header(kind=kind, **dict(zip(names, fields))), payload)
    latents = pool.latents(0).values
    assert np.isfinite(latents).all()
    pool.act(0, np.zeros((2, ROWS, 1), np.int32), policy_ns=0)
    decisions, resources = pool.report()
    assert decisions.payload_bytes.shape == (1, 2)
    assert set(resources) == {1}


@pytest.mark.parametrize("change", [{"package": 3}, {"host": None}, {"extra": 1}, {"cores": True}])
def test_a_hello_of_another_shape_is_refused(change: dict[str, object]) -> None:
    server, far = Loopback.pair()
    pool = ExecutorPool(server, session_of(SHAPE), settings_of(failure_timeout_s=0.2))
    hello = {**describe_host(Energy())._asdict(), **change}
    far.send(0, Header(kind=Kind.HELLO), json.dumps(hello).encode())
    with pytest.raises(UserError, match="executor 1"):
        pool.handshake()
    assert [fault.reason for fault in pool.faults()] == ["hello"]


def test_a_silent_executor_is_named_with_its_host() -> None:
    pool, server, _far, _ = start(failure_timeout_s=0.2)
    server.attach(lambda: None)
    pool.sense(0, 1, np.zeros((2, ROWS, 5), np.float32))
    with pytest.raises(UserError, match=describe_host(Energy()).host):
        pool.latents(0)


def test_agents_are_assigned_evenly_and_as_pinned() -> None:
    assert assign_agents(8, 3, {}) == {1: (0, 3, 6), 2: (1, 4, 7), 3: (2, 5)}
    assert assign_agents(4, 2, {0: 2, 1: 2}) == {1: (2, 3), 2: (0, 1)}
    with pytest.raises(UserError, match="-np 4"):
        assign_agents(2, 3, {})
    with pytest.raises(UserError, match=r"placement.assign"):
        assign_agents(2, 1, {5: 1})
    with pytest.raises(UserError, match=r"placement.assign"):
        assign_agents(2, 2, {0: 1, 1: 1})
