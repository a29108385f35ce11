"""The messages between a `workers.WorkerVector` and its worker processes, over a pipe each way.

    vector -> worker    a line of JSON, `WorkerSetup`, once; then two bytes a step:
                        RESET or STEP, and the index of the step buffers to write
    worker -> vector    a line of JSON, the EnvSpec, once; then one byte a step: DONE

Instead of the spec or a DONE, a worker may answer a FAILED line (`WorkerFailure`) and end. Actions,
observations and all other numbers are in the shared memory (`ring.VectorBuffers`).
"""

from __future__ import annotations

import json
from typing import NamedTuple

RESET = 0
STEP = 1
DONE = b"."
FAILED = b"!"


class WorkerSetup(NamedTuple):
    """Tells a worker which games it plays, and where."""

    env: dict[str, str | int | bool]
    """The settings of `envs.base.EnvConfig`, by name."""
    seed: int
    """The run's seed."""
    first_env: int
    """Number, in the run, of the vector's first environment."""
    num_envs: int
    """Environments of the vector, all workers' together; the shared memory holds them."""
    first_row: int
    """The first of this worker's rows in the shared memory."""
    num_rows: int
    """This worker's rows, one for each of its games."""
    memory: int
    """File descriptor of the shared memory; it has its size by the time of the first step."""
    parent: int
    """Process id of the vector's process."""

    def to_json(self) -> bytes:
        """Returns one line, without its end."""
        return json.dumps(self._asdict()).encode()


def setup_from_json(line: bytes) -> WorkerSetup:
    """Reads what `WorkerSetup.to_json` wrote. Raises ValueError that names the wrong field."""
    given = json.loads(line)
    if set(given) != set(WorkerSetup._fields):
        raise ValueError(f"expected the fields {WorkerSetup._fields}, got {tuple(given)}")
    # Checked here, where the field can be named; a game would fail later without naming it.
    for name, value in given.items():
        expected: type = dict if name == "env" else int
        if not isinstance(value, expected):
            raise ValueError(f"{name}: expected {expected.__name__}, got {value!r}")
    return WorkerSetup(**given)


class WorkerFailure(NamedTuple):
    """Tells why a worker ends."""

    is_user_error: bool
    """It was a UserError, whose text says all that the user needs."""
    text: str
    """One line."""

    def to_bytes(self) -> bytes:
        """Returns the FAILED line."""
        return FAILED + json.dumps(self._asdict()).encode() + b"\n"


def failure_from_bytes(line: bytes) -> WorkerFailure:
    """Reads what `WorkerFailure.to_bytes` wrote."""
    given = json.loads(line[len(FAILED) :])
    return WorkerFailure(is_user_error=bool(given["is_user_error"]), text=str(given["text"]))
