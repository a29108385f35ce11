"""Benchmarks whose games are one computation: JAX steps all environments of a vector in one compiled call.

`Rules` are one game as pure functions; `CompiledVector` is the `VectorEnv` that runs many of them side by side, resets
included, compiled ahead of time.
"""

from __future__ import annotations

import functools
import hashlib
import logging
import os
import platform
from abc import ABC, abstractmethod
from collections.abc import Callable, Hashable
from pathlib import Path
from typing import Any, NamedTuple, cast

import jax
import jax.numpy as jnp
import numpy as np
from numpy.typing import NDArray

from sde_harl.envs.base import EnvSpec, EnvStep, VectorEnv, stream

log = logging.getLogger(__name__)

IN_TURN: dict[str, bool | str] = {"xla_cpu_enable_concurrency_optimized_scheduler": False}
"""Compiler options that order a step's kernels for one thread."""


class JaxView(NamedTuple):
    """What the agents and the critic see of a game: the first fields of a Step, still on JAX's side (hence Any)."""

    obs: Any  # (N, O)
    state: Any  # (S,)
    available_actions: Any  # (N, A)
    active: Any  # (N,)


class JaxOutcome(NamedTuple):
    """One game after one step, before anything is reset. When time is over isn't the rules' business."""

    game: Any
    view: JaxView
    reward: Any  # ()
    terminated: Any  # ()
    won: Any  # (), counts only where the episode ends


class Rules(ABC):
    """One game as pure functions of JAX arrays. A game's state is any tree of arrays, its keys among them."""

    spec: EnvSpec
    background: bool
    """Steps run on threads of JAX's own: for long ones. To wake those takes longer than the step of a small game."""

    @abstractmethod
    def begin(self, key: jax.Array) -> tuple[Any, JaxView]:
        """The game that a (2,) uint32 key begins."""

    @abstractmethod
    def play(self, game: Any, actions: jax.Array) -> JaxOutcome:
        """One step with (N, D) actions."""


class _Games(NamedTuple):
    """All that E games carry from step to step, on JAX's side. A seed is (2,) uint32, high word first."""

    streams: jax.Array  # (E, 2), an environment's stream: never changes
    episodes: jax.Array  # (E,), how many episodes of it have ended
    seeds: jax.Array  # (E, 2), the current episode's seed, which is the key it begins with too
    games: Any  # the rules' own state
    returns: jax.Array  # (E,), so far
    lengths: jax.Array  # (E,), so far


class _Batch:
    """E games side by side: `reset` and `step` take and give all of them."""

    def __init__(self, rules: Rules) -> None:
        self._rules = rules

    def reset(self, streams: jax.Array) -> tuple[_Games, EnvStep]:
        """Begin the first episode of each of the (E, 2) streams."""
        episodes = jnp.zeros(len(streams), jnp.int32)
        seeds, games, view = jax.vmap(self._begin)(streams, episodes)
        zeros: Any = jnp.zeros(len(streams), jnp.float32)
        no, none = zeros.astype(bool), zeros.astype(jnp.int32)
        step = EnvStep(
            *view, zeros, no, no, view.state, view.obs, none.astype(jnp.int8) - 1, zeros, none
        )
        return _Games(streams, episodes, seeds, games, zeros, none), step

    def step(self, before: _Games, actions: jax.Array) -> tuple[_Games, EnvStep]:
        """Play (E, N, D) actions and begin the next episode where one ended."""
        played: JaxOutcome = jax.vmap(self._rules.play)(before.games, actions)
        returns, lengths = before.returns + played.reward, before.lengths + 1
        truncated = (lengths >= self._rules.spec.episode_limit) & ~played.terminated
        ended = played.terminated | truncated
        episodes = before.episodes + ended
        going_on = (before.seeds, played.game, played.view)

        def begin_ended() -> Any:
            begun = jax.vmap(self._begin)(before.streams, episodes)
            return jax.tree.map(functools.partial(_where, ended), begun, going_on)

        # outside of vmap, so that the cost of a reset is paid only in steps where an episode ends
        seeds, games, view = jax.lax.cond(ended.any(), begin_ended, lambda: going_on)
        totals = (jnp.where(ended, 0, returns), jnp.where(ended, 0, lengths))
        outcome = (played.reward, played.terminated, truncated, played.view.state, played.view.obs)
        won = jnp.where(ended, played.won, -1).astype(jnp.int8)
        fields: list[Any] = [
            *view,
            *outcome,
            won,
            returns - totals[0],
            lengths - totals[1],
        ]  # in the order of Step
        return _Games(before.streams, episodes, seeds, games, *totals), EnvStep(*fields)

    def _begin(self, stream_key: jax.Array, episode: jax.Array) -> tuple[jax.Array, Any, JaxView]:
        # the top bit is dropped so that the seed fits a non-negative int64
        seed = jax.random.fold_in(stream_key, episode) & jnp.array(
            [0x7FFFFFFF, 0xFFFFFFFF], jnp.uint32
        )
        game, view = self._rules.begin(seed)
        # a reset leaves weakly typed constants; the two branches of `cond` must agree in type with what a step gives
        game = jax.tree.map(lambda leaf: jax.lax.convert_element_type(leaf, leaf.dtype), game)
        return seed, game, view


def _where(ended: jax.Array, new: jax.Array, old: jax.Array) -> jax.Array:
    """`new` of the games where (E,) `ended`, else `old`; both (E, ...)."""
    return jnp.where(ended.reshape((-1,) + (1,) * (new.ndim - 1)), new, old)


class _Handed(NamedTuple):
    """A Step and the seeds, as JAX hands them over. Each array costs microseconds there, so small ones go as one."""

    large: dict[str, Any]
    small: Any  # (B,) uint8, laid out as `_Program.layout` says


def _is_large(field: Any) -> bool:
    # from about here on, to copy it once more takes longer than its own way over
    return bool(field.size * field.dtype.itemsize > 1 << 15)


def _small(games: _Games, step: EnvStep) -> dict[str, Any]:
    """What goes as one array, by name: wide types first, so that each is aligned."""
    fields = {"seeds": games.seeds, **step._asdict()}
    names = sorted(fields, key=lambda name: -fields[name].dtype.itemsize)
    return {name: fields[name] for name in names if not _is_large(fields[name])}


def _hand_over(games: _Games, step: EnvStep) -> tuple[_Games, _Handed]:
    small = jnp.concatenate([_as_bytes(field) for field in _small(games, step).values()])
    return games, _Handed(
        {name: field for name, field in step._asdict().items() if _is_large(field)}, small
    )


def _as_bytes(field: jax.Array) -> jax.Array:
    numbers = field.astype(jnp.uint8) if field.dtype == bool else field
    return jax.lax.bitcast_convert_type(numbers, jnp.uint8).reshape(-1)


class _Program(NamedTuple):
    """Rules compiled for one number of environments."""

    spec: EnvSpec
    reset: Any
    step: Any
    layout: np.dtype[np.void]  # of the bytes of `_Handed.small`


@functools.cache
def _compile(make_rules: Callable[..., Rules], which: Hashable, num_envs: int) -> _Program:
    """Compile ahead of time, once for all vectors of this size, so that no step of a run waits for the compiler."""
    rules = make_rules(which)
    # without effect once JAX has computed anything: then a step is as right, but slower
    _configure("jax_cpu_enable_async_dispatch", rules.background)
    batch, spec = _Batch(rules), rules.spec
    streams = np.zeros((num_envs, 2), np.uint32)
    shape = (num_envs, len(spec.agents), len(spec.branches))
    actions = np.zeros(shape, np.float32 if spec.continuous else np.int32)
    games, first = jax.eval_shape(batch.reset, streams)
    layout = np.dtype(
        [(name, field.dtype, field.shape) for name, field in _small(games, first).items()]
    )
    reset = jax.jit(lambda *given: _hand_over(*batch.reset(*given))).lower(streams)
    # games that are given away save their copies, but JAX would make `send` wait for a step in the background
    donated, options = ((), None) if rules.background else ((0,), IN_TURN)
    step = jax.jit(lambda *given: _hand_over(*batch.step(*given)), donate_argnums=donated).lower(
        games, actions
    )
    return _Program(spec, reset.compile(), step.compile(options), layout)


class CompiledVector(VectorEnv):
    """E games of the rules `make_rules(which)`. Where these are for the background, `send` returns at once."""

    def __init__(
        self,
        make_rules: Callable[..., Rules],
        which: Hashable,
        num_envs: int,
        seed: int,
        first_env: int,
    ) -> None:
        self._program = _compile(make_rules, which, num_envs)
        self.spec = self._program.spec
        self.num_envs = num_envs
        indices = range(first_env, first_env + num_envs)
        self._streams = np.stack(
            [stream(seed, i).generate_state(2, np.uint32) for i in indices]
        )  # (E, 2)
        self._games: _Games | None = None
        self._pending: _Handed | None = None
        self._seeds: NDArray[np.uint32] | None = None

    def reset(self) -> EnvStep:
        self._games, self._pending = self._program.reset(self._streams)
        return self.recv()

    def send(self, actions: NDArray[np.generic]) -> None:
        # a copy, because JAX may read the caller's memory while the step runs
        kind = np.float32 if self.spec.continuous else np.int32
        self._games, self._pending = self._program.step(self._games, np.array(actions, kind))

    def recv(self) -> EnvStep:
        if self._pending is None:
            raise RuntimeError("recv without send")
        handed, self._pending = self._pending, None
        small = np.frombuffer(handed.small, self._program.layout)[0]
        fields = {name: small[name] for name in self._program.layout.names or ()}
        self._seeds = fields.pop("seeds")
        return EnvStep(
            **fields, **{name: np.asarray(field) for name, field in handed.large.items()}
        )

    def episode_seeds(self) -> NDArray[np.int64]:
        if self._seeds is None:
            raise RuntimeError("episode_seeds before reset")
        words = self._seeds.astype(np.int64)
        return cast("NDArray[np.int64]", words[:, 0] << 32 | words[:, 1])

    def close(self) -> None:
        self._games = self._pending = self._seeds = None


def set_up() -> None:
    """Prepare JAX for small batches; to be called before anything is computed with it."""
    if "JAX_PLATFORMS" not in os.environ:
        # the batch is small and its consumers are numpy: on an accelerator each step would pay for two transfers
        _configure("jax_platforms", "cpu")
    if "JAX_COMPILATION_CACHE_DIR" not in os.environ:
        _keep_compiled(_cache_dir())


def _configure(option: str, value: object) -> None:
    jax.config.update(option, value)  # type: ignore[no-untyped-call]


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
        log.warning("compiled steps are not kept, the next start compiles again: %s", error)
        return
    _configure("jax_compilation_cache_dir", str(folder))
    _configure("jax_persistent_cache_min_compile_time_secs", 0)
