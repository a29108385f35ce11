"""SMAX: JaxMARL's battles in the style of SMAC, one compiled step for all environments of a vector.

Results on it are called "smax/<map>", never SMAC: the game is another one. JaxMARL: Rutherford et
al., NeurIPS 2024 (Datasets and Benchmarks).
"""

from __future__ import annotations

import contextlib
import importlib
import importlib.util
import sys
from collections.abc import Iterator, Sequence
from types import ModuleType
from typing import TYPE_CHECKING, Any

import jax
import jax.numpy as jnp
import numpy as np

from sde_harl.envs.base import EnvSpec
from sde_harl.envs.settings import EnvConfig, unknown_value
from sde_harl.envs.vector.compiled import CompiledVector
from sde_harl.envs.vector.jax_setup import set_up
from sde_harl.envs.vector.rules import JaxObservation, JaxOutcome, Rules
from sde_harl.errors import UserError

if TYPE_CHECKING:
    from sde_harl.drawing.canvas import Colour, Picture

STOP = 4
"""The action that does nothing; 0 to 3 move, those above it attack."""


class _Battle(Rules):
    """The rules of one map. A game is a pair: its random key, and JaxMARL's own state."""

    background = True
    pictures_per_s = 6.0

    def __init__(self, game: Any, map_name: str) -> None:
        self._game = game
        self.spec = _spec(game, map_name)

    def begin(self, key: jax.Array) -> tuple[Any, JaxObservation]:
        key, reset_key = jax.random.split(key)
        obs, battle = self._game.reset(reset_key)
        return (key, battle), self._observation(obs, battle)

    def play(self, game: Any, actions: jax.Array) -> JaxOutcome:
        key, battle = game
        key, step_key = jax.random.split(key)
        choice = {agent: actions[i, 0] for i, agent in enumerate(self.spec.agents)}
        # step_env, not step: `step` resets by itself and loses the state an episode ended in.
        # Its `done`, the fourth result, isn't used: by it an episode would be one step longer than
        # the limit.
        obs, battle, rewards, _, _ = self._game.step_env(step_key, battle, choice)
        allies, enemies = jnp.split(battle.state.unit_alive, [len(self.spec.agents)])
        return JaxOutcome(
            game=(key, battle),
            observation=self._observation(obs, battle),
            reward=rewards[self.spec.agents[0]],  # all agents get the same
            terminated=~allies.any() | ~enemies.any(),
            won=allies.any() & ~enemies.any(),
        )

    def picture(self, game: Any, colours: Sequence[Colour]) -> Picture:
        # Here, because a run that nobody watches needs no library that draws.
        from sde_harl.envs.battle_picture import Battle, draw

        _, battle = game
        state = battle.state
        types = np.asarray(state.unit_types)
        side = float(self._game.map_width)
        reload_s = np.asarray(self._game.unit_type_weapon_cooldowns)[types]
        step_s = self._game.world_steps_per_env_step * self._game.time_per_step
        return draw(
            Battle(
                positions=state.unit_positions,
                alive=state.unit_alive,
                health=state.unit_health / np.asarray(self._game.unit_type_health)[types],
                types=[self._game.unit_type_names[number] for number in types],
                radius=np.asarray(self._game.unit_type_radiuses)[types],
                sight=np.asarray(self._game.unit_type_sight_ranges)[types],
                target=self._targets(state.prev_attack_actions),
                # A weapon that has just fired has nearly all of its reloading time before it.
                fired=state.unit_weapon_cooldowns > reload_s - step_s,
                allies=len(self.spec.agents),
                size=(side, side),
            ),
            colours,
        )

    def _targets(self, attacks: Any) -> Any:
        """Returns (U,) whom each unit was told to attack, its own number where it was not."""
        allies = len(self.spec.agents)
        units = np.arange(len(attacks))
        choice = attacks - self._game.num_movement_actions
        # Opponents number the allies backwards (JaxMARL's update_agent_health).
        targets = np.where(units < allies, allies + choice, allies - 1 - choice)
        return np.where(choice < 0, units, targets)

    def _observation(self, obs: dict[str, jax.Array], battle: Any) -> JaxObservation:
        available = self._game.get_avail_actions(battle)
        return JaxObservation(
            obs=jnp.stack([obs[agent] for agent in self.spec.agents]),
            state=obs["world_state"],
            available_actions=jnp.stack([available[agent] for agent in self.spec.agents]).astype(
                bool
            ),
            active=battle.state.unit_alive[: len(self.spec.agents)],
        )


def _spec(game: Any, map_name: str) -> EnvSpec:
    agents = tuple(game.agents)
    return EnvSpec(
        name=f"smax/{map_name}",
        agents=agents,
        obs_sizes=(int(game.obs_size),) * len(agents),
        action_sizes=((int(game.num_ally_actions),),) * len(agents),
        state_size=int(game.state_size),
        episode_limit=int(game.max_steps),
        continuous=False,
        unit_types=_unit_types(game),
        has_win=True,
        noop=STOP,
    )


def _unit_types(game: Any) -> tuple[str, ...]:
    """Returns each ally's type, "" where it is unknown."""
    count = len(game.agents)
    if game.smacv2_unit_type_generation:  # drawn anew in every episode
        return ("",) * count
    # A scenario lists the allies first, then the enemies.
    return tuple(game.unit_type_names[number] for number in np.asarray(game.scenario)[:count])


def _make_rules(map_name: str) -> _Battle:
    """Makes the rules of one map. Raises UserError for an unknown one."""
    smax = _import_smax()
    # JaxMARL's own table: a map that it adds can be played without a change here
    maps = smax.smax_env.MAP_NAME_TO_SCENARIO
    if map_name not in maps:
        raise unknown_value("env.map", map_name, maps)
    game = smax.HeuristicEnemySMAX(enemy_shoots=True, scenario=maps[map_name])
    return _Battle(game, map_name)


def maps() -> list[str]:
    """Returns the valid values of env.map."""
    return list(_import_smax().smax_env.MAP_NAME_TO_SCENARIO)


def spec_of(env_config: EnvConfig) -> EnvSpec:
    """Returns the spec of a map, without compiling its step."""
    return _make_rules(env_config.map).spec


def make(env_config: EnvConfig, *, num_envs: int, seed: int, first_env: int) -> CompiledVector:
    """Makes the vector; see `registry.make`.

    Raises UserError for an unknown map and for continuous actions.
    """
    if env_config.continuous_actions:
        raise UserError("env.continuous_actions: smac has discrete actions only")
    return CompiledVector(
        _make_rules, env_config.map, num_envs=num_envs, seed=seed, first_env=first_env
    )


def _import_smax() -> ModuleType:
    """Returns JaxMARL's SMAX package. Its import computes with JAX, so JAX is set up before."""
    set_up()
    with _empty_packages("jaxmarl", "jaxmarl.environments"):
        return importlib.import_module("jaxmarl.environments.smax")


@contextlib.contextmanager
def _empty_packages(*names: str) -> Iterator[None]:
    """Lets submodules of these packages be imported without running the packages' own code.

    JaxMARL's packages import every environment that it has, which takes two seconds of a start,
    print to the terminal and replace sys.stdout. SMAX needs none of the others.
    """
    missing = [name for name in names if name not in sys.modules]
    for name in missing:
        spec = importlib.util.find_spec(name)
        if spec is None:
            raise ModuleNotFoundError(f"No module named {name!r}", name=name)
        package = ModuleType(name)
        package.__path__ = list(spec.submodule_search_locations or ())
        sys.modules[name] = package
    try:
        yield
    finally:
        # An `import jaxmarl` elsewhere in this process gets the real package.
        for name in missing:
            sys.modules.pop(name, None)
