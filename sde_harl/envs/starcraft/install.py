"""Finds out whether StarCraft II and its clients are on this host, and which version of the game.

The registry imports this module in every run, so it imports nothing of the clients themselves.
"""

from __future__ import annotations

import functools
import os
import re
from collections.abc import Callable
from importlib.machinery import PathFinder
from pathlib import Path

from sde_harl.envs.settings import Requirements
from sde_harl.errors import UserError

LICENCE = "MIT (client), Blizzard's own (game)"
HOW = "see docs/starcraft.md"
STEP_TIMEOUT_S = 1800.0
"""For a step in a worker process, in which each of its games may be started several times. The
games themselves have limits of their own (process.py)."""
VERSIONS = {69232: "4.6.2", 75689: "4.10.0"}
"""Versions of the game, by build, that results have been published on."""


def game_folder() -> Path:
    """Returns the folder that the game is installed in, whether it is or not."""
    return Path(os.environ.get("SC2PATH") or "~/StarCraftII").expanduser()


def game_version() -> str:
    """Returns the version that the clients start, such as "4.10.0 (build 75689)"; "" without one.

    They start the newest that is installed.
    """
    builds = [0]
    for binary in game_folder().glob("Versions/Base*/SC2_x64"):
        found = re.fullmatch(r"Base(\d+)", binary.parent.name)
        if found:
            builds.append(int(found.group(1)))
    build = max(builds)
    if not build:
        return ""
    return f"{VERSIONS.get(build, 'unknown version')} (build {build})"


def requires(client: str) -> Callable[[], Requirements]:
    """Returns the check whether `client`, smac or smacv2, can play on this host."""
    return functools.partial(_requirements, client)


def _requirements(client: str) -> Requirements:
    if not _has_package(client):
        return Requirements(missing=f"oxwhirl's package {client} is not installed ({HOW})")
    version = game_version()
    if not version:
        return Requirements(missing=f"StarCraft II is not at {game_folder()} ({HOW})")
    return Requirements(present=f"StarCraft II {version} is at {game_folder()}")


def has_map(filename: str) -> bool:
    """Returns True where a map is among the game's maps."""
    return any((game_folder() / "Maps").glob(f"**/{filename}.SC2Map"))


def check_map(filename: str) -> None:
    """Raises UserError if a map is not among the game's maps."""
    folder = game_folder() / "Maps"
    if not has_map(filename):
        raise UserError(f"env.map: {filename}.SC2Map is not under {folder} ({HOW})")


def _has_package(client: str) -> bool:
    """Returns whether oxwhirl's package is installed, without running any of its code."""
    # PyPI's `smac` is another project, so the name alone proves nothing: the subpackages must be
    # there as well. importlib.util.find_spec would import the parent package to look inside it;
    # PathFinder, given the parent's folders, doesn't.
    path = None
    for name in (client, f"{client}.env", f"{client}.env.starcraft2"):
        spec = PathFinder.find_spec(name, path)
        if spec is None or spec.submodule_search_locations is None:
            return False
        path = list(spec.submodule_search_locations)
    return True
