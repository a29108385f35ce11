"""The runs of a sweep: what each is called, what it is asked to be, and whether it has been run before."""

from __future__ import annotations

import glob
import itertools
import json
import math
import os
from pathlib import Path
from typing import NamedTuple

from sde_harl.config.arguments import parse
from sde_harl.config.layers import to_yaml
from sde_harl.config.schema import Config
from sde_harl.config.wording import shown
from sde_harl.errors import UserError
from sde_harl.record.reader import SWEEP_INDEX, open_run

OPENING, CLOSING = "[{(", "]})"
SWEEP_WIDE = ("record.dir", "record.exp")
"""Keys that tell where a sweep's runs go: one value each."""
LOCAL_BLOCKS, CODEC = "policy.local_blocks", "codec.name"


class Trial(NamedTuple):
    """One run of a sweep."""

    name: str
    """The values that it is about: policy.local_blocks=3,seed=1."""
    words: list[str]
    """The run's command line."""
    config: Config
    """What they amount to."""


class SweepPlan(NamedTuple):
    """A sweep before it runs."""

    folder: Path
    """Where its index and its logs go."""
    trials: list[Trial]


class Result(NamedTuple):
    """The last evaluation of a finished run; NaN where there was none, or winning means nothing."""

    step: int
    return_mean: float
    win_rate: float
    bytes_per_decision: float


def plan(argv: list[str]) -> SweepPlan:
    """A run for each combination of the values that `argv` lists (key=a,b,c), the last key's varying fastest.

    All are checked here, before the first one starts: raises UserError as `command.parse` does, and where no key has
    several values or two runs would be one and the same.
    """
    lists = {word.partition("=")[0]: listed(word) for word in argv if _is_setting(word)}
    varied = {key: values for key, values in lists.items() if len(values) > 1}
    fixed = [word for word in argv if not _is_setting(word) or word.partition("=")[0] not in varied]
    if not varied:
        raise UserError(
            "nothing to sweep over: give a key several values, as in policy.local_blocks=0,1,2"
        )
    for key in SWEEP_WIDE:
        if key in varied:
            raise UserError(
                f"{key}: one value for the whole sweep, got {len(varied[key])} (command line)"
            )
    combinations = [dict(zip(varied, values)) for values in itertools.product(*varied.values())]
    base = _parsed([*fixed, *_words(_completed(fixed, combinations[0]))]).record
    named = {_name(values): values for values in (_completed(fixed, each) for each in combinations)}
    trials = [
        _trial(name, [*fixed, *_words(values)], base.exp, values) for name, values in named.items()
    ]
    return SweepPlan(Path(base.dir) / "sweeps" / base.exp, trials)


def listed(word: str) -> list[str]:
    """The values of key=a,b,c: commas inside brackets part nothing. Raises UserError for an empty or a double one."""
    key, _, text = word.partition("=")
    values, depth = [""], 0
    for letter in text:
        depth += (letter in OPENING) - (letter in CLOSING)
        if letter == "," and not depth:
            values.append("")
        else:
            values[-1] += letter
    values = [value.strip() for value in values]
    if len(values) > 1 and not all(values):
        raise UserError(f"{shown(key)}: an empty value in the list {shown(text)} (command line)")
    if len(set(values)) < len(values):
        raise UserError(f"{shown(key)}: a value is given twice in {shown(text)} (command line)")
    return values


def finished(config: Config) -> Path | None:
    """The folder of the newest run of exactly this configuration whose record reaches its end; None where none does.

    The record decides, not an exit code: mpirun may end with 0 although a host died.
    """
    record = config.record
    pattern = f"*/*/{glob.escape(config.algo.name)}/{glob.escape(record.exp)}/seed-{config.seed}-*"
    folders = sorted(
        Path(record.dir).glob(pattern), key=lambda each: each.stat().st_mtime, reverse=True
    )
    return next((folder for folder in folders if _is_whole(folder, config)), None)


def result(folder: Path) -> Result:
    """What a finished run's last evaluation found."""
    table = open_run(folder / "run.h5").table("evaluations")
    if not table:
        return Result(0, math.nan, math.nan, math.nan)
    return Result(int(table["step"][-1]), *(float(table[key][-1]) for key in Result._fields[1:]))


def write_index(sweep: Path, runs: dict[str, Path], failed: dict[str, str]) -> None:
    """sweep.json of a sweep's folder: name -> run folder, seen from there, and of failed runs the reason."""
    content = {
        "runs": {name: os.path.relpath(folder, sweep) for name, folder in runs.items()},
        "failed": failed,
    }
    part = sweep / f"{SWEEP_INDEX}.part"
    part.write_text(json.dumps(content, indent=2) + "\n", encoding="utf-8")
    part.replace(sweep / SWEEP_INDEX)


def _is_setting(word: str) -> bool:
    """As command.py tells them from files."""
    key, equals, _ = word.partition("=")
    return bool(equals) and not key.startswith("-") and "/" not in key


def _completed(fixed: list[str], values: dict[str, str]) -> dict[str, str]:
    """With all blocks on the device there is nothing to code: that end of a sweep over splits gets codec.name=none."""
    if LOCAL_BLOCKS not in values:
        return values
    blocks = _parsed(
        [*fixed, *_words(values), f"{LOCAL_BLOCKS}=0", f"{CODEC}=float32"]
    ).policy.blocks
    return values | {CODEC: "none"} if values[LOCAL_BLOCKS] == str(blocks) else values


def _trial(name: str, words: list[str], exp: str, values: dict[str, str]) -> Trial:
    """Runs that differ by their seed alone are one experiment, as everywhere."""
    marks = _name({key: value for key, value in values.items() if key != "seed"})
    words = [*words, f"record.exp={','.join(filter(None, (exp, marks)))}"]
    return Trial(name, words, _parsed(words))


def _parsed(words: list[str]) -> Config:
    config = parse(words).config
    if config is None:
        raise UserError("--print-config: shows one run's configuration, not a sweep's")
    return config


def _name(values: dict[str, str]) -> str:
    """Fit for a file: a path among the values loses its slashes."""
    return ",".join(_words(values)).replace("/", "+")


def _words(values: dict[str, str]) -> list[str]:
    return [f"{key}={value}" for key, value in values.items()]


def _is_whole(folder: Path, config: Config) -> bool:
    written = folder / "config.yaml"
    if not written.is_file() or written.read_text(encoding="utf-8") != to_yaml(config):
        return False
    try:
        run = open_run(folder / "run.h5")
        table = run.table("evaluations" if config.eval.episodes else "training")
    except UserError:
        return False  # a run that was killed before its first flush
    return bool(table) and int(table["step"][-1]) >= config.train.steps
