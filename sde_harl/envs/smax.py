"""SMAX: JaxMARL's battles in the style of SMAC, one compiled step for all environments of a vector.

Results on it are called "smax/<map>", never SMAC. JaxMARL: Rutherford et al., NeurIPS 2024 (Datasets and Benchmarks).
"""

from __future__ import annotations

import contextlib
import functools
import hashlib
import io
import logging
import os
import platform
import sys
from collections.abc import Iterator
from pathlib import Path
from typing import Any, NamedTuple, cast

import jax
import jax.numpy as jnp
import numpy as np
from numpy.typing import NDArray

from sde_harl.envs.base import EnvConfig, EnvSpec, Step, VectorEnv, stream, unknown
from sde_harl.errors import UserError

log = logging.getLogger(__name__)


class _Games(NamedTuple):
    """All that E games carry from step to step, on JAX's side. A seed is (2,) uint32, high word first."""

    streams: jax.Array  # (E, 2), an environment's stream: never changes
    episodes: jax.Array  # (E,), how many episodes of it have ended
    seeds: jax.Array  # (E, 2), the current episode's seed, which is its first key too
    keys: jax.Array  # (E, 2)
    games: Any  # JaxMARL's own state
    returns: jax.Array  # (E,), so far
    lengths: jax.Array  # (E,), so far


class _View(NamedTuple):
    """What the agents and the critic see of a game: the first fields of a Step, still on JAX's side (hence Any)."""

    obs: Any  # (N, O)
    state: Any  # (S,)
    available_actions: Any  # (N, A)
    active: Any  # (N,)


class _Played(NamedTuple):
    """One game after one step, before anything is reset."""

    key: Any  # (2,)
    game: Any
    view: _View
    reward: Any  # ()
    terminated: Any  # ()
    truncated: Any  # ()
    won: Any  # ()


class _Battle:
    """The rules of one map as pure functions: `reset` and `step` take and give batches of E games."""

    def __init__(self, game: Any, map_name: str) -> None:
        self._game = game
        self.spec = _spec(game, map_name)

    def reset(self, streams: jax.Array) -> tuple[_Games, Step]:
        """Begin the first episode of each of the (E, 2) streams."""
        episodes = jnp.zeros(len(streams), jnp.int32)
        seeds, keys, games, view = jax.vmap(self._begin)(streams, episodes)
        zeros: Any = jnp.zeros(len(streams), jnp.float32)
        no, none = zeros.astype(bool), zeros.astype(jnp.int32)
        step = Step(*view, zeros, no, no, view.state, view.obs, none.astype(jnp.int8) - 1, zeros, none)
        return _Games(streams, episodes, seeds, keys, games, zeros, none), step

    def step(self, before: _Games, actions: jax.Array) -> tuple[_Games, Step]:
        """Play (E, N) actions and begin the next episode where one ended."""
        played: _Played = jax.vmap(self._play)(before.keys, before.games, actions)
        ended = played.terminated | played.truncated
        returns, lengths = before.returns + played.reward, before.lengths + 1
        episodes = before.episodes + ended
        going_on = (before.seeds, played.key, played.game, played.view)

        def begin_ended() -> Any:
            begun = jax.vmap(self._begin)(before.streams, episodes)
            return jax.tree.map(functools.partial(_where, ended), begun, going_on)

        # outside of vmap, so that the cost of a reset is paid only in steps where an episode ends
        seeds, keys, games, view = jax.lax.cond(ended.any(), begin_ended, lambda: going_on)
        totals = (jnp.where(ended, 0, returns), jnp.where(ended, 0, lengths))
        outcome = (played.reward, played.terminated, played.truncated, played.view.state, played.view.obs)
        won = jnp.where(ended, played.won, -1).astype(jnp.int8)
        fields: list[Any] = [*view, *outcome, won, returns - totals[0], lengths - totals[1]]  # in the order of Step
        return _Games(before.streams, episodes, seeds, keys, games, *totals), Step(*fields)

    def _begin(self, stream_key: jax.Array, episode: jax.Array) -> tuple[jax.Array, jax.Array, Any, _View]:
        # the top bit is dropped so that the seed fits a non-negative int64
        seed = jax.random.fold_in(stream_key, episode) & jnp.array([0x7FFFFFFF, 0xFFFFFFFF], jnp.uint32)
        key, reset_key = jax.random.split(seed)
        obs, game = self._game.reset(reset_key)
        # a reset leaves weakly typed constants; the two branches of `cond` must agree in type with what a step gives
        game = jax.tree.map(lambda leaf: jax.lax.convert_element_type(leaf, leaf.dtype), game)
        return seed, key, game, self._view(obs, game)

    def _play(self, key: jax.Array, game: Any, actions: jax.Array) -> _Played:
        key, step_key = jax.random.split(key)
        # step_env, not step: that one resets by itself and loses the state an episode ended in
        choice = {agent: actions[i] for i, agent in enumerate(self.spec.agents)}
        obs, game, rewards, _, _ = self._game.step_env(step_key, game, choice)
        allies, enemies = jnp.split(game.state.unit_alive, [len(self.spec.agents)])
        terminated = ~allies.any() | ~enemies.any()
        # the game's own `done` looks at the clock before it ticks and would give one step more than the limit
        truncated = (game.state.step >= self.spec.episode_limit) & ~terminated
        won = allies.any() & ~enemies.any()
        return _Played(key, game, self._view(obs, game), rewards[self.spec.agents[0]], terminated, truncated, won)

    def _view(self, obs: dict[str, jax.Array], game: Any) -> _View:
        available = self._game.get_avail_actions(game)
        return _View(
            jnp.stack([obs[agent] for agent in self.spec.agents]),
            obs["world_state"],
            jnp.stack([available[agent] for agent in self.spec.agents]).astype(bool),
            game.state.unit_alive[: len(self.spec.agents)],
        )


def _where(ended: jax.Array, new: jax.Array, old: jax.Array) -> jax.Array:
    """`new` of the games where (E,) `ended`, else `old`; both (E, ...)."""
    return jnp.where(ended.reshape((-1,) + (1,) * (new.ndim - 1)), new, old)


def _spec(game: Any, map_name: str) -> EnvSpec:
    agents = tuple(game.agents)
    names = [game.unit_type_names[i] for i in np.asarray(game.scenario)[: len(agents)]]
    return EnvSpec(
        name=f"smax/{map_name}",
        agents=agents,
        obs_sizes=(int(game.obs_size),) * len(agents),
        action_sizes=((int(game.num_ally_actions),),) * len(agents),
        state_size=int(game.state_size),
        episode_limit=int(game.max_steps),
        continuous=False,
        unit_types=("",) * len(agents) if game.smacv2_unit_type_generation else tuple(names),
        has_win=True,
    )


class _Program(NamedTuple):
    """A map compiled for one number of environments."""

    spec: EnvSpec
    reset: Any
    step: Any


@functools.cache
def _battle(map_name: str) -> _Battle:
    smax = _import_smax()
    if map_name not in smax.MAP_NAME_TO_SCENARIO:
        raise unknown("env.map", map_name, smax.MAP_NAME_TO_SCENARIO)
    from jaxmarl.environments.smax import HeuristicEnemySMAX

    make_game: Any = HeuristicEnemySMAX
    return _Battle(make_game(enemy_shoots=True, scenario=smax.map_name_to_scenario(map_name)), map_name)


@functools.cache
def _compile(map_name: str, num_envs: int) -> _Program:
    """Compile ahead of time, once for all vectors of this size, so that no step of a run waits for the compiler."""
    battle = _battle(map_name)
    streams = np.zeros((num_envs, 2), np.uint32)
    actions = np.zeros((num_envs, len(battle.spec.agents)), np.int32)
    games, _ = jax.eval_shape(battle.reset, streams)
    reset = jax.jit(battle.reset).lower(streams).compile()
    return _Program(battle.spec, reset, jax.jit(battle.step).lower(games, actions).compile())


class SmaxVector(VectorEnv):
    """E battles of one map. JAX computes a step on threads of its own, so `send` returns at once."""

    def __init__(self, map_name: str, num_envs: int, seed: int, first_env: int) -> None:
        self._program = _compile(map_name, num_envs)
        self.spec = self._program.spec
        self.num_envs = num_envs
        indices = range(first_env, first_env + num_envs)
        self._streams = np.stack([stream(seed, i).generate_state(2, np.uint32) for i in indices])  # (E, 2)
        self._games: _Games | None = None
        self._pending: Step | None = None
        self._seeds: jax.Array | None = None

    def reset(self) -> Step:
        self._games, self._pending = self._program.reset(self._streams)
        return self.recv()

    def send(self, actions: NDArray[np.generic]) -> None:
        # a copy, because JAX may read the caller's memory while the step runs
        self._games, self._pending = self._program.step(self._games, np.array(actions[..., 0], np.int32))

    def recv(self) -> Step:
        if self._pending is None or self._games is None:
            raise RuntimeError("recv without send")
        step, self._pending = self._pending, None
        self._seeds = self._games.seeds
        fields: list[Any] = [np.asarray(field) for field in step]
        return Step(*fields)

    def episode_seeds(self) -> NDArray[np.int64]:
        if self._seeds is None:
            raise RuntimeError("episode_seeds before reset")
        words = np.asarray(self._seeds).astype(np.int64)
        return cast("NDArray[np.int64]", words[:, 0] << 32 | words[:, 1])

    def close(self) -> None:
        self._games = self._pending = self._seeds = None


def make(env_config: EnvConfig, num_envs: int, seed: int, first_env: int) -> SmaxVector:
    """See `sde_harl.envs.make`. Raises UserError for an unknown map and for continuous actions."""
    if env_config.continuous_actions:
        raise UserError("env.continuous_actions: smac has discrete actions only")
    return SmaxVector(env_config.map, num_envs, seed, first_env)


def _import_smax() -> Any:
    """JaxMARL's SMAX module. Importing it computes with JAX already, so JAX is set up first."""
    if "JAX_PLATFORMS" not in os.environ:
        # the batch is small and its consumers are numpy: on an accelerator each step would pay for two transfers
        _configure("jax_platforms", "cpu")
    if "JAX_COMPILATION_CACHE_DIR" not in os.environ:
        _keep_compiled(_cache_dir())
    with _no_stdout():
        from jaxmarl.environments.smax import smax_env
    return smax_env


def _configure(option: str, value: object) -> None:
    jax.config.update(option, value)  # type: ignore[no-untyped-call]


@contextlib.contextmanager
def _no_stdout() -> Iterator[None]:
    """Drop what JaxMARL prints on import. It also sets sys.stdout and sys.stderr to the process's first ones."""
    kept = sys.stdout, sys.stderr, sys.__stdout__
    sys.stdout = sys.__stdout__ = io.TextIOWrapper(io.BytesIO())  # type: ignore[misc]
    try:
        yield
    finally:
        sys.stdout, sys.stderr, sys.__stdout__ = kept  # type: ignore[misc]


def _cache_dir() -> Path:
    """Where compiled steps are kept: a folder a kind of processor, since a home directory may be shared by several."""
    home = Path(os.environ.get("XDG_CACHE_HOME") or "~/.cache").expanduser()
    cpuinfo = Path("/proc/cpuinfo")
    lines = cpuinfo.read_text().splitlines() if cpuinfo.is_file() else []
    features = next((line for line in lines if line.startswith(("flags", "Features"))), "")
    kind = hashlib.sha256(features.encode()).hexdigest()[:12]
    return home / "sde_harl" / "jax" / f"{platform.machine()}-{kind}"


def _keep_compiled(folder: Path) -> None:
    try:
        folder.mkdir(parents=True, exist_ok=True)
    except OSError as error:
        log.warning("compiled SMAX steps are not kept, the next start compiles again: %s", error)
        return
    _configure("jax_compilation_cache_dir", str(folder))
    _configure("jax_persistent_cache_min_compile_time_secs", 0)
