"""A run as a process of its own, that goes on while the test does something to it."""

from __future__ import annotations

import subprocess
from collections.abc import Callable
from pathlib import Path

from launch import ROOT, command, environment, kill_all
from limits import hang_limit_s, wait_until


class Running:
    """A run under test, whose output goes to a file."""

    def __init__(self, folder: Path, *words: str, ranks: int = 1, ulfm: bool = False) -> None:
        """Starts `python words...` with its results in `folder`.

        `ulfm`: with an MPI that lets the other ranks go on where one has ended.
        """
        self.folder = folder
        self._output = folder / "output.txt"
        with self._output.open("w") as output:
            self.process = subprocess.Popen(
                command(ranks, *words, f"record.dir={folder}", ulfm=ulfm),
                stdin=subprocess.DEVNULL,
                stdout=output,
                stderr=subprocess.STDOUT,
                env=environment(),
                cwd=ROOT,
            )

    def is_alive(self) -> bool:
        return self.process.poll() is None

    def output(self) -> str:
        return self._output.read_text()

    def wait_for(self, what: Callable[[], object], name: str) -> None:
        wait_until(what, name, is_alive=self.is_alive)

    def updates(self) -> int:
        """Returns how many rows, of updates and evaluations, metrics.csv has."""
        return sum(file.read_text().count("\n") - 1 for file in self.folder.rglob("metrics.csv"))

    def end(self) -> None:
        """Waits for the end; what hangs is killed and fails the test."""
        try:
            self.process.wait(hang_limit_s())
        finally:
            kill_all(self.process)
