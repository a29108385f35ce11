"""An executor acts by its fallback heads while the server is silent, on a clock of the test."""

from __future__ import annotations

import json

import numpy as np
import pytest
import robots
from clock import Clock
from pairs import ACTIONS, Pair
from pools import SHAPE, session_of, weights

from sde_harl.errors import UserError
from sde_harl.executor.serving import serve
from sde_harl.link.loopback import Loopback
from sde_harl.link.wire import Header, Kind, Message, WireError
from sde_harl.policy.inference.fallback_head import fallback_orders
from sde_harl.policy.shapes import FallbackShape
from sde_harl.protocol.session import SessionSpec

WAIT_S = 0.04
HEAD = FallbackShape((3, 2), False, WAIT_S)
SERVERS = np.array([[[3, 4]], [[5, 6]]], np.int32)
"""Actions that no fallback head would choose."""
pytestmark = pytest.mark.usefixtures("fresh_robots")


def heads() -> list[list[np.ndarray]]:
    """They choose (2, 1)."""
    return [[np.zeros((4, 5), np.float32), np.array([0, 0, 1, 0, 1], np.float32)] for _ in range(2)]


def a_pair(sensor: str = "robots:Arm") -> Pair:
    pair = Pair(sensor, fallback_head=HEAD)
    pair.pool.publish(1, [net + head for net, head in zip(weights(), heads())], [])
    pair.server.flush(1.0)
    return pair


def did() -> list[list[int]]:
    """Returns what the first agent has done."""
    return [action.tolist() for action in robots.Arm.made[0].did]


def looks() -> int:
    return robots.Arm.made[0].looks


def later(pair: Pair, clock: Clock, waits: float) -> None:
    clock.move(waits * WAIT_S)
    pair.executor.act_if_due()


def test_it_acts_alone_until_the_server_speaks_and_drops_what_comes_late(clock: Clock) -> None:
    pair = a_pair()
    later(pair, clock, 100)
    assert not did(), "before its first reading an agent does nothing"
    assert not looks(), "before its first reading an agent does nothing"
    pair.decide(SERVERS)
    assert (did(), looks()) == ([[3, 4]], 1)
    pair.pool.sense(0, 7, np.zeros((2, 1, 5), np.float32))
    pair.pool.latents(0)  # and no answer
    later(pair, clock, 0.99)
    assert len(did()) == 1
    later(pair, clock, 0.02)
    assert (did()[1:], looks()) == ([[2, 1]], 2), "the reading that was sent is acted on"
    later(pair, clock, 0.99)
    assert len(did()) == 2
    later(pair, clock, 0.02)
    assert (did()[2:], looks()) == ([[2, 1]], 3), "a new one"
    pair.pool.act(0, SERVERS, policy_ns=0)
    pair.server.flush(1.0)
    assert len(did()) == 3, "the answer is too late"
    later(pair, clock, 0.99)
    assert len(did()) == 3, "the server has spoken"
    pair.decide(SERVERS)
    assert (did()[3:], looks()) == ([[3, 4]], 4)
    later(pair, clock, 1.01)
    assert (did()[4:], looks()) == ([[2, 1]], 5), "no question comes after the answer"
    _, resources = pair.pool.report()
    assert resources[1].alone == 3
    later(pair, clock, 100)
    assert len(did()) == 5, "the server has something else to do"


def test_the_server_may_leave_an_agent_to_its_exit_head(clock: Clock) -> None:
    pair = a_pair()
    actions = SERVERS.copy()
    actions[0] = fallback_orders((1, 2), continuous=False)
    pair.decide(actions)
    assert [arm.did[0].tolist() for arm in robots.Arm.made] == [[2, 1], [5]]
    _, resources = pair.pool.report()
    assert resources[1].alone == 0, "it was told to"


def test_rank_0_leaves_it_to_whoever_has_actuators() -> None:
    obs, available = np.zeros((2, 1, 5), np.float32), np.ones((2, 1, 5), bool)
    assert (a_pair().pool.fallback_actions(obs, available) == -1).all()
    pair = Pair("none", actions=None, fallback_head=HEAD)
    pair.pool.publish(1, [net + head for net, head in zip(weights(), heads())], [])
    assert pair.pool.fallback_actions(obs, available).tolist() == [[[2, 1]]] * 2
    floats = fallback_orders((2, 1, 3), continuous=True)
    assert floats.dtype == np.float32
    assert np.isnan(floats).all()


def test_actions_of_another_length_are_not_done(clock: Clock) -> None:
    pair = a_pair()
    pair.pool.sense(0, 7, np.zeros((2, 1, 5), np.float32))
    pair.pool.latents(0)
    pair.server.send(1, Header(kind=Kind.ACTIONS), bytes(12))
    with pytest.raises(WireError):
        pair.server.flush(1.0)
    assert not did()


def test_a_sensor_that_fails_while_it_is_alone_is_told_and_ends_it(clock: Clock) -> None:
    pair = a_pair("robots:Worn")
    for _ in range(2):
        pair.decide(SERVERS)
    for _ in range(5):
        later(pair, clock, 1.01)
    assert len(did()) == 3, "agent 1 sees three times"
    with pytest.raises(
        UserError,
        match=r"executor 1 \(.+\): executor.sensor: robots:Worn: read\(\) of agent 1: OSError",
    ):
        pair.pool.report()


def test_a_welcome_tells_of_exit_heads() -> None:
    welcome = session_of(
        SHAPE,
        run_id=1,
        agents=(0, 2),
        codec="int8",
        frame_bytes=9,
        actions=ACTIONS,
        fallback_head=HEAD,
    )
    assert SessionSpec.from_json(memoryview(welcome.to_json())) == welcome
    wrong = json.loads(welcome.to_json()) | {"fallback_head": {"branches": [3]}}
    with pytest.raises(WireError):
        SessionSpec.from_json(memoryview(json.dumps(wrong).encode()))


def test_serving_waits_no_longer_than_that(clock: Clock) -> None:
    """The server hangs after its first question; every wait of the executor lets time pass."""
    server, far = Loopback.pair()
    server.run_id, waited = 9, list[float]()

    def wait(timeout_s: float) -> list[Message]:
        waited.append(timeout_s)
        messages = far.poll()
        if not messages:
            clock.move(min(timeout_s, 1.0))
        if len(waited) == 12:
            server.send(1, Header(kind=Kind.BYE))
        return messages

    far.wait = wait  # type: ignore[method-assign]
    session = session_of(SHAPE, run_id=9, frame_bytes=1 << 16, actions=ACTIONS, fallback_head=HEAD)
    server.send(1, Header(kind=Kind.WELCOME), session.to_json())
    published = [net + head for net, head in zip(weights(), heads())]
    flat = np.concatenate([np.stack(arrays).ravel() for arrays in zip(*published)])
    server.send(1, Header(kind=Kind.WEIGHTS, version=1), flat.tobytes())
    server.send(1, Header(kind=Kind.SENSOR, step=0, environments=1, version=1))
    serve(far, "robots:Arm", 3600.0)
    assert waited[:3] == [3600.0] * 3
    assert waited[3:] == pytest.approx([WAIT_S] * 10)
    assert did() == [[2, 1]] * 9
    assert looks() == 9
    assert robots.Arm.made[0].closed == 1
