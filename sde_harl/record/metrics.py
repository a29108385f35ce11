"""What a run says while it goes on: terminal, log.txt, metrics.csv and TensorBoard."""

from __future__ import annotations

import csv
import math
import os
import sys
import time
from collections.abc import Callable, Iterator, Mapping
from pathlib import Path
from typing import TYPE_CHECKING, TextIO

from rich.console import Console
from rich.progress import BarColumn, Progress, TextColumn, track

from sde_harl.errors import UserError

if TYPE_CHECKING:
    from torch.utils.tensorboard import SummaryWriter

PLAIN_S = 5.0  # between two lines where no terminal redraws them
# last part of a scalar's name -> how it is shown
SHOWN = {
    "win_rate": "win rate {:.1%}",
    "return": "return {:.2f}",
    "return_mean": "return {:.2f}",
    "bits_per_element": "{:.2f} bits/element",
    "bytes_per_decision": "{:.1f} bytes/decision",
}


class Table:
    """metrics.csv: a column for every scalar ever logged. A new name rewrites the file with a wider header."""

    def __init__(self, path: Path) -> None:
        """Raises OSError where the file can't be made."""
        self._path = path
        self._names = ["step", "time_s"]
        self._rows: list[dict[str, float]] = []
        self._file, self._writer = self._rewritten()

    def add(self, row: dict[str, float]) -> None:
        self._rows.append(row)
        new = [name for name in row if name not in self._names]
        if new:
            self._names += new
            self._file.close()
            self._file, self._writer = self._rewritten()
        else:
            self._writer.writerow(row)
            self._file.flush()

    def _rewritten(self) -> tuple[TextIO, csv.DictWriter[str]]:
        part = self._path.with_name(self._path.name + ".part")
        file = part.open("w", newline="")
        writer = csv.DictWriter(file, self._names)
        writer.writeheader()
        writer.writerows(self._rows)
        file.flush()
        os.replace(part, self._path)
        return file, writer

    def close(self) -> None:
        self._file.close()


class Pace:
    """Environment steps a second: the mean of the last few logs, so that a slow start doesn't linger."""

    WINDOW = 20

    def __init__(self) -> None:
        self._marks: list[tuple[float, int]] = []

    def mark(self, step: int) -> float | None:
        """Note a step; steps/s, or None with the first."""
        self._marks = [*self._marks[-self.WINDOW :], (time.monotonic(), step)]
        (t0, s0), (t1, s1) = self._marks[0], self._marks[-1]
        return (s1 - s0) / (t1 - t0) if t1 > t0 and s1 > s0 else None


class Metrics:
    """Takes scalars and notes, and shows them everywhere.

    folder: where log.txt, metrics.csv and tensorboard/ go; total_steps: environment steps of the whole run.
    Raises UserError where the folder can't be written, or TensorBoard is asked for and isn't installed. A disk that
    fails later ends the files, not the run: what a full disk means is run.h5's decision.
    """

    def __init__(
        self, folder: Path, tensorboard: bool, total_steps: int, stream: TextIO | None = None
    ) -> None:
        self._total, self._folder = total_steps, folder
        self._stream = stream if stream is not None else sys.stderr
        try:
            self._table = Table(folder / "metrics.csv")
            self._text = (folder / "log.txt").open("a", buffering=1)
            self._board = _open_board(folder / "tensorboard") if tensorboard else None
        except OSError as error:
            raise UserError(f"{folder}: can't be written: {error.strerror}") from error
        self._disk_failed = False
        self._start = time.monotonic()
        self._said = float("-inf")
        self._pace = Pace()
        self._shown: dict[str, str] = {}
        self._bar = _open_bar(self._stream, total_steps) if self._stream.isatty() else None

    def log(self, step: int, scalars: Mapping[str, float]) -> None:
        """Record scalars at an environment step. Names that begin with `eval/` make it an evaluation, always shown."""
        row = {"step": step, "time_s": round(time.monotonic() - self._start, 3), **scalars}
        self._on_disk(lambda: self._table.add(row))
        if self._board is not None:
            self._on_disk(lambda: self._plot(step, scalars))
        if any(name.startswith("eval/") for name in scalars):
            self.note(" · ".join([f"evaluation at {step:,} steps", *_shown(scalars).values()]))
        else:
            self._progress(step, scalars)

    def note(self, text: str) -> None:
        """One plain line to the terminal and log.txt."""
        if self._bar is not None:
            self._bar.console.print(text, highlight=False, markup=False)
        else:
            print(text, file=self._stream, flush=True)
        self._to_text(text)

    def close(self) -> None:
        """Never raises for a full disk."""
        if self._bar is not None:
            self._bar.stop()
        self._on_disk(self._table.close)
        if self._board is not None:
            self._on_disk(self._board.close)
        self._on_disk(self._text.close)

    def _progress(self, step: int, scalars: Mapping[str, float]) -> None:
        self._shown.update(_shown(scalars))
        pace = self._pace.mark(step)
        speed = (
            [f"{pace:,.0f} steps/s", f"ETA {_clock((self._total - step) / pace)}"] if pace else []
        )
        line = " · ".join([f"{step:,} of {self._total:,} steps", *speed, *self._shown.values()])
        if self._bar is not None:
            self._bar.update(self._bar.task_ids[0], completed=step, line=line)
        if time.monotonic() - self._said < PLAIN_S:
            return
        self._said = time.monotonic()
        if self._bar is None:
            self.note(line)
        else:
            self._to_text(line)

    def _plot(self, step: int, scalars: Mapping[str, float]) -> None:
        assert self._board is not None
        for name, value in scalars.items():
            self._board.add_scalar(name, value, step)

    def _to_text(self, line: str) -> None:
        stamped = f"{_clock(time.monotonic() - self._start)} {line}\n"
        self._on_disk(lambda: self._text.write(stamped))

    def _on_disk(self, act: Callable[[], object]) -> None:
        if self._disk_failed:
            return
        try:
            act()
        except OSError as error:
            self._disk_failed = True
            self.note(f"{self._folder}: metrics.csv and log.txt end here: {error.strerror}")


def counted(total: int, what: str) -> Iterator[int]:
    """0 to total - 1, and on stderr how far that is: a bar on a terminal, else a line every few seconds."""
    if sys.stderr.isatty():
        yield from track(range(total), what, total, console=Console(stderr=True), transient=True)
        return
    said = time.monotonic()
    for k in range(total):
        yield k
        if time.monotonic() - said >= PLAIN_S:
            said = time.monotonic()
            print(f"{what} · {k + 1:,} of {total:,}", file=sys.stderr, flush=True)


def _shown(scalars: Mapping[str, float]) -> dict[str, str]:
    """The scalars worth a place on a line, by their last part's format; NaN means nothing here."""
    return {
        form: form.format(value)
        for name, value in scalars.items()
        if (form := SHOWN.get(name.rpartition("/")[2])) is not None and not math.isnan(value)
    }


def _clock(seconds: float) -> str:
    minutes, rest = divmod(int(max(0.0, seconds)), 60)
    return f"{minutes // 60}:{minutes % 60:02}:{rest:02}"


def _open_board(folder: Path) -> SummaryWriter:
    try:
        from torch.utils.tensorboard import SummaryWriter
    except ImportError as error:
        raise UserError("record.tensorboard: the package tensorboard isn't installed") from error
    return SummaryWriter(str(folder))


def _open_bar(stream: TextIO, total: int) -> Progress:
    bar = Progress(BarColumn(20), TextColumn("{task.fields[line]}"), console=Console(file=stream))
    bar.add_task("", total=total, line="")
    bar.start()
    return bar
