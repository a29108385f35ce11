"""The interface of benchmarks that JAX steps as one batch, and the step of a batch.

A benchmark implements `Rules`: one game as two pure functions of arrays, `begin` and `play`.
`BatchedRules` makes of them one reset and one step for E games, with the bookkeeping that
`games.GameBatch` does for games that are objects: seeds, episodes, returns, lengths, next episodes.

Arrays on JAX's side are annotated as Any: while JAX traces a function, they aren't arrays.
"""

from __future__ import annotations

import functools
from abc import ABC, abstractmethod
from collections.abc import Sequence
from typing import TYPE_CHECKING, Any, NamedTuple

import jax
import jax.numpy as jnp

from sde_harl.envs.base import EnvSpec, EnvStep

if TYPE_CHECKING:  # a run that nobody watches needs no library that draws
    from sde_harl.drawing.canvas import Colour, Picture


class JaxObservation(NamedTuple):
    """Shows one game to the agents and the critic: the first fields of an `EnvStep`."""

    obs: Any  # (N, O)
    state: Any  # (S,)
    available_actions: Any  # (N, A)
    active: Any  # (N,)


class JaxOutcome(NamedTuple):
    """One game after one step, when nothing has been reset yet.

    It has no `truncated`: `BatchedRules` counts the steps against `EnvSpec.episode_limit`.
    """

    game: Any
    observation: JaxObservation
    reward: Any  # (), the team's
    terminated: Any  # ()
    won: Any  # (), 1 or True won, 0 lost, -1 unknown; ignored where the episode goes on


class Rules(ABC):
    """One game as pure functions. Its state is any tree of arrays, random keys among them."""

    spec: EnvSpec
    background: bool
    """Steps run on JAX's own threads, so that `send` returns at once. For long steps only: to wake
    a thread takes longer than the step of a small game."""
    pictures_per_s: float = 10.0
    """Speed at which its pictures are shown, one for each step."""

    @abstractmethod
    def begin(self, key: jax.Array) -> tuple[Any, JaxObservation]:
        """Returns the state of the game that a key, (2,) uint32, begins, and what is seen."""

    @abstractmethod
    def play(self, game: Any, actions: jax.Array) -> JaxOutcome:
        """Plays one step with actions (N, D)."""

    def picture(self, game: Any, colours: Sequence[Colour]) -> Picture | None:
        """Returns a game, whose state is numpy arrays here; None where it can't be drawn.

        `colours`: of each agent (N,).
        """
        return None


class BatchState(NamedTuple):
    """All that E games carry from step to step. A seed is (2,) uint32, its high word first."""

    streams: jax.Array  # (E, 2), key of each environment's random stream; never changes
    episodes: jax.Array  # (E,), number of the current episode: how many have ended before it
    seeds: jax.Array  # (E, 2), seed of the current episode, and the key that it began with
    games: Any  # the rules' own state, every array with a leading E
    returns: jax.Array  # (E,), sum of rewards so far
    lengths: jax.Array  # (E,), steps so far


class _Begun(NamedTuple):
    """One game as it goes into the next step, whether it has just begun or is going on."""

    seed: Any
    game: Any
    observation: JaxObservation


class BatchedRules:
    """Resets and steps E games side by side, as pure functions of all of them."""

    def __init__(self, rules: Rules) -> None:
        self._rules = rules

    def reset(self, streams: jax.Array, episodes: jax.Array) -> tuple[BatchState, EnvStep]:
        """Begins episode `episodes[e]`, (E,) int32, of each of the streams, (E, 2) uint32."""
        begun = jax.vmap(self._begin)(streams, episodes)
        zeros: Any = jnp.zeros(len(streams), jnp.float32)
        integer_zeros = zeros.astype(jnp.int32)
        state = BatchState(
            streams=streams,
            episodes=episodes,
            seeds=begun.seed,
            games=begun.game,
            returns=zeros,
            lengths=integer_zeros,
        )
        return state, _first_step(begun.observation, zeros, integer_zeros)

    def step(self, before: BatchState, actions: jax.Array) -> tuple[BatchState, EnvStep]:
        """Plays actions (E, N, D) and begins the next episode where one ended."""
        played: JaxOutcome = jax.vmap(self._rules.play)(before.games, actions)
        returns: Any = before.returns + played.reward
        lengths: Any = before.lengths + 1
        truncated = (lengths >= self._rules.spec.episode_limit) & ~played.terminated
        ended = played.terminated | truncated
        episodes = before.episodes + ended
        # What a caller sees next comes from `now`, in which ended episodes have given way to new
        # ones; what it learns of the ended ones comes from `played`, from before that.
        now = self._next_episodes(before, played, ended=ended, episodes=episodes)
        returns_left = jnp.where(ended, 0, returns)
        lengths_left = jnp.where(ended, 0, lengths)
        state = BatchState(
            streams=before.streams,
            episodes=episodes,
            seeds=now.seed,
            games=now.game,
            returns=returns_left,
            lengths=lengths_left,
        )
        no_failure: Any = jnp.zeros_like(ended)  # computed games don't fail
        step = EnvStep(
            **now.observation._asdict(),
            rewards=played.reward,
            terminated=played.terminated,
            truncated=truncated,
            final_state=played.observation.state,
            final_obs=played.observation.obs,
            won=jnp.where(ended, played.won, -1).astype(jnp.int8),
            returns=returns - returns_left,  # 0 where the episode goes on
            lengths=lengths - lengths_left,
            void=no_failure,
        )
        return state, step

    def _next_episodes(
        self, before: BatchState, played: JaxOutcome, *, ended: jax.Array, episodes: jax.Array
    ) -> _Begun:
        """Returns the games as played, but new ones where an episode (E,) `ended`."""
        going_on = _Begun(seed=before.seeds, game=played.game, observation=played.observation)

        def begin_ended() -> _Begun:
            begun = jax.vmap(self._begin)(before.streams, episodes)
            replaced: _Begun = jax.tree.map(functools.partial(_where, ended), begun, going_on)
            return replaced

        def keep_all() -> _Begun:
            return going_on

        # A step in which nothing ends is the usual one and must not pay for resets. Inside vmap, a
        # `cond` becomes a `select` that computes both branches for every game. So this stands
        # outside of vmap and asks once for all games; then all of them are begun, and _where
        # throws away those that go on.
        chosen: _Begun = jax.lax.cond(ended.any(), begin_ended, keep_all)
        return chosen

    def _begin(self, stream_key: jax.Array, episode: jax.Array) -> _Begun:
        """Begins one episode of one environment."""
        mask = jnp.array([0x7FFFFFFF, 0xFFFFFFFF], jnp.uint32)
        # without its top bit, so that as a number the seed fits a non-negative int64
        seed = jax.random.fold_in(stream_key, episode) & mask
        game, observation = self._rules.begin(seed)
        # A constant such as 0 has a weak type in JAX, and a reset may leave some. The two branches
        # of `cond` must agree in type, so a begun game gets the firm types that a step gives.
        game = jax.tree.map(lambda leaf: jax.lax.convert_element_type(leaf, leaf.dtype), game)
        return _Begun(seed=seed, game=game, observation=observation)


def _first_step(observation: JaxObservation, zeros: Any, integer_zeros: Any) -> EnvStep:
    """Returns the step that a reset gives, in which nothing has been earned and nothing ended."""
    return EnvStep(
        **observation._asdict(),
        rewards=zeros,
        terminated=zeros.astype(bool),
        truncated=zeros.astype(bool),
        final_state=observation.state,
        final_obs=observation.obs,
        won=integer_zeros.astype(jnp.int8) - 1,
        returns=zeros,
        lengths=integer_zeros,
        void=zeros.astype(bool),
    )


def _where(ended: jax.Array, new: jax.Array, old: jax.Array) -> jax.Array:
    """Returns `new` of the games that (E,) `ended`, else `old`; both are (E, ...)."""
    shape = (-1,) + (1,) * (new.ndim - 1)
    return jnp.where(ended.reshape(shape), new, old)
