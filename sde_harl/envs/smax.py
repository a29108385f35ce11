"""SMAX: JaxMARL's battles in the style of SMAC, one compiled step for all environments of a vector.

Results on it are called "smax/<map>", never SMAC. JaxMARL: Rutherford et al., NeurIPS 2024 (Datasets and Benchmarks).
"""

from __future__ import annotations

import contextlib
import io
import sys
from collections.abc import Iterator
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np

from sde_harl.envs.base import EnvConfig, EnvSpec, unknown
from sde_harl.envs.vector.compiled import CompiledVector, JaxOutcome, JaxView, Rules, set_up
from sde_harl.errors import UserError


class _Battle(Rules):
    """The rules of one map. A game is its key and JaxMARL's own state."""

    background = True

    def __init__(self, game: Any, map_name: str) -> None:
        self._game = game
        self.spec = _spec(game, map_name)

    def begin(self, key: jax.Array) -> tuple[Any, JaxView]:
        key, reset_key = jax.random.split(key)
        obs, game = self._game.reset(reset_key)
        return (key, game), self._view(obs, game)

    def play(self, game: Any, actions: jax.Array) -> JaxOutcome:
        key, battle = game
        key, step_key = jax.random.split(key)
        # step_env, not step: that one resets by itself and loses the state an episode ended in
        choice = {agent: actions[i, 0] for i, agent in enumerate(self.spec.agents)}
        obs, battle, rewards, _, _ = self._game.step_env(step_key, battle, choice)
        allies, enemies = jnp.split(battle.state.unit_alive, [len(self.spec.agents)])
        terminated = ~allies.any() | ~enemies.any()
        won = allies.any() & ~enemies.any()
        # the game's own `done` is not asked: by it an episode would be one step longer than the limit
        return JaxOutcome(
            (key, battle), self._view(obs, battle), rewards[self.spec.agents[0]], terminated, won
        )

    def _view(self, obs: dict[str, jax.Array], battle: Any) -> JaxView:
        available = self._game.get_avail_actions(battle)
        return JaxView(
            jnp.stack([obs[agent] for agent in self.spec.agents]),
            obs["world_state"],
            jnp.stack([available[agent] for agent in self.spec.agents]).astype(bool),
            battle.state.unit_alive[: len(self.spec.agents)],
        )


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
        noop=STOP,
    )


STOP = 4
"""The action that does nothing; 0 to 3 move, those behind it attack."""


def _make_rules(map_name: str) -> _Battle:
    smax = _import_smax()
    if map_name not in smax.MAP_NAME_TO_SCENARIO:
        raise unknown("env.map", map_name, smax.MAP_NAME_TO_SCENARIO)
    from jaxmarl.environments.smax import HeuristicEnemySMAX

    make_game: Any = HeuristicEnemySMAX
    return _Battle(
        make_game(enemy_shoots=True, scenario=smax.map_name_to_scenario(map_name)), map_name
    )


def make(env_config: EnvConfig, num_envs: int, seed: int, first_env: int) -> CompiledVector:
    """See `sde_harl.envs.make`. Raises UserError for an unknown map and for continuous actions."""
    if env_config.continuous_actions:
        raise UserError("env.continuous_actions: smac has discrete actions only")
    return CompiledVector(_make_rules, env_config.map, num_envs, seed, first_env)


def _import_smax() -> Any:
    """JaxMARL's SMAX module. Importing it computes with JAX already, so JAX is set up first."""
    set_up()
    with _no_stdout():
        from jaxmarl.environments.smax import smax_env
    return smax_env


@contextlib.contextmanager
def _no_stdout() -> Iterator[None]:
    """Drop what JaxMARL prints on import. It also sets sys.stdout and sys.stderr to the process's first ones."""
    kept = sys.stdout, sys.stderr, sys.__stdout__
    sys.stdout = sys.__stdout__ = io.TextIOWrapper(io.BytesIO())  # type: ignore[misc]
    try:
        yield
    finally:
        sys.stdout, sys.stderr, sys.__stdout__ = kept  # type: ignore[misc]
