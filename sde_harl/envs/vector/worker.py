"""One worker process of `workers.WorkerVector`: `python -m sde_harl.envs.vector.worker`.

It makes its games and steps them on command; `worker_protocol.py` has the messages. It ends when
its input ends, or with its parent.
"""

from __future__ import annotations

import mmap
import os
import sys
import traceback
from types import SimpleNamespace
from typing import BinaryIO, NamedTuple, cast

from sde_harl.config.entry_points import one_line
from sde_harl.envs.die_with_parent import die_with_parent
from sde_harl.envs.registry import make_games
from sde_harl.envs.settings import EnvConfig
from sde_harl.envs.specs import common_spec, to_json
from sde_harl.envs.vector.games import Game, GameBatch
from sde_harl.envs.vector.ring import lay_out
from sde_harl.envs.vector.worker_protocol import (
    DONE,
    RESET,
    WorkerFailure,
    WorkerSetup,
    setup_from_json,
)
from sde_harl.errors import UserError
from sde_harl.outside.process import ignore_stops


class ParentGoneError(Exception):
    """Nobody reads the answers any more."""


class Channels(NamedTuple):
    """The two ends of the pipes to the vector that are in this process."""

    commands: BinaryIO
    answers: BinaryIO

    def answer(self, message: bytes) -> None:
        """Sends an answer. Raises ParentGoneError where its pipe has no reader."""
        try:
            self.answers.write(message)
        except BrokenPipeError as error:
            raise ParentGoneError from error


def main() -> int:
    """Plays until the input ends; returns the exit code, 1 where a game failed."""
    _ignore_signals()
    channels = _take_channels()
    line = channels.commands.readline()
    if not line:  # the parent ended before it said anything
        return 1
    setup = setup_from_json(line)
    # The end of our input isn't enough: while a game computes, the input isn't read.
    die_with_parent(setup.parent)
    try:
        failure = _play_or_fail(setup, channels)
        if failure is None:
            return 0
        channels.answer(failure.to_bytes())
    except ParentGoneError:
        pass  # nothing is left to do, and nobody to tell
    return 1


def _play_or_fail(setup: WorkerSetup, channels: Channels) -> WorkerFailure | None:
    """Plays until the input ends; returns why it ended where a game failed."""
    try:
        _play(setup, channels)
    except ParentGoneError:
        raise
    except UserError as error:
        return WorkerFailure(is_user_error=True, text=str(error))
    except BaseException as error:
        traceback.print_exc()
        return WorkerFailure(is_user_error=False, text=f"{type(error).__name__}: {one_line(error)}")
    return None


def _ignore_signals() -> None:
    """Leaves the signals that end a run to the parent."""
    # On SIGTERM it saves the run first, and needs us until it closes our input.
    ignore_stops()


def _take_channels() -> Channels:
    """Moves the pipes away from standard input and output.

    A game that prints would write into our answers otherwise; what it prints goes to standard
    error instead.
    """
    commands = os.fdopen(os.dup(0), "rb", 0)
    answers = os.fdopen(os.dup(1), "wb", 0)
    os.dup2(os.open(os.devnull, os.O_RDONLY), 0)
    os.dup2(2, 1)
    return Channels(commands=commands, answers=answers)


def _play(setup: WorkerSetup, channels: Channels) -> None:
    """Makes the games and carries out commands until the input ends."""
    # Not the config's own class: games read these settings by name, and a worker would spend time
    # and memory on importing the rest of the configuration.
    env_config = cast(EnvConfig, SimpleNamespace(**setup.env))
    games = make_games(env_config, count=setup.num_rows)
    channels.answer(to_json(common_spec([game.spec for game in games])).encode() + b"\n")
    # The memory gets its size only when the vector has read the spec of every worker. So it is
    # mapped after the first command has come; none comes where another worker failed.
    command = channels.commands.read(2)
    if command:
        _carry_out(command, channels, _batch(setup, games))
    for game in games:
        game.close()


def _carry_out(command: bytes, channels: Channels, batch: GameBatch) -> None:
    """Carries out the first command, and all that follow it until the input ends."""
    while command:
        kind, index = command
        if kind == RESET:
            batch.reset(index)
        else:
            batch.step(index)
        channels.answer(DONE)
        command = channels.commands.read(2)


def _batch(setup: WorkerSetup, games: list[Game]) -> GameBatch:
    """Returns the games over their rows of the shared memory."""
    memory = mmap.mmap(setup.memory, 0)
    own = slice(setup.first_row, setup.first_row + setup.num_rows)
    buffers = lay_out(memory, games[0].spec, setup.num_envs).select(own)
    first_env = setup.first_env + setup.first_row
    return GameBatch(games, buffers=buffers, seed=setup.seed, first_env=first_env)


if __name__ == "__main__":
    sys.exit(main())
