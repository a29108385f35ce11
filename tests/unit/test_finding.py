"""What users name their runs by: files, folders, patterns, the word latest."""

from __future__ import annotations

import os
from pathlib import Path

import pytest

from sde_harl.errors import UserError
from sde_harl.record.finding import all_run_files, run_files


@pytest.fixture
def results(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """Makes the folders of two runs of one experiment and one of another; the last is resumed."""
    monkeypatch.chdir(tmp_path)
    for number, name in enumerate(("a/seed-1", "a/seed-2", "b/seed-1")):
        folder = tmp_path / "results" / name
        folder.mkdir(parents=True)
        (folder / "run.h5").touch()
        (folder / "models").mkdir()
        (folder / "models" / "last.pt").touch()
        (folder / "log.txt").touch()
        os.utime(folder / "run.h5", (number, number))
    later = tmp_path / "results" / "a" / "seed-1" / "run-2.h5"
    later.touch()
    return Path("results")


@pytest.mark.parametrize(
    ("given", "found"),
    [
        ("results/a/seed-1/run.h5", ["a/seed-1"]),
        ("results/a/seed-1", ["a/seed-1"]),
        ("results/a", ["a/seed-1", "a/seed-2"]),
        ("results", ["a/seed-1", "a/seed-2", "b/seed-1"]),
        ("results/*/seed-1", ["a/seed-1", "b/seed-1"]),
        ("results/a/seed-1/run*.h5", ["a/seed-1"]),
        ("results/*/**", ["a/seed-1", "a/seed-2", "b/seed-1"]),
        ("results/a/seed-2/*", ["a/seed-2"]),
        ("results/**/*.h5", ["a/seed-1", "a/seed-2", "b/seed-1"]),
        ("latest", ["a/seed-1"]),
    ],
)
def test_runs_are_found(results: Path, given: str, found: list[str]) -> None:
    assert run_files(Path(given)) == [results / name / "run.h5" for name in found]


def test_a_run_that_is_named_twice_is_found_once(results: Path) -> None:
    first = Path("results/a/seed-1")
    given = [results / "b", first, Path("latest"), first.resolve(), results / "a"]
    found = [results / name / "run.h5" for name in ("b/seed-1", "a/seed-1", "a/seed-2")]
    assert all_run_files(given) == found


@pytest.mark.parametrize(
    ("given", "problem"),
    [
        ("none-*", "^none-[*]: no file"),
        ("emp*", "^emp[*]: there is no run"),
        ("empty", "^empty: there is no run.h5"),
        ("latest", "^late"),
    ],
)
def test_nothing_found_is_one_line(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, given: str, problem: str
) -> None:
    monkeypatch.chdir(tmp_path)
    (tmp_path / "empty").mkdir()
    with pytest.raises(UserError, match=problem):
        run_files(Path(given))


def test_a_name_with_brackets_is_a_name_first(tmp_path: Path) -> None:
    folder = tmp_path / "[x]"
    folder.mkdir()
    (folder / "run.h5").touch()
    assert run_files(folder) == [folder / "run.h5"]
