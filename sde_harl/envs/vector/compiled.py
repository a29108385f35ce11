"""Benchmarks whose games are one computation: JAX steps all games of a vector in one compiled call.

`rules.Rules` are one game as pure functions, and `rules.BatchedRules` the step of many of them.
`CompiledVector` compiles that step ahead of time and runs it as a `VectorEnv`.
"""

from __future__ import annotations

import functools
from collections.abc import Callable, Hashable, Mapping
from typing import Any, NamedTuple, cast

import jax
import jax.numpy as jnp
import numpy as np
from numpy.typing import NDArray

from sde_harl.envs.base import EnvSpec, EnvStep, VectorEnv, loaded_episodes, stream
from sde_harl.envs.vector.arrival import check_finite
from sde_harl.envs.vector.history import ActionHistory, Past
from sde_harl.envs.vector.jax_setup import configure
from sde_harl.envs.vector.rules import BatchedRules, BatchState, Rules

ONE_THREAD: dict[str, bool | str] = {"xla_cpu_enable_concurrency_optimized_scheduler": False}
"""Compiler options that order a step's kernels for one thread."""
LARGE_BYTES = 1 << 15
"""Size from which to copy an array once more takes longer than to hand it over by itself."""


class _HandedOver(NamedTuple):
    """A step, its seeds and its episodes on their way from JAX to numpy.

    Each array costs microseconds on the way, whatever its size, and there are more than a dozen. So
    the small ones go as the bytes of one array; the large ones go by themselves.
    """

    large: dict[str, Any]
    small: Any
    """(B,) uint8, to be read by `_Program.small_layout`."""


def _outputs(state: BatchState, step: EnvStep) -> dict[str, Any]:
    """Returns the arrays that go over to numpy after every step, by name."""
    return {"seeds": state.seeds, "episodes": state.episodes, **step._asdict()}


def _is_large(array: Any) -> bool:
    return bool(array.size * array.dtype.itemsize > LARGE_BYTES)


def _small(outputs: dict[str, Any]) -> dict[str, Any]:
    """Returns the small arrays in the order of their bytes."""
    # wide types first: then every array begins at a multiple of its item size, without padding
    names = sorted(outputs, key=lambda name: -outputs[name].dtype.itemsize)
    return {name: outputs[name] for name in names if not _is_large(outputs[name])}


def _hand_over(state: BatchState, step: EnvStep) -> tuple[BatchState, _HandedOver]:
    outputs = _outputs(state, step)
    large = {name: array for name, array in outputs.items() if _is_large(array)}
    small = jnp.concatenate([_as_bytes(array) for array in _small(outputs).values()])
    return state, _HandedOver(large=large, small=small)


def _as_bytes(array: jax.Array) -> jax.Array:
    if array.dtype == bool:
        array = array.astype(jnp.uint8)  # JAX refuses to reinterpret the bits of a bool
    return jax.lax.bitcast_convert_type(array, jnp.uint8).reshape(-1)


class _Program(NamedTuple):
    """Rules that are compiled for one number of environments."""

    rules: Rules
    spec: EnvSpec
    reset: Any
    """(streams, episodes) -> (BatchState, _HandedOver)"""
    step: Any
    """(BatchState, actions) -> (BatchState, _HandedOver)"""
    small_layout: np.dtype[np.void]
    """The type that reads the bytes of `_HandedOver.small`."""


@functools.cache
def _compile(make_rules: Callable[..., Rules], variant: Hashable, num_envs: int) -> _Program:
    """Compiles ahead of time, so that no step of a run waits for the compiler.

    All vectors of one size share the program: training compiles once for all of its slots.
    """
    rules = make_rules(variant)
    # Must come before JAX computes anything. Later it has no effect, and a step is slower, but
    # just as right.
    configure("jax_cpu_enable_async_dispatch", rules.background)
    batch = BatchedRules(rules)
    streams = np.zeros((num_envs, 2), np.uint32)
    episodes = np.zeros(num_envs, np.int32)
    # eval_shape computes nothing. It is needed because a step is compiled for the shapes of the
    # state that a reset returns, and these are the rules' own business.
    first_state, first_step = jax.eval_shape(batch.reset, streams, episodes)
    reset = jax.jit(_handing_over(batch.reset)).lower(streams, episodes)
    step = _lower_step(batch.step, rules, first_state)
    return _Program(
        rules=rules,
        spec=rules.spec,
        reset=reset.compile(),
        step=step.compile(None if rules.background else ONE_THREAD),
        small_layout=_layout(_small(_outputs(first_state, first_step))),
    )


def _handing_over(function: Callable[..., tuple[BatchState, EnvStep]]) -> Callable[..., Any]:
    """Returns the function with its results made ready for numpy, as part of one computation."""

    def with_results_handed_over(*arguments: Any) -> tuple[BatchState, _HandedOver]:
        state, step = function(*arguments)
        return _hand_over(state, step)

    return with_results_handed_over


def _lower_step(step: Callable[..., Any], rules: Rules, first_state: BatchState) -> Any:
    """Prepares the compilation of a step for states like `first_state`."""
    # A step whose state is donated writes the new state over it and saves a copy. But JAX makes
    # the caller wait for a step with donated input, so this isn't for steps in the background.
    donated = () if rules.background else (0,)
    spec = rules.spec
    num_envs = len(first_state.lengths)
    actions = np.zeros((num_envs, len(spec.agents), len(spec.branches)), spec.action_dtype)
    return jax.jit(_handing_over(step), donate_argnums=donated).lower(first_state, actions)


def _layout(arrays: dict[str, Any]) -> np.dtype[np.void]:
    return np.dtype([(name, array.dtype, array.shape) for name, array in arrays.items()])


def _chosen(paused: NDArray[np.bool_], before: Any, after: Any) -> jax.Array:
    """Returns `before` of the environments that are (E,) `paused`, else `after`."""
    mask = paused.reshape((-1,) + (1,) * (np.ndim(after) - 1))
    chosen: jax.Array = jnp.where(mask, before, after)
    return chosen


class CompiledVector(VectorEnv):
    """Plays E games of the rules that `make_rules(variant)` returns.

    Vectors of equal `make_rules`, `variant` and `num_envs` share one compiled program. If the rules
    are for the background, `send` returns at once.
    """

    def __init__(
        self,
        make_rules: Callable[..., Rules],
        variant: Hashable,
        *,
        num_envs: int,
        seed: int,
        first_env: int,
    ) -> None:
        self._program = _compile(make_rules, variant, num_envs)
        self.rules = self._program.rules
        self.spec = self._program.spec
        self.num_envs = num_envs
        self._first_env = first_env
        numbers = range(first_env, first_env + num_envs)
        words = [stream(seed, number).generate_state(2, np.uint32) for number in numbers]
        self._streams = np.stack(words)  # (E, 2)
        self._first_episodes = np.zeros(num_envs, np.int32)  # that a reset begins
        shape = (num_envs, len(self.spec.agents), len(self.spec.branches))
        self._history = ActionHistory(shape, self.spec.action_dtype)
        self._past: Past | None = None
        self._state: BatchState | None = None  # after the latest `send`
        self._pending: _HandedOver | None = None
        # what a watched vector plays, see `played`
        self._replay: Callable[..., Any] | None = None
        self._played: Any = None
        # of the latest `recv`, which may be a step behind `_state`
        self._episodes = self._first_episodes
        self._seeds: NDArray[np.uint32] | None = None
        self._latest: EnvStep | None = None

    def reset(self) -> EnvStep:
        self._played = None
        self._history.clear()
        self._state, self._pending = self._program.reset(self._streams, self._first_episodes)
        step = self.recv()
        if self._past:
            return self._bring_back(self._past, step)
        return step

    def _bring_back(self, past: Past, step: EnvStep) -> EnvStep:
        """Plays interrupted episodes again to where they stood; `step` is their beginning."""
        for paused, actions in past.steps():
            if not past.is_possible(actions, paused, step=step, spec=self.spec):
                return self._begin_anew()
            # Copies, because a step may write over the state that it is given.
            before = jax.tree.map(jnp.copy, self._state)
            shown = (step, self._episodes, self._seeds)
            self.send(actions)
            after = (self.recv(), self._episodes, self._seeds)
            self._state = jax.tree.map(functools.partial(_chosen, paused), before, self._state)
            step, self._episodes, self._seeds = jax.tree.map(
                functools.partial(_chosen, paused), shown, after
            )
            step = EnvStep(*map(np.asarray, step))
            self._episodes = np.asarray(self._episodes)
            self._seeds = np.asarray(self._seeds)
        self._latest = step
        if not past.is_back(step):
            return self._begin_anew()
        self._history.load(past)
        return step

    def _begin_anew(self) -> EnvStep:
        """Begins all episodes under way again, because these games don't repeat themselves."""
        self._past = None
        self.is_brought_back = False
        return self.reset()

    def send(self, actions: NDArray[np.generic]) -> None:
        # a copy, because JAX may read the caller's memory while the step runs
        actions = np.array(actions, self.spec.action_dtype)
        if self._replay:
            # Before the step, which may write the new state over the one that it begins with.
            self._played = self._replay(self._first_game(), actions[0]).game
        self._history.add(actions)
        self._state, self._pending = self._program.step(self._state, actions)

    def recv(self) -> EnvStep:
        if self._pending is None:
            raise RuntimeError("recv without send")
        handed_over = self._pending
        self._pending = None
        # `frombuffer` waits for the step, and reads the bytes where JAX has them: no copy
        small = np.frombuffer(handed_over.small, self._program.small_layout)[0]
        arrays: dict[str, Any] = {name: small[name] for name in small.dtype.names}
        for name, array in handed_over.large.items():
            arrays[name] = np.asarray(array)
        self._seeds = arrays.pop("seeds")
        self._episodes = arrays.pop("episodes")
        step = EnvStep(**arrays)
        self._history.end(step)
        self._latest = step
        check_finite(step, self.spec, first_env=self._first_env)
        return step

    def watch(self) -> None:
        """Makes `played` work, at the price of a second computation of every step."""
        self._replay = jax.jit(self.rules.play)

    def played(self) -> Any:
        """Returns the first game's state after the latest step, as numpy arrays.

        Where that step ended its episode, it is the state that the episode ended in. After a reset
        it is the beginning. For vectors that are watched only.
        """
        game = self._played
        if game is None:
            game = self._first_game()
        return jax.tree.map(np.asarray, game)

    def _first_game(self) -> Any:
        """Returns a copy of the first game's state."""
        assert self._state is not None
        return jax.tree.map(lambda leaf: np.array(leaf[0]), self._state.games)

    def episode_seeds(self) -> NDArray[np.int64]:
        if self._seeds is None:
            raise RuntimeError("episode_seeds before reset")
        words = self._seeds.astype(np.int64)
        return cast("NDArray[np.int64]", words[:, 0] << 32 | words[:, 1])

    def state_dict(self) -> dict[str, NDArray[Any]]:
        episodes = self._episodes.astype(np.int64)
        if self._latest is None:
            return {"episodes": episodes}
        return {"episodes": episodes, **self._history.state(self._latest)}

    def load_state_dict(self, state: Mapping[str, NDArray[Any]]) -> None:
        self._past = None
        if "lengths" in state:
            self._past = Past.checked(state, self.spec, self.num_envs)
        self._first_episodes = loaded_episodes(state, self.num_envs).astype(np.int32)
        self._episodes = self._first_episodes

    def close(self) -> None:
        self._state = None
        self._pending = None
        self._seeds = None
