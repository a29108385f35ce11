"""The process of one run of a sweep: started, listened to, and stopped."""

from __future__ import annotations

import os
import signal
import subprocess
import time
from collections.abc import Iterable, Iterator
from pathlib import Path

from sde_harl.cli.launcher import environment
from sde_harl.config.wording import shown
from sde_harl.errors import UserError

GRACE_S = 30.0
"""Time for runs to save themselves when they are stopped. Then they are killed."""


class RunProcess:
    """A run that goes on, or has just ended. What it says goes to a log."""

    def __init__(self, words: list[str], log: Path) -> None:
        """Starts it. Raises UserError where its launcher can't be started."""
        self.log = log
        self._began = time.monotonic()
        with log.open("w") as output:
            try:
                # A session of its own, so that Ctrl-C reaches this process alone: mpirun would kill
                # its ranks before they have saved. `stop` tells the run in another way.
                self._process = subprocess.Popen(
                    words,
                    stdin=subprocess.DEVNULL,
                    stdout=output,
                    stderr=subprocess.STDOUT,
                    env=environment(),
                    start_new_session=True,
                )
            except OSError as error:
                launcher = shown(words[0])
                raise UserError(
                    f"--mpirun: {launcher} can't be started: {error.strerror}"
                ) from error
        self._reading = log.open(errors="replace")

    def code(self) -> int | None:
        """Returns the exit code; None while it goes on."""
        return self._process.poll()

    def lines(self) -> Iterator[str]:
        """Yields what it has said since the last call."""
        for line in self._reading:
            yield line.rstrip()

    def close(self) -> float:
        """Closes the log of a run that has ended, and returns the seconds that it took."""
        self._reading.close()
        return time.monotonic() - self._began

    def ask_to_stop(self) -> None:
        """Tells a run that still goes on to save itself and end."""
        if self._process.poll() is None:
            # Not SIGTERM: mpirun kills its ranks soon after any signal but SIGUSR1.
            self._process.send_signal(signal.SIGUSR1)

    def wait(self, deadline: float) -> None:
        """Waits for its end until `deadline`, by time.monotonic, then kills it."""
        try:
            self._process.wait(max(0.0, deadline - time.monotonic()))
        except (subprocess.TimeoutExpired, KeyboardInterrupt):  # a second Ctrl-C doesn't wait
            os.killpg(self._process.pid, signal.SIGKILL)
            self._process.wait()


def stop(processes: Iterable[RunProcess]) -> None:
    """Ends runs that still go on. They get GRACE_S to save themselves, all at the same time."""
    processes = [*processes]
    for each in processes:
        each.ask_to_stop()
    deadline = time.monotonic() + GRACE_S
    for each in processes:
        each.wait(deadline)
        each.close()


def reason(log: Path, cause: str) -> str:
    """Returns why a run failed, and where to read more.

    That is its last error line, or `cause` if it printed none.
    """
    lines = log.read_text(errors="replace").splitlines()
    errors = [line for line in lines if line.startswith("error: ")]
    if errors:
        cause = errors[-1]
    return f"{cause} ({log})"
