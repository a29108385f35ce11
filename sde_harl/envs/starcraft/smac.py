"""SMAC on StarCraft II, by oxwhirl's client as it is (Samvelyan et al., 2019).

env.map is any of the client's maps. The game gets a seed when it is started, and none for each
episode: the episodes of one game follow from its seed and from all that was played in it.
"""

from __future__ import annotations

import itertools
from collections.abc import Iterator
from typing import Any

from smac.env import StarCraft2Env
from smac.env.starcraft2.maps.smac_maps import get_smac_map_registry

# Imported for its effect: the clients start their games by it.
import sde_harl.envs.starcraft.process  # noqa: F401
from sde_harl.envs.settings import EnvConfig, unknown_value
from sde_harl.envs.starcraft.battle import Battle
from sde_harl.envs.starcraft.install import check_map, has_map
from sde_harl.errors import UserError

ALIKE = {
    "marines": "marine",
    "zealots": "zealot",
    "hydralisks": "hydralisk",
    "stalkers": "stalker",
    "colossus": "colossus",
}
"""The agents' unit type, by the client's map type, on maps where all are of one type."""
MIXED = {
    "2s3z": (("stalker", 2), ("zealot", 3)),
    "3s5z": (("stalker", 3), ("zealot", 5)),
    "3s5z_vs_3s6z": (("stalker", 3), ("zealot", 5)),
    "1c3s5z": (("colossus", 1), ("stalker", 3), ("zealot", 5)),
    "MMM": (("marauder", 2), ("marine", 7), ("medivac", 1)),
    "MMM2": (("marauder", 2), ("marine", 7), ("medivac", 1)),
    "bane_vs_bane": (("baneling", 4), ("zergling", 20)),
}
"""The agents' unit types by map, in the client's order."""


class SmacBattle(Battle):
    """A battle of SMAC."""

    def configurations(self, seed: int) -> Iterator[tuple[Any, ...]]:
        return itertools.repeat(())


def maps() -> list[str]:
    """Returns the client's maps, as far as the game has them."""
    return [name for name in get_smac_map_registry() if has_map(name)]


def make_game(env_config: EnvConfig) -> SmacBattle:
    """Makes one game. Raises UserError for an unknown map and for continuous actions."""
    maps = get_smac_map_registry()
    name = env_config.map
    if name not in maps:
        raise unknown_value("env.map", name, maps)
    if env_config.continuous_actions:
        raise UserError("env.continuous_actions: smac has discrete actions only")
    check_map(name)
    client = StarCraft2Env(
        map_name=name,
        obs_last_action=env_config.last_action,
        continuing_episode=True,  # no more than that it tells a limit from a defeat
    )
    return SmacBattle(client, env_config, unit_types=unit_types(name, maps[name]))


def unit_types(name: str, params: dict[str, Any]) -> tuple[str, ...]:
    """Returns each agent's unit type on a map that has the client's `params`."""
    if name in MIXED:
        return tuple(kind for kind, count in MIXED[name] for _ in range(count))
    return (ALIKE.get(params["map_type"], ""),) * int(params["n_agents"])
