"""Environments of their own, in which other programs load what was exported."""

from __future__ import annotations

import os
import subprocess
import sys
from pathlib import Path

import pytest
from limits import hang_limit_s

INSTALL_S = 300
"""Of an idle machine: making an environment, and pip in it."""
LOADER = Path(__file__).with_name("load_exported.py")


def call(*words: str | Path) -> subprocess.CompletedProcess[str]:
    """Runs a program that finds nothing of this environment."""
    alone = {key: value for key, value in os.environ.items() if not key.startswith("PYTHON")}
    limit = hang_limit_s(INSTALL_S)
    texts = [str(word) for word in words]
    return subprocess.run(texts, env=alone, capture_output=True, text=True, timeout=limit)


def make_venv(folder: Path, *installs: list[str]) -> Path:
    """Makes an environment and returns its Python. `installs`: the words of each pip install.

    Skips the test where pip can't install them.
    """
    python = folder / "bin" / "python"
    assert call(sys.executable, "-m", "venv", folder).returncode == 0
    for words in installs:
        got = call(python, "-m", "pip", "install", "-q", *words)
        if got.returncode:
            pytest.skip(f"pip can't install {' '.join(words)}: {got.stderr[-200:]}")
    return python


def load(python: Path, kind: str, what: Path) -> None:
    """Has load_exported.py load what was exported, and checks that it did."""
    loaded = call(python, LOADER, kind, what)
    assert loaded.returncode == 0, loaded.stderr
    # marl-eval says something of its own, too.
    assert loaded.stdout.endswith(f"{kind}: loaded\n")
