"""Runs an executor from its HELLO to the server's goodbye, whatever goes wrong in between."""

from __future__ import annotations

import logging
import time
import traceback

from sde_harl.config.entry_points import one_line
from sde_harl.errors import UserError
from sde_harl.executor.executor import Executor, MakeLearner, MakePlayer
from sde_harl.executor.farewell import Farewell, read_farewell, say_bye
from sde_harl.executor.sensors import NO_SENSOR
from sde_harl.link.transport import Transport
from sde_harl.link.wire import Kind
from sde_harl.meters.timing import now_ns

log = logging.getLogger(__name__)

LONGEST_WAIT_S = 3600.0
"""Longest single wait for a goodbye that may take days."""
KILLED_S = 2.0
"""Time that the server gets to kill this process: one that leaves MPI meanwhile makes Open MPI's
prterun crash at times."""


def serve(
    transport: Transport,
    sensor: str = NO_SENSOR,
    idle_s: float = 3600.0,
    make_player: MakePlayer | None = None,
    make_learner: MakeLearner | None = None,
) -> Farewell:
    """Runs an executor until the server says goodbye, and returns that.

    `sensor`, `make_player` and `make_learner` as of `Executor`.

    Whatever goes wrong on this host is told to the server, which ends the run or goes on without
    this executor. Raises UserError where the server has ended, or has been silent for `idle_s`:
    nothing else would end this process then.
    """
    try:
        farewell = _take_part(
            Executor(transport, sensor, make_player, make_learner), transport, idle_s
        )
    except UserError:
        raise
    # The user's sensors may call sys.exit.
    except (Exception, SystemExit) as error:
        log.debug("this executor can't go on", exc_info=True)
        say_bye(transport, _describe(error))
        farewell = _await_farewell(transport)
    transport.flush(1.0)
    if farewell.is_killed:
        time.sleep(KILLED_S)
    return farewell


def _take_part(executor: Executor, transport: Transport, idle_s: float) -> Farewell:
    """Does what the server says until its goodbye; raises UserError as `serve`."""
    heard_ns = now_ns()
    try:
        # Nothing that comes behind the goodbye matters.
        while executor.farewell is None:
            for message in transport.wait(executor.wait_s(idle_s)):
                heard_ns = now_ns()
                executor.handle(message)
            # After the messages, because an answer that is here is better than acting alone.
            executor.act_if_due()
            # The server has nothing to say to one that plays.
            if executor.is_playing:
                heard_ns = now_ns()
            # One that has parted is told nothing more until the run ends, which may take days.
            if not executor.has_parted and now_ns() - heard_ns >= idle_s * 1e9:
                raise UserError(f"the server has been silent for {idle_s:.0f} s")
        return executor.farewell
    finally:
        # However this ends: sensors are let go of, and actuators stand still.
        executor.close()


def _await_farewell(transport: Transport) -> Farewell:
    """Waits for the server's goodbye, and listens to nothing else."""
    while True:
        for message in transport.wait(LONGEST_WAIT_S):
            if message.header.kind is Kind.BYE:
                return read_farewell(message)


def _describe(error: BaseException) -> str:
    """Returns what went wrong and where, in one line."""
    last = traceback.extract_tb(error.__traceback__)[-1]
    return f"{type(error).__name__}: {one_line(error)} ({last.filename}:{last.lineno})"
