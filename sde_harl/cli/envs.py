"""Lists the environments: their maps, sizes as measured here, and how to install what is missing.

    sde-harl envs [NAME ...] [--markdown]

NAME is a value of env.name; without one, all are listed. Sizes are those that an environment tells
when it is made: numbers of an agent's observation, choices of its actions (d: dimensions of a
continuous action), numbers of the state, and steps after which an episode is truncated. Where
agents differ, the least and the most are shown. A benchmark whose maps are too many shows examples.
`python -m sde_harl.envs` is the same command. --markdown writes the tables of docs/environments.md,
and measures how fast the environments step.
"""

from __future__ import annotations

import argparse
import contextlib
import io
import logging
import os
import platform
import textwrap
import time
from collections.abc import Iterator, Sequence
from typing import NamedTuple

import numpy as np
from rich import box
from rich.table import Table

from sde_harl.config.arguments import parse
from sde_harl.config.schema import Config, EnvConfig
from sde_harl.draws.counters import Draw, Purpose
from sde_harl.envs.base import EnvSpec
from sde_harl.envs.registry import ENVS, Backend, make, maps, spec_of
from sde_harl.envs.settings import unknown_value
from sde_harl.errors import ExitCode, UserError
from sde_harl.record.terminal import PlainConsole
from sde_harl.roles.experience import random_actions

WIDTH = 140  # where the output is no terminal
INSTALLATION = ("env.name", "env.backend", "installed", "how", "licence")
WHAT = "what it is, or what is missing"
SIZES = ("env.name", "env.backend", "env.map", "agents", "observation", "actions", "state", "steps")
SPEED = "steps/s"
MEASURED_S = 2.0
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
    try:
        with _quiet():
            names = maps(EnvConfig(name=name, backend=key))
            specs = {each: spec_of(preset(found, f"env.map={each}").env) for each in names}
    except UserError as error:
        return found._replace(missing=str(error))
    return found._replace(specs=specs)


def preset(each: Listed, *words: str) -> Config:
    """Returns the configuration of a benchmark where nothing is said but these words."""
    given = (f"env.name={each.name}", f"env.backend={each.backend}", "env.workers=0", *words)
    config = parse(list(given)).config
    assert config is not None  # no word asks for a text alone
    return config


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


def size_rows(found: Sequence[Listed]) -> list[tuple[str, ...]]:
    """Returns the cells of a line for each map that can be played here, below SIZES."""
    rows: list[tuple[str, ...]] = []
    for each in found:
        for number, (name, spec) in enumerate(each.specs.items()):
            whose = ("", "") if number else (each.name, each.backend)
            rows.append((*whose, name, *size_of(spec)))
    return rows


def installation_rows(found: Sequence[Listed]) -> list[tuple[str, ...]]:
    """Returns the cells of a line for each backend, below INSTALLATION."""
    rows: list[tuple[str, ...]] = []
    for each in found:
        installed = "no" if each.missing else "yes"
        licence = ENVS[each.name][each.backend].licence
        rows.append((each.name, each.backend, installed, each.install or "-", licence or "-"))
    return rows


def _what(each: Listed) -> str:
    if each.specs:
        return "its maps are listed below"
    return each.missing or OWN.get(each.name) or ELSEWHERE


def terminal_table(headings: Sequence[str], rows: Sequence[Sequence[str]]) -> Table:
    """Returns a table for a terminal."""
    table = Table(box=box.SIMPLE_HEAD)
    for heading in headings:
        is_number = heading in SIZES and not heading.startswith("env.")
        table.add_column(heading, justify="right" if is_number else "left", overflow="fold")
    for row in rows:
        table.add_row(*row)
    return table


def markdown_table(headings: Sequence[str], rows: Sequence[Sequence[str]]) -> str:
    """Returns a table for a page."""
    lines = [headings, ["---"] * len(headings), *rows]
    # A bar would end the cell.
    return "\n".join(
        "| " + " | ".join(cell.replace("|", "\\|") for cell in line) + " |" for line in lines
    )


def steps_per_s(each: Listed) -> str:
    """Measures random play in one process, on the map of the benchmark's preset.

    Returns "-" for what isn't installed, and for StarCraft II, whose games are not started for it.
    """
    if not each.specs or ENVS[each.name][each.backend].requirements is not None:
        return "-"
    config = preset(each)
    with _quiet():
        env = make(config.env, num_envs=config.train.envs, seed=1)
    agents = np.arange(len(env.spec.agents), dtype=np.int32)
    draw = Draw(seed=1, purpose=Purpose.RANDOM_PLAY, step=0, first_environment=0, agents=agents)
    now = env.reset()
    played = 0
    start = time.perf_counter()
    # The first two steps are not timed: JAX compiles in them.
    while played < 3 or time.perf_counter() - start < MEASURED_S:
        if played == 2:
            start = time.perf_counter()
        now_drawn = draw._replace(step=played)
        env.send(random_actions(env.spec, now.available_actions, now_drawn))
        now = env.recv()
        played += 1
    rate = (played - 2) * env.num_envs / (time.perf_counter() - start)
    env.close()
    return f"{rate:,.0f} ({config.env.map}, {config.train.envs} at a time)"


def page(found: Sequence[Listed]) -> str:
    """Returns the tables of docs/environments.md."""
    rows = [
        (name, backend, how, licence, steps_per_s(each))
        for each, (name, backend, _, how, licence) in zip(found, installation_rows(found))
    ]
    installation = markdown_table(("env.name", "env.backend", "how", "licence", SPEED), rows)
    load, _, _ = os.getloadavg()
    measured = (
        f"{SPEED}: environment steps a second of random play in one process, measured on"
        f" {platform.node()} ({platform.machine()}, {os.cpu_count()} cores, {load:.0f} processes"
        f" at work) on {time.strftime('%d %B %Y')}."
    )
    # As wide as the other paragraphs of docs/.
    paragraph = textwrap.fill(measured, 124, break_long_words=False, break_on_hyphens=False)
    return "\n\n".join([installation, paragraph, markdown_table(SIZES, size_rows(found))])


def main(argv: list[str]) -> int:
    """Prints what is installed, and the maps of that. Returns the exit code."""
    parser = argparse.ArgumentParser(
        prog="sde-harl envs",
        description=__doc__,
        formatter_class=argparse.RawDescriptionHelpFormatter,
        allow_abbrev=False,
    )
    parser.add_argument("names", metavar="NAME", nargs="*", help="only these benchmarks")
    parser.add_argument(
        "--markdown", action="store_true", help="write the tables of docs/environments.md"
    )
    options = parser.parse_args(argv)
    names = options.names
    for name in names:
        if name not in ENVS:
            raise unknown_value("NAME", name, ENVS)
    found = [
        listed(name, key, backend) for name in names or ENVS for key, backend in ENVS[name].items()
    ]
    if options.markdown:
        print(page(found))
        return ExitCode.DONE
    console = PlainConsole(width=WIDTH)
    rows = [(*row, _what(each)) for each, row in zip(found, installation_rows(found))]
    console.print(terminal_table((*INSTALLATION, WHAT), rows))
    if any(each.specs for each in found):
        console.print(terminal_table(SIZES, size_rows(found)))
    return ExitCode.DONE
