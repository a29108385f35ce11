"""Lists the benchmarks and makes vectors of their environments.

Adding an environment takes three things:

1. a module in this package with `make_game(env_config) -> Game`, which makes one game; or, where
   one computation steps all games, with
   `make(env_config, *, num_envs, seed, first_env) -> VectorEnv`; it may have `maps() -> list[str]`,
   for `sde-harl envs` to list them;
2. an entry in `ENVS`;
3. its defaults in config/presets/environments/<benchmark>.yaml.

Nothing outside these three knows a benchmark by name.
"""

from __future__ import annotations

import contextlib
import importlib
from collections.abc import Callable, Iterator, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any, NamedTuple

from sde_harl.envs.base import EnvSpec, VectorEnv
from sde_harl.envs.settings import EnvConfig, Requirements, unknown_value
from sde_harl.envs.starcraft import install
from sde_harl.envs.vector.games import Game, SerialVector
from sde_harl.envs.vector.workers import WorkerVector
from sde_harl.errors import UserError

if TYPE_CHECKING:
    from sde_harl.drawing.canvas import Colour
    from sde_harl.envs.vector.watching import Watched

__all__ = [
    "ENVS",
    "Backend",
    "EnvConfig",
    "EnvSpec",
    "VectorEnv",
    "make",
    "make_games",
    "make_watched",
    "resolve_backend",
]


WORKER_TIMEOUT_S = 60.0
"""Time that a step in a worker process may take, where no run's link.failure_timeout_s says it."""


class Backend(NamedTuple):
    """Describes one implementation of a benchmark."""

    module: str
    """Name of its module in this package."""
    extra: str = ""
    """`pip install 'sde_harl[EXTRA]'` installs what it needs; "" where it needs nothing."""
    install: str = ""
    """What else installs it, where no extra does."""
    step_timeout_s: float = 0.0
    """Least time that a step in a worker process may take, where a game may be started in it."""
    version: Callable[[], str] | None = None
    """Returns the game's version, where that is not a package's."""
    requirements: Callable[[], Requirements] | None = None
    """Checks whether this host can play it. None: usable wherever its packages are installed."""
    licence: str = ""
    """Of what is installed; "" where that is nothing."""
    results: str = ""
    """First part of its results' names where this isn't the benchmark's own name."""


class ChosenBackend(NamedTuple):
    """Tells which backend plays a benchmark, and why."""

    backend: str
    """Its key in `ENVS[benchmark]`."""
    line: str
    """One plain sentence for the user."""
    game_version: str = ""
    """The game's version, where that is not a package's."""


# Benchmark -> backend. `env.backend=auto` takes the first whose requirements are met, so the order
# is the order of preference. Modules are named, not imported: a run loads only the packages of its
# own benchmark. A module whose `requirements` stand here is imported, so it must import nothing
# heavy at its top level.
ENVS: dict[str, dict[str, Backend]] = {
    "smac": {
        "starcraft2": Backend(
            module="starcraft.smac",
            install="jobs/install_sc2.sh",
            requirements=install.requires("smac"),
            version=install.game_version,
            step_timeout_s=install.STEP_TIMEOUT_S,
            licence=install.LICENCE,
        ),
        "smax": Backend(module="smax", extra="smax", licence="Apache-2.0", results="smax"),
    },
    "smacv2": {
        "starcraft2": Backend(
            module="starcraft.smacv2",
            install="jobs/install_sc2.sh",
            requirements=install.requires("smacv2"),
            version=install.game_version,
            step_timeout_s=install.STEP_TIMEOUT_S,
            licence=install.LICENCE,
        ),
    },
    "mpe": {
        "mpe2": Backend(module="mpe", extra="mpe", licence="MIT"),
        "jax": Backend(module="mpe_jax", extra="jax", licence="Apache-2.0"),
    },
    "football": {
        "gfootball": Backend(
            module="football", extra="football", install="make football", licence="Apache-2.0"
        ),
    },
    "mamujoco": {"mujoco": Backend(module="mamujoco", extra="mamujoco", licence="MIT")},
    "lbforaging": {"lbforaging": Backend(module="lbforaging", extra="lbforaging", licence="MIT")},
    "rware": {"rware": Backend(module="rware", extra="rware", licence="MIT")},
    "pettingzoo": {"pettingzoo": Backend(module="pettingzoo", extra="pettingzoo", licence="MIT")},
    "devices": {"devices": Backend(module="devices")},
}


def resolve_backend(env_config: EnvConfig) -> ChosenBackend:
    """Returns the backend that plays `env_config`, and one plain sentence that says which and why.

    Raises UserError for an unknown env.name or env.backend, and where "auto" finds no backend.
    """
    name = env_config.name
    asked = env_config.backend
    if name not in ENVS:
        raise unknown_value("env.name", name, ENVS)
    backends = ENVS[name]
    if asked in backends:
        line = f"{name} is played on {asked}, as env.backend asks."
        return _chosen(asked, backends[asked], line=line)
    if asked != "auto":
        raise unknown_value("env.backend", asked, ["auto", *backends])
    return _first_usable(name, backends)


def _first_usable(name: str, backends: dict[str, Backend]) -> ChosenBackend:
    """Returns the first backend whose requirements are met. Raises UserError if there is none."""
    missing: list[str] = []
    for key, backend in backends.items():
        found = Requirements()
        if backend.requirements is not None:
            found = backend.requirements()
        if found.missing:
            missing.append(found.missing)
            continue
        # what an earlier, preferred backend misses explains the choice better than what is there
        reason = ", and ".join(missing) or found.present
        return _chosen(key, backend, line=_sentence(name, key, backend, reason=reason))
    raise UserError(f"env.backend: {name} can't be played here: {'; '.join(missing)}")


def _chosen(key: str, backend: Backend, *, line: str) -> ChosenBackend:
    version = ""
    if backend.version is not None:
        version = backend.version()
    return ChosenBackend(backend=key, line=line, game_version=version)


def _sentence(name: str, key: str, backend: Backend, *, reason: str) -> str:
    """Returns the sentence that tells the user which backend "auto" chose; `reason` may be ""."""
    sentence = f"{name} is played on {key}"
    if backend.results:
        sentence += f", and its results are called {backend.results}"
    if reason:
        sentence += f": {reason}"
    return sentence + "."


def make(
    env_config: EnvConfig,
    *,
    num_envs: int,
    seed: int,
    first_env: int = 0,
    timeout_s: float = WORKER_TIMEOUT_S,
) -> VectorEnv:
    """Makes environments `first_env` .. `first_env + num_envs - 1` of the run with `seed`.

    Environment i's random stream follows from (seed, i) alone, so vectors can be cut anywhere:

        all_games = make(config.env, num_envs=64, seed=1)
        left = make(config.env, num_envs=32, seed=1)
        right = make(config.env, num_envs=32, seed=1, first_env=32)

    `left` and `right` together play exactly the games of `all_games`. A worker process whose step
    takes longer than `timeout_s` is given up. Raises UserError for an unknown name, backend or map,
    and for a missing package.
    """
    with _backend_module(env_config) as module:
        if not hasattr(module, "make_game"):  # one computation steps all of its games
            vector: VectorEnv = module.make(
                env_config, num_envs=num_envs, seed=seed, first_env=first_env
            )
            return vector
    if env_config.workers:
        backend = ENVS[env_config.name][resolve_backend(env_config).backend]
        return WorkerVector(
            env_config,
            num_envs=num_envs,
            seed=seed,
            first_env=first_env,
            timeout_s=max(timeout_s, backend.step_timeout_s),
        )
    games = make_games(env_config, count=num_envs)
    return SerialVector(games, seed=seed, first_env=first_env)


def make_watched(
    env_config: EnvConfig,
    colours: Sequence[Colour],
    *,
    seed: int,
    env: int,
    replays: Path | None = None,
) -> Watched:
    """Makes a vector of environment number `env` alone, in this process, that can be watched.

    `colours`: of each agent; `replays`: folder for the game's own recordings. Its games are those
    of a vector that `make` makes. Raises UserError in the same cases as `make`, and where a game
    records nothing.
    """
    # Here, because a run that nobody watches needs no library that draws.
    from sde_harl.envs.vector.watching import watched_game, watched_rules

    with _backend_module(env_config) as module:
        if hasattr(module, "make"):
            if replays:
                raise _no_replays(env_config)
            vector = module.make(env_config, num_envs=1, seed=seed, first_env=env)
            return watched_rules(vector, colours)
    [game] = make_games(env_config, count=1)
    if replays and not game.record(replays):
        game.close()
        raise _no_replays(env_config)
    return watched_game(game, colours, seed=seed, first_env=env)


def _no_replays(env_config: EnvConfig) -> UserError:
    name = env_config.name
    return UserError(f"--replays: {name} makes none; StarCraft II and football do")


def maps(env_config: EnvConfig) -> list[str]:
    """Returns the maps of a benchmark, or examples where there are too many; [] if it tells none.

    Raises UserError in the same cases as `make`.
    """
    with _backend_module(env_config) as module:
        if not hasattr(module, "maps"):
            return []
        return list(module.maps())


def spec_of(env_config: EnvConfig) -> EnvSpec:
    """Returns what an environment says of itself. One is made for it, but no step is compiled.

    Raises UserError in the same cases as `make`.
    """
    with _backend_module(env_config) as module:
        if hasattr(module, "spec_of"):
            spec: EnvSpec = module.spec_of(env_config)
            return spec
    [game] = make_games(env_config, count=1)
    game.close()
    return game.spec


def make_games(env_config: EnvConfig, *, count: int) -> list[Game]:
    """Makes `count` equal games of a benchmark that has `make_game`.

    Raises UserError in the same cases as `make`.
    """
    with _backend_module(env_config) as module:
        return [module.make_game(env_config) for _ in range(count)]


@contextlib.contextmanager
def _backend_module(env_config: EnvConfig) -> Iterator[Any]:
    """Gives the backend's module to a `with` block.

    Within the block, too, a missing package becomes a UserError that says how to install it: some
    modules import their package only when they make a game.
    """
    chosen = resolve_backend(env_config).backend
    backend = ENVS[env_config.name][chosen]
    try:
        yield importlib.import_module(f"sde_harl.envs.{backend.module}")
    except ModuleNotFoundError as error:
        how = backend.install or f"pip install 'sde_harl[{backend.extra}]'"
        raise UserError(
            f"env.name: {env_config.name} on {chosen} needs the package {error.name}: {how}"
        ) from error
