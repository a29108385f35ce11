"""The view of a battle that a client of SMAC or SMACv2 gives, to be drawn.

N agents, U units, agents first.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import numpy as np
from numpy.typing import NDArray

from sde_harl.envs.battle_picture import LETTERS, Battle

ENEMIES = {
    4: "colossus",
    9: "baneling",
    48: "marine",
    51: "marauder",
    54: "medivac",
    73: "zealot",
    74: "stalker",
    98: "spine crawler",
    105: "zergling",
    107: "hydralisk",
}
"""The game's own numbers of the types. Agents have types of their own, which the client numbers."""


def battle_of(client: Any) -> Battle:
    """Returns the battle as it stands. The client doesn't know whom opponents attack."""
    allies = list(client.agents.values())
    units = [*allies, *client.enemies.values()]
    own_types = _own_types(client)
    full = _of(units, "health_max", "shield_max")
    targets = np.arange(len(units))
    targets[: len(allies)] = _targets(client)
    fired = np.zeros(len(units), bool)
    fired[: len(allies)] = [_has_fired(client, unit) for unit in allies]
    # A client asks the unit for its range, and has none for a type that no agent has.
    sights = [float(client.unit_sight_range(agent)) for agent in client.agents]
    return Battle(
        positions=np.array([(unit.pos.x, unit.pos.y) for unit in units]),
        alive=_of(units, "health") > 0,
        health=_of(units, "health", "shield") / np.maximum(full, 1.0),
        types=[own_types.get(unit.unit_type, "") for unit in allies]
        + [ENEMIES.get(unit.unit_type, "") for unit in client.enemies.values()],
        radius=_of(units, "radius"),
        sight=np.array(sights + [0.0] * len(client.enemies)),
        target=targets,
        fired=fired,
        allies=len(allies),
        size=(float(client.map_x), float(client.map_y)),
    )


def _of(units: Sequence[Any], *names: str) -> NDArray[np.float64]:
    """Returns (U,) the sum of some numbers of each unit."""
    return np.array([sum(getattr(unit, name) for name in names) for unit in units])


def _own_types(client: Any) -> dict[int, str]:
    """Returns the types of agents by the client's numbers, which are 0 where a map has none."""
    numbers = {getattr(client, f"{name}_id", 0): name for name in LETTERS}
    numbers.pop(0, None)
    return numbers


def _targets(client: Any) -> NDArray[np.int64]:
    """Returns (N,) whom each agent attacks or heals, its own number where it does neither."""
    agents = np.arange(len(client.agents))
    choices = client.last_action.argmax(-1) - client.n_actions_no_attack
    healers = [unit.unit_type == client.medivac_id != 0 for unit in client.agents.values()]
    # A healer's choices are agents; the others' are enemies, who stand behind the agents here.
    targets = np.where(healers, choices, choices + len(agents))
    return np.where(choices < 0, agents, targets)


def _has_fired(client: Any, unit: Any) -> bool:
    """Returns True for a weapon that has nearly all of its reloading time before it."""
    return bool(unit.weapon_cooldown > client.unit_max_cooldown(unit) - client._step_mul)
