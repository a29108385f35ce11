"""What a `workers.WorkerVector` and its worker processes say to each other.

Down: a line of JSON (`Order`), then two bytes a step: RESET or STEP, and the block to write. Up: a line of JSON (the
spec), then DONE for each step; a FAILED line (`Failure`) instead of either is the last word. All numbers go through the
shared memory.
"""

from __future__ import annotations

import json
from typing import NamedTuple

RESET, STEP = 0, 1
DONE, FAILED = b".", b"!"


class Order(NamedTuple):
    """What a worker is told to be."""

    env: dict[str, str | int | bool]
    """The fields of `config.EnvConfig`."""
    seed: int
    first_env: int
    """Index in the run of the vector's first environment."""
    num_envs: int
    """Of the whole vector, which is what the memory holds."""
    first: int
    """This worker's first row of it."""
    games: int
    """This worker's rows."""
    memory: int
    """File descriptor of the shared memory; it has its size by the time of the first step."""
    parent: int
    """Process id."""


class Failure(NamedTuple):
    """Why a worker ends."""

    mendable: bool
    """A UserError, whose text stands for itself."""
    text: str

    def to_bytes(self) -> bytes:
        return FAILED + json.dumps(self).encode() + b"\n"
