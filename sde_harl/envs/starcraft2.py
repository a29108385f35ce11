"""SMAC on the real game. Today this module only finds out whether the game could be played here.

The registry imports this module in every run, so it imports nothing of the package smac itself.
"""

from __future__ import annotations

import os
from importlib.machinery import PathFinder
from pathlib import Path

from sde_harl.envs.base import VectorEnv
from sde_harl.envs.settings import EnvConfig, Requirements
from sde_harl.errors import UserError


def requirements() -> Requirements:
    """Checks whether the package smac and the game StarCraft II are on this host."""
    if not _has_package():
        return Requirements(missing="the package smac (oxwhirl's, with smac.env) is not installed")
    game = Path(os.environ.get("SC2PATH", "~/StarCraftII")).expanduser()
    if not game.is_dir():
        return Requirements(missing=f"StarCraft II is not at {game} (SC2PATH says where it is)")
    return Requirements(present="the package smac and the game are both here")


def _has_package() -> bool:
    """Returns whether oxwhirl's smac is installed, without running any of its code."""
    # PyPI's `smac` is another project, so the name alone proves nothing: the subpackages must be
    # there as well. importlib.util.find_spec would import the parent package to look inside it;
    # PathFinder, given the parent's folders, doesn't.
    path = None
    for name in ("smac", "smac.env", "smac.env.starcraft2"):
        spec = PathFinder.find_spec(name, path)
        if spec is None or spec.submodule_search_locations is None:
            return False
        path = list(spec.submodule_search_locations)
    return True


def make(env_config: EnvConfig, *, num_envs: int, seed: int, first_env: int) -> VectorEnv:
    """Raises UserError: there is nothing to make yet."""
    raise UserError("env.backend: starcraft2 is not built yet; use smax")
