"""An executor's failure is its own: the server hears of it, and sensors are let go of."""

from __future__ import annotations

from collections.abc import Callable

import numpy as np
import pytest
import robots
from clock import Clock
from inbox import AGENT_OF, OBS, Stage
from pairs import ACTIONS, Pair
from pools import SHAPE, session_of, weights

from sde_harl import run
from sde_harl.errors import ExitCode, UserError
from sde_harl.executor import executor
from sde_harl.executor.farewell import LONGEST_REASON, Farewell
from sde_harl.executor.serving import serve
from sde_harl.link import mpi
from sde_harl.link.loopback import Loopback
from sde_harl.link.wire import Header, Kind, Message

pytestmark = pytest.mark.usefixtures("fresh_robots")


class Served:
    """An executor's end of a link, whose server says goodbye after a number of empty waits."""

    def __init__(self, clock: Clock, waits: int = 5, reason: bytes = b"") -> None:
        self.server, self.far = Loopback.pair()
        self.server.run_id = 9
        self.waited_s = 0.0

        def wait(timeout_s: float) -> list[Message]:
            nonlocal waits
            messages = self.far.poll()
            if not messages:
                clock.move(min(timeout_s, 1.0))
                self.waited_s += min(timeout_s, 1.0)
                waits -= 1
            if waits == 0:
                self.server.send(1, Header(kind=Kind.BYE), reason)
            return messages

        self.far.wait = wait  # type: ignore[method-assign]
        session = session_of(SHAPE, run_id=9, frame_bytes=1 << 16, actions=ACTIONS)
        self.server.send(1, Header(kind=Kind.WELCOME), session.to_json())
        flat = np.concatenate([np.stack(arrays).ravel() for arrays in zip(*weights())])
        self.server.send(1, Header(kind=Kind.WEIGHTS, version=1), flat.tobytes())
        self.server.send(1, Header(kind=Kind.SENSOR, step=0, environments=1, version=1))

    def reasons(self) -> list[str]:
        """Returns the reasons that the executor has sent."""
        return [
            bytes(message.payload).decode()
            for message in self.server.poll()
            if message.header.kind is Kind.BYE
        ]


def fail(error: BaseException) -> Callable[..., None]:
    def fails(*_: object) -> None:
        raise error

    return fails


FAILURES = [
    RuntimeError("a part\nof this program\x1b[2J is wrong" + "!" * 5000),
    MemoryError(),
    ValueError("not what the server sends"),
    SystemExit(3),
]


@pytest.mark.parametrize("error", FAILURES, ids=lambda error: type(error).__name__)
@pytest.mark.parametrize("what", ["_make_senses", "_report"])
def test_what_an_executor_raises_is_told_to_the_server(
    error: BaseException, what: str, clock: Clock, monkeypatch: pytest.MonkeyPatch
) -> None:
    """It then waits for the run's end, however long that takes."""
    monkeypatch.setattr(executor.Executor, what, fail(error))
    served = Served(clock)
    served.server.send(1, Header(kind=Kind.METER))
    assert serve(served.far, "robots:Arm", idle_s=1.0) == Farewell(reason="", is_killed=False)
    (reason,) = served.reasons()
    assert type(error).__name__ in reason
    assert "test_serving.py:" in reason or len(reason) == LONGEST_REASON
    assert "\n" not in reason
    assert served.waited_s > 1.0
    assert all(arm.closed == 1 for arm in robots.Arm.made)


def test_a_welcome_that_is_none_is_told_to_the_server(clock: Clock) -> None:
    """The server would refuse a goodbye without the run's number."""
    served = Served(clock)
    served.far._inbox.clear()
    served.server.send(1, Header(kind=Kind.WELCOME), b"{}")
    serve(served.far)
    assert served.reasons()[0].startswith("WireError: welcome (")


def test_an_executor_that_can_not_even_begin_says_so(
    clock: Clock, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(executor, "describe_host", fail(OSError("no name")))
    served = Served(clock)
    served.server.run_id = None  # it has met nobody yet
    assert not serve(served.far, "robots:Arm").reason
    (reason,) = served.reasons()
    assert reason.startswith("OSError: no name (")


class Exits(robots.Arm):
    """Ends the program that reads it."""

    def read(self) -> np.ndarray:
        raise SystemExit("bye")


def test_a_sensor_that_exits_is_a_sensor_that_fails(
    clock: Clock, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(robots, "Exits", Exits, raising=False)
    served = Served(clock)
    serve(served.far, "robots:Exits", idle_s=1.0)
    assert "read() of agent 0: SystemExit: bye (" in served.reasons()[0]
    assert [arm.closed for arm in robots.Arm.made] == [1, 1]
    assert served.waited_s > 1.0


def test_the_first_sensor_is_closed_where_the_second_can_not_be_made(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    def second_fails(agent: int) -> robots.Arm:
        if agent == 1:
            raise OSError("not plugged in")
        return robots.Arm(agent)

    monkeypatch.setattr(robots, "SecondFails", second_fails, raising=False)
    pair = Pair("robots:SecondFails")
    with pytest.raises(UserError, match="making agent 1: OSError: not plugged in"):
        pair.pool.report()
    assert [arm.closed for arm in robots.Arm.made] == [1]


def test_a_robot_stands_still_as_soon_as_its_executor_parts() -> None:
    pair = Pair("robots:Worn")
    pair.pool.publish(1, weights(), [])
    idle = np.zeros((2, 1, 2), np.int32)
    for _ in range(3):
        pair.decide(idle)
    with pytest.raises(UserError, match="worn out"):
        pair.decide(idle)
    assert [arm.closed for arm in robots.Arm.made] == [1, 1]


# ---- where nobody else can tell


def join(served: Served, monkeypatch: pytest.MonkeyPatch) -> None:
    """Has the program be rank 1 of a link."""
    monkeypatch.setattr(mpi, "join", lambda: served.far)


@pytest.mark.usefixtures("kept_signals")
def test_an_executor_tells_of_a_server_that_has_ended(
    clock: Clock, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    served = Served(clock)
    join(served, monkeypatch)
    wait = served.far.wait

    def end(timeout_s: float) -> list[Message]:
        messages = wait(timeout_s)
        if not messages:
            raise UserError("the server's process has ended")
        return messages

    monkeypatch.setattr(served.far, "wait", end)
    assert run.run_executor(["executor.sensor=robots:Arm"]) == ExitCode.USER_ERROR
    (line,) = capsys.readouterr().err.splitlines()
    assert line.startswith("error: executor 1 (")
    assert line.endswith("): the server's process has ended")
    assert [arm.closed for arm in robots.Arm.made] == [1, 1]


@pytest.mark.usefixtures("kept_signals")
def test_an_executor_leaves_the_servers_reason_to_the_server(
    clock: Clock, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    served = Served(clock, waits=1, reason=b"train.steps: expected more")
    join(served, monkeypatch)
    assert run.run_executor(["executor.sensor=robots:Arm"]) == ExitCode.USER_ERROR
    assert not capsys.readouterr().err
    assert [arm.closed for arm in robots.Arm.made] == [1, 1]


# ---- what the server makes of it


def test_a_run_goes_on_without_an_executor_that_has_failed() -> None:
    stage = Stage()
    stage.inbox.put_message(2, Header(kind=Kind.BYE), b"RuntimeError: \x1b[2J")
    stage.inbox.put_message(1, stage.header(1), stage.right_answer())
    latents = stage.decide()["latents"]
    assert (latents[AGENT_OF[1]] == 1.0).all()
    assert [(fault.rank, fault.reason) for fault in stage.pool.faults()] == [(2, "lost")]
    assert stage.pool.absent == [2]


def test_a_run_that_may_not_go_on_ends_with_one_line() -> None:
    stage = Stage(survives_losses=False)
    stage.inbox.put_message(2, Header(kind=Kind.BYE), b"RuntimeError:\n\x1b[2J")
    stage.pool.sense(0, 7, OBS)
    with pytest.raises(UserError, match=r"^executor 2 \(.+\): RuntimeError:") as raised:
        stage.pool.latents(0)
    assert str(raised.value).isprintable()


@pytest.mark.parametrize("survives_losses", [False, True])
def test_no_run_begins_without_an_executor_that_can_not_begin(survives_losses: bool) -> None:
    """It is not waited for, and the reason is its own."""
    with pytest.raises(UserError, match=r"executor 2 \(unknown host\): OSError: no name"):
        Stage(survives_losses=survives_losses, farewell=b"OSError: no name")


@pytest.mark.parametrize("survives_losses", [False, True])
def test_an_executor_that_takes_no_messages_is_lost(survives_losses: bool) -> None:
    """It may go on sending what nobody asked for: that doesn't bring it back."""
    stage = Stage(survives_losses=survives_losses)
    for hurt in (stage.inbox.absent, stage.inbox.stuck):
        hurt.add(2)  # as the transport does
    for rank in AGENT_OF:
        stage.inbox.put_message(rank, stage.header(rank), stage.right_answer())
    if not survives_losses:
        with pytest.raises(UserError, match=r"^executor 2 \(.+\): takes none of the messages"):
            stage.decide()
        return
    assert (stage.decide()["latents"][AGENT_OF[1]] == 1.0).all()
    assert stage.pool.absent == [2]
    sent = stage.inbox.sent[2]
    stage.pool.publish(2, [stage.zeros, stage.zeros], [])
    assert set(stage.report(1)) == {1}
    assert stage.inbox.sent[2] == sent
    assert (2, "lost") in [(fault.rank, fault.reason) for fault in stage.pool.faults()]
