"""The command line of a run. Reads the layers of its configuration and names them in errors.

The layers, later ones win: the defaults of schema.py, presets/algorithms/<algo.name>.yaml,
presets/environments/<env.name>.yaml, the experiment's file, and the command line. A key is spelt
section.key=value, --section.key value, or as a flag of HARL's (--lr 3e-4).
"""

from __future__ import annotations

import json
import os
from collections.abc import Iterator
from pathlib import Path
from typing import NamedTuple

from sde_harl.config.harl import HARL_KEYS, UNSUPPORTED, experiment
from sde_harl.config.keys import KEYS, Key
from sde_harl.config.layers import Layer, Value, build, layer_of, to_yaml
from sde_harl.config.named_code import refuse_strange_code
from sde_harl.config.schema import Config, LinkProfile
from sde_harl.config.wording import MEANT, brief, did_you_mean, shown
from sde_harl.config.yaml_text import MOST_LETTERS, load
from sde_harl.errors import UserError
from sde_harl.outside.text import read_text

PRESETS = Path(__file__).with_name("presets")
FOLDERS = {"algo": "algorithms", "env": "environments"}
"""Folders of PRESETS with the defaults of each algorithm and each environment."""

SWITCHES = ("--print-config", "--trust")
RESUME = "train.resume"
PACE = ("train.rollout", "algo.lr_decay")

USAGE = """usage:
  sde-harl run EXPERIMENT [key=value ...]                      in one process, or under mpirun:
  mpirun -np 9 sde-harl run smac train.steps=200000
  sde-harl run EXPERIMENT --print-config                       show all keys and values, and stop
  sde-harl run --resume RUN [key=value ...]                    go on with a run: folder, or latest
  sde-harl run FILE.yaml --trust                               the file may name code: env.factory
  sde-harl run --algo happo --env smac --exp_name test --seed 2 [--key value ...]   HARL's spelling
  sde-harl run --load_config FILE.json [key=value ...]         a file of HARL's

EXPERIMENT is a YAML file, or the name of an experiment that is part of the package:
  {experiments}
python -m sde_harl.run is the same as sde-harl run.
"""


class Request(NamedTuple):
    """A command line: the configuration of a run, or a text to print instead of a run."""

    config: Config | None
    text: str = ""
    """Text to print, before the run if there is one."""


def parse(argv: list[str]) -> Request:
    """Reads the command line and the files it names. Raises UserError that names key and source."""
    if "--help" in argv or "-h" in argv:
        return Request(config=None, text=help_text())
    words = _resumed(_words([each for each in argv if each not in SWITCHES]))
    if not words.files and not {"env.name", "algo.name"} & set(words.given):
        raise UserError(
            "no configuration: give an experiment, or --algo and --env; --help tells more"
        )
    if len(words.files) > 1:
        files = " and ".join(map(shown, words.files))
        raise UserError(f"one configuration file at a time, got {files}")
    file: Layer = {}
    note = ""
    if words.files:
        file, note = _experiment(words.files[0])
    layers = {**file, **words.given}
    algo = _defaults("algo", layers)
    # How often an off-policy algorithm learns, and by which rates, is the algorithm's: an
    # environment's file is written for rollouts of the on-policy ones. Only the former's files have
    # a rollout.
    pace = {key: algo[key] for key in PACE if "train.rollout" in algo}
    config = build({**algo, **_defaults("env", layers), **pace, **layers})
    if "--print-config" in argv:
        return Request(config=None, text=to_yaml(config))
    if "--trust" not in argv:
        refuse_strange_code(config, file=file, typed=words.given.keys())
    return Request(config=config, text=note)


def help_text() -> str:
    """Returns the usage, and each key with type, default and meaning."""
    lines = [
        USAGE.format(experiments=", ".join(shipped_experiments())),
        "keys (section.key=value; also as --section.key value):",
    ]
    for name, key in KEYS.items():
        lines.append(f"  {name:<28} {key.kind.__name__:<6} {_default_text(key):<10} {key.help}")
    lines += ["", f"HARL's flags understood: {', '.join('--' + key for key in HARL_KEYS)}"]
    return "\n".join(lines)


def _default_text(key: Key) -> str:
    """Returns a key's default as it is typed."""
    if isinstance(key.default, str):
        return key.default
    if key.kind is LinkProfile:
        return "none"
    return json.dumps(key.default)


class _Words(NamedTuple):
    """The command line, taken apart."""

    files: list[str]
    given: Layer
    """Keys and their values. Of a key given twice, the last."""


def _resumed(words: _Words) -> _Words:
    """Returns the words with the configuration of the run that is to go on.

    Raises UserError where there is no such run.
    """
    if RESUME not in words.given or words.given[RESUME].value in ("auto", "none"):
        return words
    asked = str(words.given[RESUME].value)
    folder = Path(asked)
    if asked == "latest":
        given_dir = words.given.get("record.dir")
        folder = _newest_run(
            Path(str(given_dir.value if given_dir else KEYS["record.dir"].default))
        )
    if folder.is_file():
        folder = folder.parent
    if not (folder / "config.yaml").is_file():
        raise UserError(f"{RESUME}: expected a run's folder, got {shown(asked)} (command line)")
    given = {**words.given, RESUME: Value(value=str(folder), source="command line")}
    return _Words(files=[*words.files, str(folder / "config.yaml")], given=given)


def _newest_run(results: Path) -> Path:
    files = [*results.glob("*/*/*/*/seed-*/run.h5")]
    if not files:
        raise UserError(f"{RESUME}: expected a run below {results}, there is none")
    return max(files, key=lambda file: file.stat().st_mtime_ns).parent


def _words(argv: list[str]) -> _Words:
    """Takes a command line apart into experiments and keys."""
    files: list[str] = []
    given: Layer = {}
    words = iter(argv)
    for word in words:
        name, equals, text = word.partition("=")
        if word.startswith("-"):
            key = _key_of_flag(name)
            value = text
            if not equals:
                value = _following(name, words)
            if key is None:
                files.append(value)
            else:
                given[key] = _value(key, value)
        elif equals and "/" not in name:
            given[name] = _value(name, text)
        else:
            # A path may hold an equals sign: runs of a sweep are stored under key=value.
            files.append(word)
    return _Words(files=files, given=given)


def _following(flag: str, words: Iterator[str]) -> str:
    """Returns the word behind a flag. Raises UserError where it is another flag, or missing."""
    value = next(words, "--")
    # One dash may begin a negative number.
    if value.startswith("--"):
        raise UserError(f"{flag}: needs a value (command line)")
    return value


def _key_of_flag(flag: str) -> str | None:
    """Returns our key for --section.key or a flag of HARL's. None for the one that names a file.

    Raises UserError for any other flag.
    """
    if flag == "--load_config":
        return None
    if flag == "--resume":
        return RESUME
    name = flag[2:]
    if flag.startswith("--") and "." in name:
        return name
    if name in UNSUPPORTED:
        raise UserError(f"{flag}: not supported: {UNSUPPORTED[name]} (command line)")
    if not flag.startswith("--") or name not in HARL_KEYS:
        hint = did_you_mean(flag, [f"--{each}" for each in (*HARL_KEYS, *KEYS)], 0.7)
        if name in MEANT:
            hint = f"; did you mean --{MEANT[name]}?"
        raise UserError(f"{shown(flag)}: no such flag (command line){hint}; --help lists all")
    return HARL_KEYS[name]


def _value(key: str, text: str) -> Value:
    """Reads a value as the shell passed it. For keys that hold text, it stays as it is."""
    if key in KEYS and KEYS[key].kind is not str:
        return Value(value=load(text, f"{key} (command line)"), source="command line")
    # YAML would make other things of 010, null and 1:30.
    return Value(value=text, source="command line")


def shipped_experiments() -> dict[str, Path]:
    """Returns the files of the experiments that are part of the package, by name."""
    return {path.stem: path for path in sorted((PRESETS / "experiments").glob("*.yaml"))}


def find_experiment(name: str) -> Path:
    """Returns the file of an experiment. `name` is a path or the name of a shipped experiment.

    Raises UserError for a name that is neither.
    """
    # A file of the user's wins over a shipped experiment of the same name.
    if "/" in name or name.endswith((".yaml", ".json")) or os.path.isfile(name):
        return Path(name)
    shipped = shipped_experiments()
    if name not in shipped:
        raise UserError(
            f"{shown(name)}: neither a file nor a shipped experiment (command line)"
            f"{did_you_mean(name, shipped)}; there are: {', '.join(shipped)}"
        )
    return shipped[name]


def _experiment(name: str) -> tuple[Layer, str]:
    """Reads an experiment, and returns its keys and a line to print about it, or nothing.

    A file that ends in .json is HARL's.
    """
    path = find_experiment(name)
    if path.suffix == ".json":
        return experiment(_text(path), shown(name))
    return _read(path), ""


def _read(path: Path) -> Layer:
    return layer_of(_text(path), shown(str(path)))


def _text(path: Path) -> str:
    name = shown(str(path))
    try:
        return read_text(path, MOST_LETTERS)
    except OSError as error:
        raise UserError(f"{name}: can't read the configuration: {error.strerror}") from error
    except UnicodeDecodeError as error:
        raise UserError(f"{name}: not a text file") from error
    except ValueError as error:
        raise UserError(f"{name}: can't read the configuration: {error}") from error


def _defaults(section: str, layers: Layer) -> Layer:
    """Returns the defaults of the algorithm or the environment that `layers` name.

    Raises UserError where there is none of that name, and where its file names another.
    """
    own = f"{section}.name"
    default = Value(value=getattr(Config(), section).name, source="default")
    asked = layers.get(own, default)
    name = ""
    if isinstance(asked.value, (str, int)):
        name = str(asked.value)
    folder = PRESETS / FOLDERS[section]
    # Compared with the list, never joined to the path as it is: a name may hold ../
    valid = sorted(path.stem for path in folder.glob("*.yaml"))
    if name not in valid:
        hint = did_you_mean(name, valid)
        raise UserError(
            f"{own}: unknown {brief(asked.value)} ({asked.source}){hint};"
            f" there are: {', '.join(valid)}"
        )
    layer = _read(folder / f"{name}.yaml")
    for key in {"algo.name", "env.name"} & set(layer):
        value, source = layer[key]
        if key != own or value != name:
            raise UserError(
                f"{key}: expected no name but {own}: {name}, got {brief(value)} ({source})"
            )
    return layer
