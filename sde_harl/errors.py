"""The error that a user can correct, and the exit codes of every command."""

from __future__ import annotations

from enum import IntEnum

from sde_harl.outside.text import printable


class UserError(Exception):
    """An error that the user can correct. It is printed as one line, without a traceback."""

    def __init__(self, message: str) -> None:
        # Here, once for all errors: many name what a file or another host calls itself.
        super().__init__(printable(message))


class ExitCode(IntEnum):
    """The exit codes of `sde-harl` and of its commands."""

    DONE = 0
    DEFECT = 1
    """An error of the program's own."""
    USER_ERROR = 2
    """A UserError. Rank 0 has printed its line."""
    EXECUTORS_ABSENT = 3
    """The run is complete, but some executors did not answer any more at its end."""
    NOT_RECORDED = 4
    """The run is complete, but its record or a checkpoint is not: a disk failed on the way."""
    INTERRUPTED = 130
    """Stopped by Ctrl-C, SIGTERM, SIGHUP or SIGUSR1, after everything was saved."""
