"""The benchmarks. A new one is a module with `make`, one line in `ENVS` and a YAML file."""

from __future__ import annotations

import importlib

from sde_harl.envs import starcraft2
from sde_harl.envs.base import EnvConfig, EnvSpec, Step, VectorEnv, unknown
from sde_harl.errors import UserError

__all__ = ["ENVS", "EnvConfig", "EnvSpec", "Step", "VectorEnv", "make", "resolve_backend"]

# benchmark -> backend -> module of this package; `pip install -e '.[BACKEND]'` brings what the backend needs
ENVS: dict[str, dict[str, str]] = {
    "smac": {"starcraft2": "starcraft2", "smax": "smax"},
    "mpe": {"mpe": "mpe"},
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
        return "smax", f"smac is played on smax, and its results are called smax, because {missing}."
    return "starcraft2", "smac is played on starcraft2, because the package smac and the game are both here."


def make(env_config: EnvConfig, num_envs: int, seed: int, first_env: int = 0) -> VectorEnv:
    """Make environments `first_env` .. `first_env + num_envs - 1` of the run with `seed`.

    Environment i's random stream follows from (seed, i) alone: two vectors of 32, the second with first_env=32, play
    the games of one vector of 64. Raises UserError for an unknown name, backend or map, and for a missing package.
    """
    backend, _ = resolve_backend(env_config)
    try:
        module = importlib.import_module(f"sde_harl.envs.{ENVS[env_config.name][backend]}")
        vector: VectorEnv = module.make(env_config, num_envs, seed, first_env)
    except ModuleNotFoundError as error:
        raise UserError(
            f"env.name: {env_config.name} on {backend} needs the package {error.name}: pip install -e '.[{backend}]'"
        ) from error
    return vector
