"""SMACv2 on StarCraft II, by oxwhirl's client as it is (Ellis et al., NeurIPS 2023).

env.map is "<race>_<agents>_vs_<enemies>". Teams and starting places are drawn anew in every
episode, from the episode's seed. The game's own chance is seeded when it is started, as in SMAC.
"""

from __future__ import annotations

import copy
import random
from collections.abc import Iterator
from typing import Any, NamedTuple

import numpy as np
from smacv2.env.starcraft2.wrapper import StarCraftCapabilityEnvWrapper

# Imported for its effect: the clients start their games by it.
import sde_harl.envs.starcraft.process  # noqa: F401
from sde_harl.envs.settings import EnvConfig, unknown_value
from sde_harl.envs.starcraft.battle import Battle
from sde_harl.envs.starcraft.install import check_map
from sde_harl.errors import UserError

SIZES = ((5, 5), (10, 10), (10, 11), (20, 20), (20, 23))
"""Agents and enemies."""
MAP_SIZE = 32


class Race(NamedTuple):
    """The units that a race's teams are drawn from."""

    units: tuple[str, str, str]
    weights: tuple[float, float, float]
    never_alone: tuple[str, ...] = ()
    """Types that can't win by themselves: no team is of these alone."""


RACES = {
    "terran": Race(("marine", "marauder", "medivac"), (0.45, 0.45, 0.1), ("medivac",)),
    "protoss": Race(("stalker", "zealot", "colossus"), (0.45, 0.45, 0.1)),
    "zerg": Race(("zergling", "baneling", "hydralisk"), (0.45, 0.1, 0.45), ("baneling",)),
}
"""SMACv2's own, as in its examples/configs and in HARL."""


class Smacv2Battle(Battle):
    """A battle of SMACv2, whose teams and places follow from the episode's seed."""

    def __init__(self, wrapper: Any, env_config: EnvConfig) -> None:
        super().__init__(wrapper.env, env_config)
        self._distributions = list(wrapper.env_key_to_distribution_map.values())

    def configurations(self, seed: int) -> Iterator[tuple[Any, ...]]:
        # Not by the wrapper's reset: it takes no seed, and returns nothing after it had to draw
        # again.
        distributions = copy.deepcopy(self._distributions)
        for number, distribution in enumerate(distributions):
            _seed(distribution, np.random.SeedSequence(seed, spawn_key=(number,)))
        shuffling = random.Random(seed)
        while True:
            yield (_draw(distributions, shuffling),)


def _seed(distribution: Any, source: np.random.SeedSequence) -> None:
    """Seeds a distribution of smacv2's, and those that it consists of."""
    inner = [part for part in vars(distribution).values() if hasattr(part, "generate")]
    own, *others = source.spawn(1 + len(inner))
    distribution.rng = np.random.default_rng(own)
    for part, other in zip(inner, others):
        _seed(part, other)


def _draw(distributions: list[Any], shuffling: random.Random) -> dict[str, Any]:
    """Returns one draw of all distributions, which shuffle by Python's global generator."""
    before = random.getstate()
    random.setstate(shuffling.getstate())
    drawn: dict[str, Any] = {}
    for distribution in distributions:
        drawn.update(distribution.generate())
    shuffling.setstate(random.getstate())
    random.setstate(before)
    return drawn


def maps() -> dict[str, tuple[str, int, int]]:
    """Returns race, agents and enemies by env.map."""
    return {
        f"{race}_{agents}_vs_{enemies}": (race, agents, enemies)
        for race in RACES
        for agents, enemies in SIZES
    }


def capabilities(race: str, agents: int, enemies: int) -> dict[str, Any]:
    """Returns smacv2's capability_config."""
    units = RACES[race]
    return {
        "n_units": agents,
        "n_enemies": enemies,
        "team_gen": {
            "dist_type": "weighted_teams",
            "unit_types": list(units.units),
            "weights": list(units.weights),
            "exception_unit_types": list(units.never_alone),
            "observe": True,
        },
        "start_positions": {
            "dist_type": "surrounded_and_reflect",
            "p": 0.5,
            "map_x": MAP_SIZE,
            "map_y": MAP_SIZE,
        },
    }


def make_game(env_config: EnvConfig) -> Smacv2Battle:
    """Makes one game. Raises UserError for an unknown map and for continuous actions."""
    if env_config.map not in maps():
        raise unknown_value("env.map", env_config.map, maps())
    if env_config.continuous_actions:
        raise UserError("env.continuous_actions: smacv2 has discrete actions only")
    race, agents, enemies = maps()[env_config.map]
    check_map(f"10gen_{race}")
    wrapper = StarCraftCapabilityEnvWrapper(
        map_name=f"10gen_{race}",
        capability_config=capabilities(race, agents, enemies),
        obs_own_pos=True,
        use_unit_ranges=True,
        obs_last_action=env_config.last_action,
        continuing_episode=True,  # no more than that it tells a limit from a defeat
    )
    return Smacv2Battle(wrapper, env_config)
