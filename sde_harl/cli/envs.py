"""Lists the environments: their maps, sizes as measured here, and how to install what is missing.

    sde-harl envs [NAME ...]

NAME is a value of env.name; without one, all are listed. Sizes are those that an environment tells
when it is made: numbers of an agent's observation, choices of its actions (d: dimensions of a
continuous action), numbers of the state, and steps after which an episode is truncated. Where
agents differ, the least and the most are shown. A benchmark whose maps are too many shows examples.
"""

from __future__ import annotations

import argparse
import contextlib
import io
import logging
from collections.abc import Iterator, Sequence
from typing import NamedTuple

from rich import box
from rich.table import Table

from sde_harl.config.schema import EnvConfig
from sde_harl.envs.base import EnvSpec
from sde_harl.envs.registry import ENVS, Backend, maps, spec_of
from sde_harl.envs.settings import unknown_value
from sde_harl.errors import ExitCode, UserError
from sde_harl.record.terminal import PlainConsole

WIDTH = 140  # where the output is no terminal
HEADINGS = ("env.name", "env.backend", "env.map", "agents", "observation", "actions", "state")
OWN = {
    "pettingzoo": "your own parallel environment: env.factory=module:function makes it",
    "devices": "sensors and actuators of your own boards (docs/boards.md)",
}
"""Benchmarks without maps, in a few words."""
ELSEWHERE = "docs/environments.md lists its maps"


class Listed(NamedTuple):
    """One implementation of a benchmark, as it is on this host."""

    name: str
    backend: str
    install: str
    """How it is installed; "" where it needs nothing."""
    specs: dict[str, EnvSpec]
    """By map, as measured; {} where it isn't installed or has no maps."""
    missing: str = ""
    """Why it can't be played here; "" where it can."""


def listed(name: str, key: str, backend: Backend) -> Listed:
    """Measures one implementation of a benchmark."""
    install = backend.install or (backend.extra and f"pip install -e '.[{backend.extra}]'")
    found = Listed(name=name, backend=key, install=install, specs={})
    if backend.requirements is not None:
        missing = backend.requirements().missing
        if missing:
            return found._replace(missing=missing)
    config = EnvConfig(name=name, backend=key)
    try:
        with _quiet():
            specs = {
                each: spec_of(config.model_copy(update={"map": each})) for each in maps(config)
            }
    except UserError as error:
        return found._replace(missing=str(error))
    return found._replace(specs=specs)


@contextlib.contextmanager
def _quiet() -> Iterator[None]:
    """Keeps what libraries print and warn of when they are first used out of the table."""
    logging.disable(logging.WARNING)
    try:
        with contextlib.redirect_stdout(io.StringIO()), contextlib.redirect_stderr(io.StringIO()):
            yield
    finally:
        logging.disable(logging.NOTSET)


def size_of(spec: EnvSpec) -> tuple[str, ...]:
    """Returns a spec's sizes as cells: agents, observation, actions, state, steps."""
    observation = _range(spec.obs_sizes)
    if spec.obs_images:
        observation = " x ".join(map(str, spec.obs_images[0]))
    if spec.continuous:
        actions = _range([own[0] for own in spec.action_sizes]) + " d"
    else:
        actions = _range([choices for own in spec.action_sizes for choices in own])
    steps = str(spec.episode_limit or "?")
    return (str(len(spec.agents)), observation, actions, str(spec.state_size), steps)


def _range(numbers: Sequence[int]) -> str:
    if min(numbers) == max(numbers):
        return str(numbers[0])
    return f"{min(numbers)} to {max(numbers)}"


def table_of(found: Sequence[Listed]) -> Table:
    """Returns a table with a line for each map that can be played here."""
    table = Table(box=box.SIMPLE_HEAD)
    for heading in (*HEADINGS, "steps"):
        justify = "left" if heading.startswith("env.") else "right"
        table.add_column(heading, justify=justify)  # type: ignore[arg-type]  # a Literal
    for each in found:
        for number, (name, spec) in enumerate(each.specs.items()):
            whose = ("", "") if number else (each.name, each.backend)
            table.add_row(*whose, name, *size_of(spec))
    return table


def installation(found: Sequence[Listed]) -> Table:
    """Returns a table that tells what is installed, and how."""
    table = Table(box=box.SIMPLE_HEAD)
    for heading in (
        "env.name",
        "env.backend",
        "installed",
        "how",
        "what it is, or what is missing",
    ):
        table.add_column(heading, overflow="fold")
    for each in found:
        installed = "no" if each.missing else "yes"
        what = each.missing or OWN.get(each.name) or ELSEWHERE
        if each.specs:
            what = "its maps are listed below"
        table.add_row(each.name, each.backend, installed, each.install or "-", what)
    return table


def main(argv: list[str]) -> int:
    """Prints what is installed, and the maps of that. Returns the exit code."""
    parser = argparse.ArgumentParser(
        prog="sde-harl envs",
        description=__doc__,
        formatter_class=argparse.RawDescriptionHelpFormatter,
        allow_abbrev=False,
    )
    parser.add_argument("names", metavar="NAME", nargs="*", help="only these benchmarks")
    names = parser.parse_args(argv).names
    for name in names:
        if name not in ENVS:
            raise unknown_value("NAME", name, ENVS)
    found = [
        listed(name, key, backend) for name in names or ENVS for key, backend in ENVS[name].items()
    ]
    console = PlainConsole(width=WIDTH)
    console.print(installation(found))
    if any(each.specs for each in found):
        console.print(table_of(found))
    return ExitCode.DONE
