"""The benchmarks. A new one is a module, one line in `ENVS` and a YAML file.

The module has `make_game(env_config) -> Game`, one game, of which `make` builds vectors; or, where all games are one
computation, `make(env_config, num_envs, seed, first_env) -> VectorEnv`.
"""

from __future__ import annotations

import contextlib
import importlib
from collections.abc import Iterator
from typing import Any, NamedTuple

from sde_harl.envs import starcraft2
from sde_harl.envs.base import EnvConfig, EnvSpec, VectorEnv, unknown
from sde_harl.envs.vector.games import Game, SerialVector
from sde_harl.envs.vector.workers import WorkerVector
from sde_harl.errors import UserError

__all__ = [
    "ENVS",
    "EnvConfig",
    "EnvSpec",
    "VectorEnv",
    "make",
    "make_games",
    "resolve_backend",
]


class Backend(NamedTuple):
    """One implementation of a benchmark."""

    module: str
    """Of this package."""
    extra: str
    """`pip install -e '.[EXTRA]'` brings what it needs, where it needs anything."""


# benchmark -> backend; where a benchmark has several, "auto" takes the first (but see `resolve_backend` for smac)
ENVS: dict[str, dict[str, Backend]] = {
    "smac": {"starcraft2": Backend("starcraft2", "smac"), "smax": Backend("smax", "smax")},
    "mpe": {"mpe2": Backend("mpe", "mpe"), "jax": Backend("mpe_jax", "jax")},
    "mamujoco": {"mujoco": Backend("mamujoco", "mamujoco")},
    "pettingzoo": {"pettingzoo": Backend("pettingzoo", "pettingzoo")},
    "devices": {"devices": Backend("devices", "")},
}


def resolve_backend(env_config: EnvConfig) -> tuple[str, str]:
    """The backend that plays `env_config`, and one plain sentence that says which and why.

    Raises UserError for an unknown env.name or env.backend.
    """
    name, asked = env_config.name, env_config.backend
    if name not in ENVS:
        raise unknown("env.name", name, ENVS)
    backends = ENVS[name]
    if asked in backends:
        return asked, f"{name} is played on {asked}, as env.backend asks."
    if asked != "auto":
        raise unknown("env.backend", asked, ["auto", *backends])
    if name != "smac":
        backend = next(iter(backends))
        return backend, f"{name} is played on {backend}."
    missing = starcraft2.missing()
    if missing:
        return (
            "smax",
            f"smac is played on smax, and its results are called smax, because {missing}.",
        )
    return (
        "starcraft2",
        "smac is played on starcraft2, because the package smac and the game are both here.",
    )


def make(env_config: EnvConfig, num_envs: int, seed: int, first_env: int = 0) -> VectorEnv:
    """Make environments `first_env` .. `first_env + num_envs - 1` of the run with `seed`.

    Environment i's random stream follows from (seed, i) alone: two vectors of 32, the second with first_env=32, play
    the games of one vector of 64. Raises UserError for an unknown name, backend or map, and for a missing package.
    """
    with _needs(env_config) as module:
        if not hasattr(module, "make_game"):
            vector: VectorEnv = module.make(env_config, num_envs, seed, first_env)
            return vector
    if env_config.workers:
        return WorkerVector(env_config, num_envs, seed, first_env)
    return SerialVector(make_games(env_config, num_envs), seed, first_env)


def make_games(env_config: EnvConfig, count: int) -> list[Game]:
    """`count` equal games of a benchmark that has them singly. Raises UserError as `make` does."""
    with _needs(env_config) as module:
        return [module.make_game(env_config) for _ in range(count)]


@contextlib.contextmanager
def _needs(env_config: EnvConfig) -> Iterator[Any]:
    """The backend's module; a package that it misses is the user's to install."""
    backend, _ = resolve_backend(env_config)
    module, extra = ENVS[env_config.name][backend]
    try:
        yield importlib.import_module(f"sde_harl.envs.{module}")
    except ModuleNotFoundError as error:
        raise UserError(
            f"env.name: {env_config.name} on {backend} needs the package {error.name}: pip install -e '.[{extra}]'"
        ) from error
