"""Finds the run files that a user means by a path, a pattern or the word `latest`."""

from __future__ import annotations

import glob
import re
from collections.abc import Iterable
from pathlib import Path

from sde_harl.errors import UserError
from sde_harl.outside.text import read_text, strict_json

LATEST = "latest"
"""Stands for the newest run below RESULTS."""
RESULTS = Path("results")
"""Where runs go unless record.dir says otherwise."""
RUN_FILE = "run.h5"
SWEEP_INDEX = "sweep.json"
"""The file in a sweep's folder that names its finished runs."""
MOST_INDEX_BYTES = 1 << 24
LATER_SEGMENT = re.compile(r"run-\d+\.h5")


def run_files(given: Path) -> list[Path]:
    """Returns the run files behind a path, in order.

    That is the file itself, the one in a run's folder, those of a sweep's finished runs, all below
    another folder (an experiment's, for instance), those that a pattern such as `*/seed-*` names,
    or the newest one below `results` for the word `latest`. Raises UserError where there is none.
    """
    if given.exists():
        return _behind(given)
    if str(given) == LATEST:
        return [_newest(RESULTS)]
    if glob.has_magic(str(given)):
        return _matching(given)
    return [given]  # whoever opens it says that there is no such file


def all_run_files(given: Iterable[Path]) -> list[Path]:
    """Returns the run files behind several paths, in order, each of them once.

    Raises UserError as `run_files`.
    """
    found: dict[Path, Path] = {}
    for path in given:
        for file in run_files(path):
            # `latest` may lie in a folder that is named too; counted twice, it would be two runs.
            found.setdefault(file.resolve(), file)
    return list(found.values())


def _behind(path: Path) -> list[Path]:
    if not path.is_dir():
        return [path]
    if (path / RUN_FILE).exists():
        return [path / RUN_FILE]
    if (path / SWEEP_INDEX).exists():
        return _of_sweep(path)
    files = sorted(path.rglob(RUN_FILE))
    if not files:
        raise UserError(f"{path}: there is no {RUN_FILE} in it, nor in any folder below it")
    return files


def _matching(pattern: Path) -> list[Path]:
    paths = [Path(each) for each in sorted(glob.glob(str(pattern), recursive=True))]
    # A run that was resumed has several files, which are one run.
    firsts = [each for each in paths if not LATER_SEGMENT.fullmatch(each.name)]
    if not firsts:
        raise UserError(f"{pattern}: no file and no folder has such a name")
    files = [file for each in firsts for file in _records(each)]
    if not files:
        raise UserError(f"{pattern}: there is no run among what has such a name")
    return list(dict.fromkeys(files))


def _records(path: Path) -> list[Path]:
    """Returns the run files behind what a pattern names; none for what holds no run.

    `**` names all that lies in a run's folder, too: its checkpoints, log and table of scalars.
    """
    if not path.is_dir():
        return [path] if path.suffix == ".h5" else []
    if (path / RUN_FILE).exists() or (path / SWEEP_INDEX).exists():
        return _behind(path)
    return sorted(path.rglob(RUN_FILE))


def _newest(base: Path) -> Path:
    files = base.rglob(RUN_FILE)
    newest = max(files, key=lambda file: _written_ns(file.parent), default=None)
    if newest is None:
        raise UserError(f"{LATEST}: there is no run in {base.resolve()}")
    return newest


def _written_ns(folder: Path) -> int:
    """Returns when a run's record was written last: the file of a resumed run is a later one."""
    return max(file.stat().st_mtime_ns for file in folder.glob("run*.h5"))


def _of_sweep(folder: Path) -> list[Path]:
    try:
        index = strict_json(_index_of(folder))
        runs = list(index["runs"].values())
    except (OSError, ValueError, LookupError, TypeError, AttributeError) as error:
        raise UserError(f"{folder}: {SWEEP_INDEX} can't be read") from error
    if not all(isinstance(each, str) and each.isprintable() for each in runs):
        raise UserError(f"{folder}: {SWEEP_INDEX} names runs that are no folders")
    return [folder / each / RUN_FILE for each in runs]


def _index_of(sweep: Path) -> str:
    """Returns the text of a sweep's index."""
    index = sweep / SWEEP_INDEX
    # A pipe in its place would wait for its writer.
    if not index.is_file():
        raise ValueError("no regular file")
    return read_text(index, MOST_INDEX_BYTES)
