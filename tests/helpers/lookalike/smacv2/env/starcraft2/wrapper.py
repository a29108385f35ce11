"""A look-alike of SMACv2's client: teams that no seed reaches, and places that can't be used."""

from __future__ import annotations

import random
from typing import Any

import numpy as np
from smac import env


class CannotResetException(Exception):  # noqa: N818
    """The game didn't place the units."""


class StarCraft2Env(env.StarCraft2Env):
    """Takes an episode's configuration; the first `unplaceable` ones fail."""

    unplaceable = 0

    def __init__(self, map_name: str, capability_config: dict[str, Any], **keywords: Any) -> None:
        super().__init__("2s3z", obs_last_action=keywords["obs_last_action"])
        self.n_agents = capability_config["n_units"]
        self.n_enemies = capability_config["n_enemies"]
        self.n_actions = 6 + self.n_enemies
        self.max_reward = self.n_enemies * self.reward_death_value + self.reward_win

    def _init_units(self) -> None:
        super()._init_units()
        if StarCraft2Env.unplaceable:
            StarCraft2Env.unplaceable -= 1
            self._is_playing = False
            raise CannotResetException("waited for units to spawn and they didn't")


class Places:
    """Draws by a generator of its own."""

    def __init__(self) -> None:
        self.rng = np.random.default_rng()

    def generate(self) -> dict[str, Any]:
        return {"places": self.rng.uniform(size=2).tolist()}


class Teams:
    """Draws by a generator of its own, by Python's, and by another distribution."""

    def __init__(self, units: list[str], count: int) -> None:
        self.rng = np.random.default_rng()
        self.places = Places()
        self._units = units
        self._count = count

    def generate(self) -> dict[str, Any]:
        team = self.rng.choice(self._units, self._count).tolist()
        random.shuffle(team)
        return {"team": team, **self.places.generate()}


class StarCraftCapabilityEnvWrapper:
    """Holds the client and the distributions of its episodes."""

    def __init__(self, **keywords: Any) -> None:
        config = keywords["capability_config"]
        teams = Teams(config["team_gen"]["unit_types"], config["n_units"])
        self.env_key_to_distribution_map = {"team_gen": teams}
        self.env = StarCraft2Env(**keywords)
