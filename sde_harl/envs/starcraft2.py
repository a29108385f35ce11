"""SMAC on the real game. This module only says whether it could be played here."""

from __future__ import annotations

import os
from importlib.machinery import PathFinder
from pathlib import Path

from sde_harl.envs.base import EnvConfig, VectorEnv
from sde_harl.errors import UserError


def missing() -> str:
    """What is not here of the package smac and the game, as a clause; "" if both are."""
    if not _has_package():
        return "the package smac (oxwhirl's, with smac.env) is not installed"
    game = Path(os.environ.get("SC2PATH", "~/StarCraftII")).expanduser()
    return "" if game.is_dir() else f"StarCraft II is not at {game} (SC2PATH says where it is)"


def _has_package() -> bool:
    # PyPI's `smac` is another project. Looking for the subpackage without importing the parent keeps its code unrun.
    path = None
    for name in ("smac", "smac.env", "smac.env.starcraft2"):
        spec = PathFinder.find_spec(name, path)
        if spec is None or spec.submodule_search_locations is None:
            return False
        path = list(spec.submodule_search_locations)
    return True


def make(env_config: EnvConfig, num_envs: int, seed: int, first_env: int) -> VectorEnv:
    """Raises UserError."""
    raise UserError("env.backend: starcraft2 is not built yet; use smax")
