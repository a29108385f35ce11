"""A look-alike of SMAC's client, with the client's faults. Its battles are dice."""

from __future__ import annotations

import random
from types import SimpleNamespace
from typing import Any

import numpy as np
from pysc2 import run_configs
from pysc2.lib import protocol

from smac.env.starcraft2.maps.smac_maps import get_smac_map_registry

NO_ATTACK = 6
RANGERS = 2000
"""The agents' unit type, which is the client's own, and no number of the game's."""
MARINES = 48


def _unit(unit_type: int, *, x: float, y: float) -> Any:
    """Returns a unit as the game's protocol describes it."""
    health = {"health": 45.0, "health_max": 45.0, "shield": 0.0, "shield_max": 0.0}
    place = {"pos": SimpleNamespace(x=x, y=y), "radius": 0.375}
    return SimpleNamespace(unit_type=unit_type, weapon_cooldown=0.0, **health, **place)


class StarCraft2Env:
    """Has the attributes and methods of the real client that a runner uses."""

    def __init__(
        self,
        map_name: str,
        seed: int | None = None,
        obs_last_action: bool = False,
        continuing_episode: bool = False,
    ) -> None:
        params = get_smac_map_registry()[map_name]
        self.map_name = map_name
        self.map_x = self.map_y = 32
        self.n_actions_no_attack = NO_ATTACK
        self.marine_id = 0
        self.medivac_id = 0
        self.n_agents = params["n_agents"]
        self.n_enemies = params["n_enemies"]
        self.episode_limit = params["limit"]
        self.n_actions = NO_ATTACK + self.n_enemies
        self.reward_death_value = 10
        self.reward_win = 200
        self.max_reward = self.n_enemies * self.reward_death_value + self.reward_win
        self.last_action = np.zeros((self.n_agents, self.n_actions))
        self.resets: list[Any] = []
        self.seeds: list[int | None] = []
        self._seed = seed
        self._sees_actions = obs_last_action
        self._tells_limit = continuing_episode
        self._episode_count = 0
        self._is_playing = False
        self._step_mul = 8
        self._sc2_proc: Any = None

    def _launch(self) -> None:
        self._sc2_proc = run_configs.get().start(window_size=(1920, 1200), want_rgb=False)
        self._controller = self._sc2_proc.controller
        self._dice = random.Random(self._seed)
        self.seeds.append(self._seed)

    def full_restart(self) -> None:
        """Starts another game, without being asked."""
        self._sc2_proc.close()
        self._launch()

    def reset(self, *configuration: Any) -> None:
        """Begins an episode. A second reset in a row corrupts the real client's."""
        if self._episode_count == 0:
            assert self._sc2_proc is None, "a second game beside the first"
            self._launch()
        else:
            assert not self._is_playing, "a reset in mid-episode"
        self._is_playing = True
        self.resets.append(configuration)
        self._steps = 0
        self.last_action = np.zeros((self.n_agents, self.n_actions))
        try:
            self._controller.observe()
        except protocol.ConnectionError:
            self.full_restart()
        self._init_units()

    def _init_units(self) -> None:
        self._allies = [45.0] * self.n_agents
        self.marine_id = RANGERS
        # Half of the enemies at first: the client counts those it sees at every look, and they
        # are seen twice.
        for seen in (self.n_enemies // 2, self.n_enemies):
            self.enemies = {e: _unit(MARINES, x=12.0, y=4.0 + e) for e in range(seen)}
            if self._episode_count == 0:
                self.max_reward += sum(each.health_max for each in self.enemies.values())

    def step(self, actions: list[int]) -> tuple[float, bool, dict[str, Any]]:
        """Plays a step, as the client does; a lost game is hidden as the end of an episode."""
        for agent, action in enumerate(actions):
            if type(action) is not int:
                raise TypeError(f"{action!r} has type {type(action)}, but expected one of: int")
            assert self.get_avail_actions()[agent][action]
        self.last_action = np.eye(self.n_actions)[actions]
        try:
            self._controller.observe()
        except protocol.ConnectionError:
            self.full_restart()
            return 0, True, {}
        return self._fight(actions)

    def _fight(self, actions: list[int]) -> tuple[float, bool, dict[str, Any]]:
        self._steps += 1
        damage = 0.0
        for action in actions:
            if action >= NO_ATTACK:
                enemy = self.enemies[action - NO_ATTACK]
                hit = min(enemy.health, self._dice.uniform(0, 30))
                enemy.health -= hit
                damage += hit
        victim = self._dice.randrange(self.n_agents)
        self._allies[victim] = max(0.0, self._allies[victim] - self._dice.uniform(0, 30))
        won = not any(enemy.health for enemy in self.enemies.values())
        late = self._steps >= self.episode_limit
        over = won or late or not any(self._allies)
        info: dict[str, Any] = {"battle_won": won}
        if late and not won and any(self._allies) and self._tells_limit:
            info["episode_limit"] = True
        if over:
            self._episode_count += 1
            self._is_playing = False
        reward = damage + self.reward_win * won
        return reward / self.max_reward * 20, over, info

    @property
    def agents(self) -> dict[int, Any]:
        units = [_unit(RANGERS, x=8.0, y=4.0 + 3.0 * i) for i in range(self.n_agents)]
        for unit, health in zip(units, self._allies):
            unit.health = health
        return dict(enumerate(units))

    def unit_sight_range(self, agent_id: int) -> int:
        return 9

    def unit_max_cooldown(self, unit: Any) -> int:
        return 15

    def get_avail_actions(self) -> list[list[int]]:
        attacks = [int(enemy.health > 0) for enemy in self.enemies.values()]
        alive = [0, 1, 1, 1, 1, 1, *attacks]
        dead = [1] + [0] * (self.n_actions - 1)
        return [alive if health else dead for health in self._allies]

    def get_obs_size(self) -> int:
        return self.n_agents + 1 + self._sees_actions * (self.n_agents - 1) * self.n_actions

    def get_state_size(self) -> int:
        return self.n_agents + self.n_enemies

    def get_obs(self) -> list[np.ndarray[Any, Any]]:
        seen = np.zeros(self.get_obs_size())
        seen[: self.n_agents] = self._allies
        seen[self.n_agents] = self._dice.random()
        return [seen * (health > 0) for health in self._allies]

    def get_state(self) -> np.ndarray[Any, Any]:
        return np.array([*self._allies, *(enemy.health for enemy in self.enemies.values())])
