"""Shows on the terminal how far a run, or a long preparation, has come."""

from __future__ import annotations

import math
import sys
import time
from collections.abc import Iterator, Mapping
from typing import TextIO

from rich.progress import BarColumn, Progress, ProgressColumn, TextColumn, track

from sde_harl.outside.text import printable
from sde_harl.record.terminal import PlainConsole

SECONDS_BETWEEN_LINES = 5.0
"""The least time between two progress lines where no terminal redraws them."""

SCALAR_FORMATS = {
    "win_rate": "win rate {:.1%}",
    "return": "return {:.2f}",
    "return_mean": "return {:.2f}",
    "bits_per_element": "{:.2f} bits/element",
    "bytes_per_decision": "{:.1f} bytes/decision",
    "replay_age": "replay {:,.0f} steps old",
}
"""The scalars that a progress line shows, by the last part of their name."""
SEPARATOR = " · "
EXPENDABLE = ("replay {:,.0f} steps old", "{:.2f} bits/element", "steps/s", "return {:.2f}", "ETA")
"""Parts of the line that a narrow terminal goes without, the least important one first."""
WIDE = 110
"""Columns from which on there is room for a bar beside the line."""
BAR = 20


class StepRate:
    """Measures environment steps a second over the last few logs."""

    # Not over all of the run: a slow start, with compiling and first memory, would linger.
    WINDOW = 20

    def __init__(self) -> None:
        self._marks: list[tuple[float, int]] = []

    def mark(self, step: int) -> float | None:
        """Notes a step; returns steps/s, or None for the first step."""
        self._marks = [*self._marks[-self.WINDOW :], (time.monotonic(), step)]
        first_time, first_step = self._marks[0]
        last_time, last_step = self._marks[-1]
        if last_time <= first_time or last_step <= first_step:
            return None
        return (last_step - first_step) / (last_time - first_time)


class ProgressLine:
    """Writes the line "100 of 1,000 steps · ...": below a bar on a terminal, else as plain text."""

    def __init__(self, stream: TextIO, total_steps: int) -> None:
        self._stream = stream
        self._total_steps = total_steps
        self._rate = StepRate()
        self._shown: dict[str, str] = {}
        self._bar: Progress | None = None
        if stream.isatty():
            self._bar = _open_bar(stream, total_steps)

    @property
    def has_bar(self) -> bool:
        """Says whether the line is redrawn in place."""
        return self._bar is not None

    def update(self, step: int, scalars: Mapping[str, float]) -> str:
        """Takes the newest scalars, moves the bar where there is one, and returns the line."""
        # Scalars that this log lacks keep their last value, so that the line doesn't flicker.
        self._shown.update(shown_scalars(scalars))
        parts = {"steps": f"{step:,} of {self._total_steps:,} steps"}
        rate = self._rate.mark(step)
        if rate is not None:
            parts["steps/s"] = f"{rate:,.0f} steps/s"
            parts["ETA"] = f"ETA {clock((self._total_steps - step) / rate)}"
        parts |= self._shown
        if self._bar is not None:
            width = self._bar.console.width
            if width >= WIDE:
                width -= BAR + 1
            self._bar.update(self._bar.task_ids[0], completed=step, line=fitted(parts, width))
        return SEPARATOR.join(parts.values())

    def print(self, text: str) -> None:
        """Prints one line, above the bar where there is one."""
        line = printable(text)  # it may name hosts, which call themselves what they like
        if self._bar is None:
            print(line, file=self._stream, flush=True)
        else:
            self._bar.console.print(line)

    def close(self) -> None:
        if self._bar is not None:
            self._bar.stop()


def fitted(parts: Mapping[str, str], width: int) -> str:
    """Returns the parts as one line of this width, without those that it can go without."""
    left = dict(parts)
    for name in EXPENDABLE:
        if len(SEPARATOR.join(left.values())) <= width:
            break
        # The return says how well a run plays where nothing can be won.
        if name != "return {:.2f}" or SCALAR_FORMATS["win_rate"] in left:
            left.pop(name, None)
    return SEPARATOR.join(left.values())


def progress_range(total: int, description: str) -> Iterator[int]:
    """Yields 0 to total - 1, and shows on stderr how far that is.

    A terminal gets a bar, anything else a line every few seconds.
    """
    if sys.stderr.isatty():
        # Transient: the bar is gone at the end, as the run's own line comes next.
        console = PlainConsole(file=sys.stderr)
        yield from track(range(total), description, total, console=console, transient=True)
        return
    line_shown = time.monotonic()
    for k in range(total):
        yield k
        if time.monotonic() - line_shown >= SECONDS_BETWEEN_LINES:
            line_shown = time.monotonic()
            print(f"{description} · {k + 1:,} of {total:,}", file=sys.stderr, flush=True)


def shown_scalars(scalars: Mapping[str, float]) -> dict[str, str]:
    """Returns the scalars worth a place on a line, by their format.

    NaN is left out: such a scalar means nothing in this environment.
    """
    shown = {}
    for name, value in scalars.items():
        form = SCALAR_FORMATS.get(name.rpartition("/")[2])
        if form is not None and not math.isnan(value):
            shown[form] = form.format(value)
    return shown


def clock(seconds: float) -> str:
    """Returns a time span as h:mm:ss."""
    minutes, rest = divmod(int(max(0.0, seconds)), 60)
    return f"{minutes // 60}:{minutes % 60:02}:{rest:02}"


def _open_bar(stream: TextIO, total_steps: int) -> Progress:
    console = PlainConsole(file=stream)  # not rich's own: tests and jobs may give another stream
    column = TextColumn("{task.fields[line]}", markup=False)
    columns: list[ProgressColumn] = [column]
    if console.width >= WIDE:
        columns = [BarColumn(BAR), column]
    bar = Progress(*columns, console=console)
    bar.add_task("", total=total_steps, line="")
    bar.start()
    return bar
