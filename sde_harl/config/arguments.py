"""The command line: what a run is asked to be, out of layers that are each read and named here.

Layers, later ones win: schema.py's defaults, presets/algorithms/<algo.name>.yaml, presets/environments/<env.name>.yaml,
the experiment's file, the command line in our spelling (section.key=value, --section.key value) or in HARL's (--lr 3e-4).
"""

from __future__ import annotations

import ast
import inspect
import json
import os
from pathlib import Path
from typing import NamedTuple

from sde_harl.config.harl import HARL_KEYS, UNSUPPORTED, experiment
from sde_harl.config.layers import KEYS, SECTIONS, Layer, Value, build, layer_of, to_yaml
from sde_harl.config.schema import Config, LinkProfile
from sde_harl.config.wording import brief, did_you_mean, shown
from sde_harl.config.yaml_text import load
from sde_harl.errors import UserError

PRESETS = Path(__file__).with_name("presets")
FOLDERS = {"algo": "algorithms", "env": "environments"}
"""Section -> the folder of PRESETS that holds the defaults of each of its names."""

USAGE = """usage:
  sde-harl run EXPERIMENT [key=value ...]                      in one process, or under mpirun:
  mpirun -np 9 sde-harl run smac train.steps=200000
  sde-harl run EXPERIMENT --print-config                       show all keys with their values, and stop
  sde-harl run --algo happo --env smac --exp_name test --seed 2 [--key value ...]   HARL's spelling
  sde-harl run --load_config FILE.json [key=value ...]         a file of HARL's

EXPERIMENT is a YAML file, or the name of an experiment that is part of the package:
  {experiments}
python -m sde_harl.run is the same as sde-harl run.
"""


class Request(NamedTuple):
    """What the command line asks for: a run, or a text to print."""

    config: Config | None
    text: str = ""
    """What to print, of a run before it starts."""


def parse(argv: list[str]) -> Request:
    """Read the command line and the files it names. Raises UserError that names the key and the file."""
    if "--help" in argv or "-h" in argv:
        return Request(None, help_text())
    files, given = _arguments([each for each in argv if each != "--print-config"])
    if not files and not {"env.name", "algo.name"} & set(given):
        raise UserError(
            "no configuration: give an experiment, or --algo and --env; --help tells more"
        )
    if len(files) > 1:
        raise UserError(f"one configuration file at a time, got {' and '.join(map(shown, files))}")
    layer, note = _experiment(files[0]) if files else ({}, "")
    layers = layer | given
    config = build(_defaults("algo", layers) | _defaults("env", layers) | layers)
    return Request(None, to_yaml(config)) if "--print-config" in argv else Request(config, note)


def help_text() -> str:
    """Usage, and every key with type, default and meaning."""
    lines = [
        USAGE.format(experiments=", ".join(shipped_experiments())),
        "keys (section.key=value; also as --section.key value):",
    ]
    meanings = {section: _meanings(owner) for section, owner in {**SECTIONS, "": Config}.items()}
    for name, key in KEYS.items():
        default = getattr(SECTIONS.get(key.section, Config)(), key.field.name)
        spelt = (
            default
            if isinstance(default, str)
            else "none"
            if key.kind is LinkProfile
            else json.dumps(default)
        )
        lines.append(
            f"  {name:<28} {key.kind.__name__:<6} {spelt:<10} {meanings[key.section][key.field.name]}"
        )
    lines += ["", f"HARL's flags understood: {', '.join('--' + key for key in HARL_KEYS)}"]
    return "\n".join(lines)


def _meanings(owner: type) -> dict[str, str]:
    """The text under each field of a section's class."""
    [definition] = ast.parse(inspect.getsource(owner)).body
    assert isinstance(definition, ast.ClassDef)
    return {
        item.target.id: ast.literal_eval(below.value)
        for item, below in zip(definition.body, definition.body[1:])
        if isinstance(item, ast.AnnAssign)
        and isinstance(item.target, ast.Name)
        and isinstance(below, ast.Expr)
    }


def _arguments(argv: list[str]) -> tuple[list[str], Layer]:
    """Configuration files, and the keys given on the command line; the last of two wins."""
    files: list[str] = []
    given: Layer = {}
    words = iter(argv)
    for word in words:
        name, equals, text = word.partition("=")
        if word.startswith("-"):
            key = "" if name == "--load_config" else _key_of_flag(name)
            value = text if equals else next(words, None)
            if value is None or (not equals and value.startswith("--")):
                raise UserError(f"{name}: needs a value (command line)")
            if key:
                given[key] = _value(key, value)
            else:
                files.append(value)
        elif equals and "/" not in name:
            given[name] = _value(name, text)
        else:
            files.append(word)
    return files, given


def _key_of_flag(flag: str) -> str:
    """Our key for --section.key, or for a flag of HARL's."""
    name = flag[2:]
    if flag.startswith("--") and "." in name:
        return name
    if name in UNSUPPORTED:
        raise UserError(f"{flag}: not supported: {UNSUPPORTED[name]} (command line)")
    if not flag.startswith("--") or name not in HARL_KEYS:
        hint = did_you_mean(flag, [f"--{each}" for each in (*HARL_KEYS, *KEYS)], 0.7)
        raise UserError(f"{shown(flag)}: no such flag (command line){hint}; --help lists all")
    return HARL_KEYS[name]


def _value(key: str, text: str) -> Value:
    """A value as the shell passed it: text stays as it is (010, null, 1:30), all else is YAML."""
    if key in KEYS and KEYS[key].kind is not str:
        return Value(load(text, f"{key} (command line)"), "command line")
    return Value(text, "command line")


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
        return path.read_text(encoding="utf-8")
    except OSError as error:
        raise UserError(f"{name}: can't read the configuration: {error.strerror}") from error
    except UnicodeDecodeError as error:
        raise UserError(f"{name}: not a text file") from error
    except ValueError as error:
        raise UserError(f"{name}: not a file's name") from error


def _defaults(section: str, layers: Layer) -> Layer:
    """The defaults file of the algorithm or environment that `layers` name. Raises UserError if it names another."""
    own = f"{section}.name"
    asked = layers.get(own) or Value(getattr(Config(), section).name, "default")
    name = str(asked.value) if isinstance(asked.value, (str, int)) else ""
    folder = PRESETS / FOLDERS[section]
    valid = sorted(path.stem for path in folder.glob("*.yaml"))
    if name not in valid:
        hint = did_you_mean(name, valid)
        raise UserError(
            f"{own}: unknown {brief(asked.value)} ({asked.source}){hint}; there are: {', '.join(valid)}"
        )
    layer = _read(folder / f"{name}.yaml")
    for key in {"algo.name", "env.name"} & set(layer):
        value, source = layer[key]
        if key != own or value != name:
            raise UserError(
                f"{key}: expected no name but {own}: {name}, got {brief(value)} ({source})"
            )
    return layer
