"""One worker process of `workers.WorkerVector`: `python -m sde_harl.envs.vector.worker`. It makes its games and steps them.

What is said is in `orders.py`. At the end of its input, or of its parent, the worker ends.
"""

from __future__ import annotations

import ctypes
import json
import mmap
import os
import signal
import sys
import traceback
from typing import BinaryIO

from sde_harl.config.schema import EnvConfig
from sde_harl.envs.registry import make_games
from sde_harl.envs.specs import to_json
from sde_harl.envs.vector.games import Games, lay_out
from sde_harl.envs.vector.orders import DONE, RESET, Failure, Order
from sde_harl.errors import UserError

PR_SET_PDEATHSIG = 1


def main() -> int:
    """The whole life of a worker; returns its exit code."""
    # To stop is the parent's business: it saves, then closes our input.
    for number in (signal.SIGINT, signal.SIGTERM, signal.SIGUSR1):
        signal.signal(number, signal.SIG_IGN)
    orders, answers = _take_channels()
    order = Order(*json.loads(orders.readline()))
    _die_with(order.parent)
    try:
        _play(order, orders, answers)
        return 0
    except UserError as error:
        answers.write(Failure(True, str(error)).to_bytes())
    except BaseException as error:
        traceback.print_exc()
        text = f"{type(error).__name__}: {' '.join(str(error).split())}"  # what a UserError says is one line
        answers.write(Failure(False, text).to_bytes())
    return 1


def _take_channels() -> tuple[BinaryIO, BinaryIO]:
    """Standard input and output for us alone: what a game prints goes to standard error instead."""
    orders, answers = os.fdopen(os.dup(0), "rb", 0), os.fdopen(os.dup(1), "wb", 0)
    os.dup2(os.open(os.devnull, os.O_RDONLY), 0)
    os.dup2(2, 1)
    return orders, answers


def _die_with(parent: int) -> None:
    """A killed parent can't close our input while a game computes, so the kernel is asked to kill us too."""
    if sys.platform == "linux":
        ctypes.CDLL(None).prctl(PR_SET_PDEATHSIG, signal.SIGKILL, 0, 0, 0)
    if os.getppid() != parent:  # it died before we asked
        sys.exit(1)


def _play(order: Order, orders: BinaryIO, answers: BinaryIO) -> None:
    made = make_games(EnvConfig(**order.env), order.games)  # type: ignore[arg-type]
    spec = made[0].spec
    games = Games(made, order.seed, order.first_env + order.first)
    answers.write(to_json(spec).encode() + b"\n")
    word = orders.read(2)
    if word:
        buffer = mmap.mmap(order.memory, 0)
        memory = lay_out(buffer, spec, order.num_envs).rows(
            slice(order.first, order.first + order.games)
        )
    while word:
        command, slot = word
        if command == RESET:
            games.reset(memory.blocks[slot])
        else:
            games.step(memory.actions, memory.blocks[slot])
        answers.write(DONE)
        word = orders.read(2)
    games.close()


if __name__ == "__main__":
    sys.exit(main())
