"""Shows a run's scalars while it goes on: on the terminal, in log.txt, metrics.csv, TensorBoard."""

from __future__ import annotations

import contextlib
import sys
import threading
import time
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import TYPE_CHECKING, NamedTuple, TextIO

from sde_harl.errors import UserError
from sde_harl.outside.text import printable
from sde_harl.record.metrics_csv import MetricsCsv
from sde_harl.record.metrics_port import MetricsPort
from sde_harl.record.progress import SECONDS_BETWEEN_LINES, ProgressLine, clock, shown_scalars

if TYPE_CHECKING:
    from torch.utils.tensorboard import SummaryWriter


class Past(NamedTuple):
    """The rows, the time and the steps of a resumed run before it goes on."""

    rows: int
    """Of metrics.csv."""
    seconds: float
    """Time that the run had taken."""
    steps: int
    """Environment steps; later points of TensorBoard's curves were played again."""


NOTHING = Past(rows=0, seconds=0.0, steps=0)


class Metrics:
    """Takes scalars and notes, and shows them everywhere.

    folder: where log.txt, metrics.csv and tensorboard/ go; total_steps: environment steps of the
    complete run. Raises UserError where the folder can't be written, or where TensorBoard is asked
    for and isn't installed. A disk that fails later ends these files, not the run: what a full disk
    means for the run is decided by run.h5 (record.on_disk_full).
    """

    def __init__(
        self,
        folder: Path,
        *,
        tensorboard: bool,
        total_steps: int,
        port: MetricsPort | None = None,
        past: Past = NOTHING,
        stream: TextIO | None = None,
    ) -> None:
        self._folder = folder
        self._port = port
        self._total_steps = total_steps
        self._board: SummaryWriter | None = None
        try:
            self._csv = MetricsCsv(folder / "metrics.csv", rows=past.rows)
            # Line by line, so that `tail -f` shows a line when it is written.
            self._log = (folder / "log.txt").open("a", buffering=1)
            if tensorboard:
                self._board = _open_board(folder / "tensorboard", past.steps)
        except OSError as error:
            raise UserError(f"{folder}: can't be written: {error.strerror}") from error
        self.failed: str | None = None
        """Says why the files ended early; None while all is well."""
        self._start = time.monotonic() - past.seconds
        self._line_shown = float("-inf")
        self._progress = ProgressLine(stream or sys.stderr, total_steps)

    def state_dict(self) -> dict[str, float]:
        """Returns how far these files are, for a run that goes on from here."""
        return {"rows": self._csv.rows, "seconds": time.monotonic() - self._start}

    def log(self, step: int, scalars: Mapping[str, float]) -> None:
        """Records scalars at an environment step.

        Names that begin with `eval/` make it an evaluation, which is always shown.
        """
        row = {"step": step, "time_s": round(time.monotonic() - self._start, 3), **scalars}
        self._on_disk(lambda: self._csv.add(row))
        self._on_disk(lambda: self._plot(step, scalars))
        if self._port is not None:
            self._port.update({**row, "planned_steps": self._total_steps})
        if any(name.startswith("eval/") for name in scalars):
            parts = [f"evaluation at {step:,} steps", *shown_scalars(scalars).values()]
            self.note(" · ".join(parts))
        else:
            self._show_progress(step, scalars)

    def note(self, text: str) -> None:
        """Writes one plain line to the terminal and to log.txt."""
        self._progress.print(text)
        self._write_log(text)

    def close(self) -> None:
        """Closes all files. Never raises for a full disk."""
        self._progress.close()  # first: it gives the terminal back, whatever the disk does
        if self._port is not None:
            self._port.close()
        self._close(self._csv.close)
        if self._board is not None:
            self._close(self._board.close)
        self._close(self._log.close)

    def _close(self, close: Callable[[], None]) -> None:
        if not self.failed:
            self._on_disk(close)
            return
        # The disk may refuse what a file still holds, which was told before; its descriptor goes.
        with contextlib.suppress(OSError):
            close()

    def _show_progress(self, step: int, scalars: Mapping[str, float]) -> None:
        line = self._progress.update(step, scalars)
        # A terminal redraws its bar with every update; log.txt and pipes would grow too fast.
        if time.monotonic() - self._line_shown < SECONDS_BETWEEN_LINES:
            return
        self._line_shown = time.monotonic()
        if not self._progress.has_bar:
            self._progress.print(line)
        self._write_log(line)

    def _plot(self, step: int, scalars: Mapping[str, float]) -> None:
        if self._board is None:
            return
        for name, value in scalars.items():
            self._board.add_scalar(name, value, step)

    def _write_log(self, line: str) -> None:
        stamped = f"{clock(time.monotonic() - self._start)} {printable(line)}\n"
        self._on_disk(lambda: self._log.write(stamped))

    def _on_disk(self, act: Callable[[], object]) -> None:
        if self.failed:
            return
        try:
            act()
        except OSError as error:
            # Set first: `note` writes to log.txt, which is on the same disk.
            self.failed = f"{self._folder}: metrics.csv and log.txt end here: {error.strerror}"
            self.note(self.failed)


def _open_board(folder: Path, past_steps: int) -> SummaryWriter:
    # Imported here: it takes seconds, and most runs don't ask for it.
    try:
        from torch.utils.tensorboard import SummaryWriter
    except ImportError as error:
        raise UserError("record.tensorboard: the package tensorboard isn't installed") from error
    threading.excepthook = _report_thread
    if past_steps:
        return SummaryWriter(str(folder), purge_step=past_steps + 1)
    return SummaryWriter(str(folder))


def _report_thread(failure: threading.ExceptHookArgs) -> None:
    """Says nothing where the thread that writes TensorBoard's files meets a failing disk.

    Python would print a traceback; the next `add_scalar` raises the same error where it is handled.
    """
    if not isinstance(failure.exc_value, OSError):
        threading.__excepthook__(failure)
