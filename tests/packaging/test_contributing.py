"""The worked examples of CONTRIBUTING.md: applied to a copy of the package, and run."""

from __future__ import annotations

import re
import shutil
import subprocess
import sys
from pathlib import Path
from typing import NamedTuple

import h5py
import pytest
from launch import environment, launch_command

ROOT = Path(__file__).parents[2]


class Example(NamedTuple):
    """A section of CONTRIBUTING.md."""

    files: dict[str, str]
    diffs: list[str]
    command: str


def read_example(heading: str) -> Example:
    """Returns the files, the diffs and the command of a section."""
    text = (ROOT / "CONTRIBUTING.md").read_text()
    section = re.split(r"^## ", text.partition(f"## {heading}\n")[2], flags=re.MULTILINE)[0]
    blocks = re.findall(r"^```(\w+)\n(.*?)^```$", section, re.MULTILINE | re.DOTALL)
    files = {}
    for kind, body in blocks:
        if kind in ("python", "yaml"):
            first, _, rest = body.partition("\n")
            files[first.removeprefix("# ")] = rest
    [command] = [body.strip() for kind, body in blocks if kind == "sh"]
    return Example(files, [body for kind, body in blocks if kind == "diff"], command)


def apply_diff(folder: Path, diff: str) -> None:
    """Applies the hunks of a diff without line numbers; each must fit at one place exactly."""
    [name] = re.findall(r"^\+\+\+ b/(.*)$", diff, re.MULTILINE)
    path = folder / name
    text = path.read_text()
    for hunk in re.split(r"^@@.*\n", diff, flags=re.MULTILINE)[1:]:
        lines = hunk.splitlines(keepends=True)
        before = "".join(line[1:] for line in lines if line[0] in " -")
        after = "".join(line[1:] for line in lines if line[0] in " +")
        assert text.count(before) == 1, f"{name}: {before!r}"
        text = text.replace(before, after)
    path.write_text(text)


@pytest.fixture
def package(tmp_path: Path) -> Path:
    """Makes a folder with a copy of the package, its experiments included."""
    ignored = shutil.ignore_patterns("__pycache__")
    shutil.copytree(ROOT / "sde_harl", tmp_path / "sde_harl", ignore=ignored)
    return tmp_path


def run_example(package: Path, heading: str, *more: str) -> h5py.File:
    """Applies a section's example, runs its command and opens the record."""
    example = read_example(heading)
    for name, content in example.files.items():
        assert not (package / name).exists()
        (package / name).write_text(content)
    for diff in example.diffs:
        apply_diff(package, diff)
    words = example.command.split()
    assert words[0] == "python"
    command = [sys.executable, *words[1:], *more, "record.tensorboard=false"]
    ended = launch_command(command, cwd=package, env={**environment(), "PYTHONPATH": str(package)})
    assert ended.code == 0, ended.err
    [record] = package.rglob("run.h5")
    return h5py.File(record)


def test_the_algorithm(package: Path) -> None:
    with run_example(package, "An algorithm") as file:
        assert file["meta"].attrs["algo"] == "vanilla"
        assert len(file["training/policy_loss"]) == 8


def test_the_environment_is_learnt(package: Path) -> None:
    with run_example(package, "An environment") as file:
        assert file["meta"].attrs["env"] == "echo/four"
        assert file["evaluations/return_mean"][-1] > 9.5


def test_the_placement(package: Path) -> None:
    apply_environment = read_example("An environment")
    for name, content in apply_environment.files.items():
        (package / name).write_text(content)
    for diff in apply_environment.diffs:
        apply_diff(package, diff)
    with run_example(package, "A placement") as file:
        train = file["decisions/train"][:]
        # Episodes of 10 steps begin at even steps, so every second decision sends nothing.
        assert train.sum() == 4000 // 20 // 2 * 2 * 2


def test_the_examples_are_as_readable_as_the_package(package: Path) -> None:
    for heading in ("An algorithm", "An environment", "A placement"):
        for name, content in read_example(heading).files.items():
            if name.endswith(".py"):
                (package / name).parent.mkdir(parents=True, exist_ok=True)
                (package / name).write_text(content)
    shutil.copy(ROOT / "pyproject.toml", package)
    written = [
        str(path)
        for path in package.rglob("*.py")
        if not (ROOT / path.relative_to(package)).exists()
    ]
    assert len(written) == 3
    ended = subprocess.run(
        [sys.executable, "-m", "ruff", "check", *written], capture_output=True, text=True
    )
    assert ended.returncode == 0, ended.stdout
