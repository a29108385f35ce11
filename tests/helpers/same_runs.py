"""Checks that two runs have learnt and recorded the same, but for what the clock decides."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import torch

from sde_harl.record.checkpoint import load
from sde_harl.record.reader import open_run

TIMES = ("time", "share", "steps_per_s")
"""Parts of the names of columns that measure this machine."""


TABLES = ("training", "evaluations", "symbols", "episodes", "faults")


def assert_same(folder: Path, other: Path, tables: tuple[str, ...] = TABLES) -> None:
    """Checks that two runs have learnt and recorded the same, bit for bit."""
    (one,) = folder.rglob("run.h5")
    (two,) = other.rglob("run.h5")
    assert_same_state(one.parent / "models" / "last.pt", two.parent / "models" / "last.pt")
    ours = open_run(one)
    theirs = open_run(two)
    for name in tables:
        wanted = ours.table(name)
        found = theirs.table(name)
        assert wanted.keys() == found.keys()
        for key in wanted:
            if not any(each in key for each in TIMES):
                np.testing.assert_array_equal(wanted[key], found[key], err_msg=f"{name} {key}")


def assert_same_state(one: Path, two: Path) -> None:
    ours = _state(one)
    theirs = _state(two)
    assert ours.keys() == theirs.keys()
    for name, value in ours.items():
        if isinstance(value, torch.Tensor):
            assert torch.equal(value, torch.as_tensor(theirs[name])), name
        else:
            assert value == theirs[name], name


def _state(file: Path) -> dict[str, Any]:
    """Returns a checkpoint, but for how many reports there were of what the ranks had used."""
    values = load(file).values
    return {name: value for name, value in values.items() if not name.startswith("record/")}


def assert_same_decisions(folder: Path, other: Path) -> None:
    """Checks that two runs have recorded the same decisions, apart from times and ranks."""
    (one,) = folder.rglob("run.h5")
    (two,) = other.rglob("run.h5")
    wanted = open_run(one).table("decisions")
    found = open_run(two).table("decisions")
    for name in wanted:
        if name != "rank" and not name.startswith("t_"):
            np.testing.assert_array_equal(wanted[name], found[name], err_msg=name)
