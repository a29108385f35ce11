"""The runs of a sweep: their names, their configurations, and whether each was run before."""

from __future__ import annotations

import glob
import itertools
import json
import math
import os
import re
from pathlib import Path
from typing import NamedTuple

from sde_harl.config.arguments import parse
from sde_harl.config.layers import is_same_run
from sde_harl.config.schema import Config
from sde_harl.config.wording import shown
from sde_harl.errors import UserError
from sde_harl.record.finding import SWEEP_INDEX
from sde_harl.record.reader import open_run

OPENING = "[{("
CLOSING = "]})"
RANGE = re.compile(r"(\d{1,10})\.\.(\d{1,10})")
MOST_VALUES = 10_000
RESUME = "train.resume"
SWEEP_WIDE = ("record.dir", "record.exp")
"""Keys that decide where a sweep's runs are stored. They have one value for the whole sweep."""
LOCAL_BLOCKS = "policy.local_blocks"
CODEC = "codec.name"

Values = dict[str, str]
"""One value for each key that a sweep varies, as typed."""


class Trial(NamedTuple):
    """One run of a sweep."""

    name: str
    """The values that set it apart: policy.local_blocks=3,seed=1."""
    words: list[str]
    """The run's command line."""
    config: Config
    """The configuration that the command line gives."""


class SweepPlan(NamedTuple):
    """A sweep, or the runs of a batch job, before they run."""

    folder: Path
    """Folder of its index and its logs."""
    trials: list[Trial]


class Result(NamedTuple):
    """The last evaluation of a finished run.

    A figure is NaN where there was no evaluation, or where the game has no winner.
    """

    step: int
    return_mean: float
    win_rate: float
    bytes_per_decision: float


def plan(argv: list[str], *, kind: str = "sweeps", must_vary: bool = True) -> SweepPlan:
    """Returns a run for each combination of the values listed in `argv` (key=a,b,c).

    The values of the last key vary fastest. A run that was begun before goes on, unless `argv` says
    train.resume. `kind` is the folder of its folder, in record.dir. All runs are checked before the
    first one starts: raises UserError as `arguments.parse` does, where a key of SWEEP_WIDE has
    several values, and, if it `must_vary`, where no key has.
    """
    lists = {_key(word): listed(word) for word in argv if _is_setting(word)}
    varied = {key: values for key, values in lists.items() if len(values) > 1}
    fixed = [word for word in argv if not (_is_setting(word) and _key(word) in varied)]
    if must_vary and not varied:
        raise UserError(
            "nothing to sweep over: give a key several values, as in policy.local_blocks=0,1,2"
        )
    for key in SWEEP_WIDE:
        if key in varied:
            raise UserError(
                f"{key}: one value for the whole sweep, got {len(varied[key])} (command line)"
            )
    if not any(_says_resume(word) for word in argv):
        fixed.append(f"{RESUME}=auto")
    combinations = _combinations(fixed, varied)
    # All runs store their results in the same place, so any one tells where.
    first = next(iter(combinations.values()))
    record = _parsed([*fixed, *_words(first)]).record
    trials = [
        _trial(name, fixed=fixed, values=values, exp=record.exp)
        for name, values in combinations.items()
    ]
    return SweepPlan(folder=Path(record.dir) / kind / record.exp, trials=trials)


def _combinations(fixed: list[str], varied: dict[str, list[str]]) -> dict[str, Values]:
    """Returns the values of each run by its name."""
    named: dict[str, Values] = {}
    for combination in itertools.product(*varied.values()):
        values = _with_codec(fixed, dict(zip(varied, combination)))
        # With all blocks on the device, runs of several codecs are one and the same run.
        named[_name(values)] = values
    return named


def listed(word: str) -> list[str]:
    """Returns the values of key=a,b,c or key=1..5. Commas inside brackets don't separate values.

    Raises UserError for an empty value in a list, for a value given twice, and for too many.
    """
    key, _, text = word.partition("=")
    ends = RANGE.fullmatch(text)
    if ends:
        return _counted(key, first=int(ends[1]), last=int(ends[2]))
    values = [""]
    depth = 0
    for letter in text:
        if letter in OPENING:
            depth += 1
        elif letter in CLOSING:
            depth -= 1
        if letter == "," and depth == 0:
            values.append("")
        else:
            values[-1] += letter
    values = [value.strip() for value in values]
    if len(values) > 1 and not all(values):
        raise UserError(f"{shown(key)}: an empty value in the list {shown(text)} (command line)")
    if len(set(values)) < len(values):
        raise UserError(f"{shown(key)}: a value is given twice in {shown(text)} (command line)")
    return values


def _counted(key: str, *, first: int, last: int) -> list[str]:
    if not first < last < first + MOST_VALUES:
        raise UserError(
            f"{key}: expected a range up to {MOST_VALUES:,} numbers, got {first}..{last}"
            " (command line)"
        )
    return [str(number) for number in range(first, last + 1)]


def finished(config: Config) -> Path | None:
    """Returns the folder of the newest finished run of exactly this configuration, or None.

    train.resume may differ: however a run went on, it is the same run. A run is finished if its
    record reaches its last step. An exit code says less: mpirun may end with 0 although a host
    died.
    """
    return next((folder for folder in run_folders(config) if _is_finished(folder, config)), None)


def run_folders(config: Config) -> list[Path]:
    """Returns the folders of runs with this algorithm, experiment and seed, the newest first."""
    record = config.record
    algo = glob.escape(config.algo.name)
    exp = glob.escape(record.exp)
    folders = Path(record.dir).glob(f"*/*/{algo}/{exp}/seed-{config.seed}-*")
    return sorted(folders, key=lambda folder: folder.stat().st_mtime, reverse=True)


def _is_finished(folder: Path, config: Config) -> bool:
    if not is_same_run(folder / "config.yaml", config):
        return False
    # Evaluation is the last thing that a run does, if it evaluates at all.
    last = "training"
    if config.eval.episodes:
        last = "evaluations"
    try:
        table = open_run(folder / "run.h5").table(last)
    except UserError:
        return False  # the run was killed before it first wrote to disk
    return bool(table) and int(table["step"][-1]) >= config.train.steps


def result(folder: Path) -> Result:
    """Returns the last evaluation of a finished run."""
    table = open_run(folder / "run.h5").table("evaluations")
    if not table:
        nan = math.nan
        return Result(step=0, return_mean=nan, win_rate=nan, bytes_per_decision=nan)
    return Result(
        step=int(table["step"][-1]),
        return_mean=float(table["return_mean"][-1]),
        win_rate=float(table["win_rate"][-1]),
        bytes_per_decision=float(table["bytes_per_decision"][-1]),
    )


def write_index(sweep: Path, runs: dict[str, Path], failed: dict[str, str]) -> None:
    """Writes sweep.json: the folder of each finished run, and the reason of each failed one."""
    content = {
        # Relative, so that a folder of results can be moved or copied.
        "runs": {name: os.path.relpath(folder, sweep) for name, folder in runs.items()},
        "failed": failed,
    }
    # Replaced at once: a sweep that is killed while it writes leaves the older index whole.
    part = sweep / f"{SWEEP_INDEX}.part"
    part.write_text(json.dumps(content, indent=2) + "\n", encoding="utf-8")
    part.replace(sweep / SWEEP_INDEX)


def _key(word: str) -> str:
    return word.partition("=")[0]


def _says_resume(word: str) -> bool:
    return _key(word).lstrip("-") in (RESUME, "resume")


def _is_setting(word: str) -> bool:
    """Returns whether a word is key=value. arguments.py tells settings from files the same way."""
    key, equals, _ = word.partition("=")
    return bool(equals) and not key.startswith("-") and "/" not in key


def _with_codec(fixed: list[str], values: Values) -> Values:
    """Adds codec.name=none where all blocks are on the device, for nothing is coded there.

    So a sweep over policy.local_blocks can reach policy.blocks with one command line.
    """
    if LOCAL_BLOCKS not in values:
        return values
    # Parsed with a valid pair of local blocks and codec: only policy.blocks is asked for.
    probe = [*fixed, *_words(values), f"{LOCAL_BLOCKS}=0", f"{CODEC}=float32"]
    blocks = _parsed(probe).policy.blocks
    if values[LOCAL_BLOCKS] != str(blocks):
        return values
    return {**values, CODEC: "none"}


def _trial(name: str, *, fixed: list[str], values: Values, exp: str) -> Trial:
    """Returns the run of a combination. Runs that differ only by seed are one experiment."""
    marks = _name({key: value for key, value in values.items() if key != "seed"})
    exp = ",".join(filter(None, (exp, marks)))
    words = [*fixed, *_words(values), f"record.exp={exp}"]
    return Trial(name=name, words=words, config=_parsed(words))


def _parsed(words: list[str]) -> Config:
    config = parse(words).config
    if config is None:
        raise UserError("--print-config: shows one run's configuration, not a sweep's")
    return config


def _name(values: Values) -> str:
    """Returns a combination's name. It is part of file names, so slashes of paths are replaced."""
    return ",".join(_words(values)).replace("/", "+")


def _words(values: Values) -> list[str]:
    return [f"{key}={value}" for key, value in values.items()]
