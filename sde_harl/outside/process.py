"""Signals and standard streams: what the outside can do to this process, taken without harm.

Python runs a signal's handler between any two lines of the main thread. An exception from there
could strike in the middle of a save, inside HDF5, or where a library holds a lock. So once a run
has something to save, the handler only notes the signal, and `Interruption.check` raises for it at
places where nothing is half done.
"""

from __future__ import annotations

import contextlib
import io
import os
import signal
import sys
from collections.abc import Callable, Iterator
from types import FrameType
from typing import Any, TextIO, cast

STOPS = (signal.SIGINT, signal.SIGTERM, signal.SIGHUP, signal.SIGUSR1)
"""Signals that end a run. mpirun turns Ctrl-C into SIGTERM and kills its ranks soon after; SIGUSR1
it only passes on, so that there is time to save. A closed terminal sends SIGHUP."""


class Interruption:
    """Knows whether a signal has asked this process to end. Only the first signal counts."""

    def __init__(self) -> None:
        self._end_at_once: Callable[[], object] | None = None
        self._requested = False
        self._over = False

    @property
    def requested(self) -> bool:
        """True from the first signal on; for loops in threads, which `check` can't end."""
        return self._requested

    def watch(self, end_at_once: Callable[[], object]) -> None:
        """Takes the signals from now on. Until `defer`, a signal calls `end_at_once`."""
        self._end_at_once = end_at_once
        on_stop(self._take)

    def defer(self) -> None:
        """Leaves signals to `check` from now on: there is something to save."""
        if self._end_at_once:
            # Once more: what an environment imports may have taken them for itself.
            on_stop(self._take)
        self._end_at_once = None

    def check(self) -> None:
        """Raises KeyboardInterrupt if a signal has come, unless the ending has begun already."""
        if self._requested and not self._over:
            self._over = True
            raise KeyboardInterrupt

    def finish(self) -> None:
        """Begins the ending, which no signal interrupts: `check` passes from now on."""
        self._over = True

    def _take(self, number: int, frame: FrameType | None) -> None:
        if self._requested:
            return
        self._requested = True
        if self._end_at_once:
            self._end_at_once()


interruption = Interruption()
"""This process's; signals come to a process as a whole."""


def on_stop(handler: Callable[[int, FrameType | None], object]) -> None:
    """Has `handler` called for each of the signals that end a run."""
    for number in STOPS:
        # A program that was started by nohup ignores the end of its terminal.
        if number != signal.SIGHUP or signal.getsignal(number) != signal.SIG_IGN:
            signal.signal(number, handler)


def ignore_stops() -> None:
    """Ignores the signals that end a run, for good: something else ends this process."""
    for number in STOPS:
        signal.signal(number, signal.SIG_IGN)


def tell_terminal(text: str) -> None:
    """Writes a line to the terminal that this process was started from, if it still has one.

    After Ctrl-C mpirun forwards nothing that its ranks print; a rank on its host can still write to
    the terminal itself.
    """
    if sys.stderr.isatty():  # then it has been printed
        return
    with contextlib.suppress(OSError), open("/dev/tty", "w") as terminal:
        print(text, file=terminal)


class _GuardedStream:
    """A standard stream that falls silent when nobody reads it any more, instead of failing."""

    def __init__(self, stream: TextIO) -> None:
        self._stream = stream

    def write(self, text: str) -> int:
        try:
            return self._stream.write(text)
        except OSError:
            self._silence()
            return len(text)

    def flush(self) -> None:
        try:
            self._stream.flush()
        except OSError:
            self._silence()

    def _silence(self) -> None:
        # The descriptor itself: the stream still holds text that it would fail to write again, and
        # libraries in C write to the descriptor.
        null = os.open(os.devnull, os.O_WRONLY)
        os.dup2(null, self._stream.fileno())
        os.close(null)

    def __getattr__(self, name: str) -> Any:
        return getattr(self._stream, name)


@contextlib.contextmanager
def guarded_streams() -> Iterator[None]:
    """Makes a closed pipe or terminal silence what is printed within, not end the program.

    A log file gets each line when it is printed, as a terminal does, so that it can be followed.
    """
    kept = (sys.stdout, sys.stderr)
    for stream in kept:
        if isinstance(stream, io.TextIOWrapper):
            stream.reconfigure(line_buffering=True)
    sys.stdout = cast(TextIO, _GuardedStream(kept[0]))
    sys.stderr = cast(TextIO, _GuardedStream(kept[1]))
    try:
        yield
    finally:
        # What is still in a buffer would fail at Python's own end, where nothing can catch it.
        sys.stdout.flush()
        sys.stderr.flush()
        sys.stdout, sys.stderr = kept
