"""Stands for Slurm's programs: says what a test wants, and writes down how it was called."""

from __future__ import annotations

from pathlib import Path

import pytest

PROGRAM = """#!/bin/sh
echo "$(basename "$0") $*" >> {folder}/calls
cat {folder}/$(basename "$0").says 2>/dev/null
exit $(cat {folder}/$(basename "$0").code 2>/dev/null || echo 0)
"""
PROGRAMS = ("sbatch", "squeue", "scancel", "scontrol", "srun")


class FakeSlurm:
    """A folder of programs that comes first in PATH."""

    def __init__(self, folder: Path, monkeypatch: pytest.MonkeyPatch) -> None:
        self._folder = folder
        folder.mkdir()
        for name in PROGRAMS:
            program = folder / name
            program.write_text(PROGRAM.format(folder=folder))
            program.chmod(0o755)
        monkeypatch.setenv("PATH", str(folder), prepend=":")
        self.says("sbatch", "41;cluster\n")

    def says(self, program: str, text: str, *, code: int = 0) -> None:
        """Decides what a program says from now on, and its exit code."""
        (self._folder / f"{program}.says").write_text(text)
        (self._folder / f"{program}.code").write_text(str(code))

    def queue(self, *jobs: tuple[int, int, str, str], elapsed: str = "1:00") -> None:
        """Decides which jobs wait or run: job, number in its array, Slurm's state, reason."""
        lines = [
            f"{job + task}|{job}|{task}|{state}|{elapsed}|2:00|{reason}|a|b"
            for job, task, state, reason in jobs
        ]
        self.says("squeue", "\n".join(lines) + "\n")

    def calls(self, program: str) -> list[str]:
        """Returns the arguments of each call of a program."""
        path = self._folder / "calls"
        lines = path.read_text().splitlines() if path.exists() else []
        return [line.partition(" ")[2] for line in lines if line.split()[0] == program]
