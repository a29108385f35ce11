"""Particle worlds with opponents (mpe2): our team against a script.

The team is the side that has to cooperate; its opponents follow a fixed rule, so that results of a
scenario can be compared. The team's reward is the mean over its agents.

    scenario            team                              opponents
    simple_tag          three predators                   one prey, which flees
    simple_world_comm   a leader, who speaks, and three   two preys, which flee and look for food
                        more predators
    simple_adversary    two agents that know the goal     one that goes where the team seems to go
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any, NamedTuple

import numpy as np
from numpy.typing import NDArray

from sde_harl.envs.mpe import FORCE, PUSHES, MpeGame
from sde_harl.envs.vector.games import ObservationBuffers, Outcome

REACH = 0.3
"""Distance ahead at which a script judges its moves."""
FIELD = 0.8
"""Half of the side of the square that preys stay in."""
Script = Callable[[Any, Any], int]
"""Returns an opponent's move, 0 to 4, from the world and the opponent."""


class Side(NamedTuple):
    """Who plays whom in a scenario."""

    team_is_adversary: bool
    """mpe2 calls the team's agents adversaries."""
    script: Script


def flee(world: Any, prey: Any) -> int:
    """Returns the move that leads farthest from the predators, along food, within the field."""
    places = _places_ahead(prey)
    hunters = np.array([each.state.p_pos for each in world.agents if each.adversary])
    fear = (1.0 / (_distances(places, hunters) ** 2 + 0.01)).sum(1)
    outside = np.maximum(np.abs(places) - FIELD, 0.0).sum(1)
    worth = -fear - 100.0 * outside
    food = getattr(world, "food", [])
    if food:
        worth -= 2.0 * _distances(places, np.array([each.state.p_pos for each in food])).min(1)
    return int(worth.argmax())


def follow(world: Any, adversary: Any) -> int:
    """Returns the move towards the landmark that the team is closest to: it may be the goal."""
    marks = np.array([each.state.p_pos for each in world.landmarks])
    team = np.array([each.state.p_pos for each in world.agents if not each.adversary])
    guess = marks[_distances(marks, team).min(1).argmin()]
    return int(_distances(_places_ahead(adversary), guess[None])[:, 0].argmin())


SIDES = {
    "simple_tag": Side(team_is_adversary=True, script=flee),
    "simple_world_comm": Side(team_is_adversary=True, script=flee),
    "simple_adversary": Side(team_is_adversary=False, script=follow),
}


class VersusGame(MpeGame):
    """One world with opponents."""

    def __init__(self, scenario: str, continuous: bool) -> None:
        super().__init__(scenario, continuous)
        side = SIDES[scenario]
        self._script = side.script
        everyone = self._agents
        ours = [i for i, each in enumerate(everyone) if each.adversary == side.team_is_adversary]
        self._agents = [everyone[i] for i in ours]
        self._opponents = [each for each in everyone if each not in self._agents]
        spec = self.spec
        obs_sizes = tuple(spec.obs_sizes[i] for i in ours)
        self.spec = spec._replace(
            agents=tuple(spec.agents[i] for i in ours),
            obs_sizes=obs_sizes,
            action_sizes=tuple(spec.action_sizes[i] for i in ours),
            action_bounds=tuple(spec.action_bounds[i] for i in ours if spec.action_bounds),
            unit_types=tuple(spec.unit_types[i] for i in ours),
            state_size=sum(obs_sizes),
        )

    def step(self, actions: NDArray[np.generic], out: ObservationBuffers) -> Outcome:
        for opponent in self._opponents:
            move = self._script(self._world, opponent)
            opponent.action.u = PUSHES[move] * _strength(opponent)
        return super().step(actions, out)

    def _choose(self, actions: NDArray[np.generic]) -> None:
        super()._choose(actions)
        self._scale()

    def _push(self, actions: NDArray[np.generic]) -> None:
        super()._push(actions)
        self._scale()

    def _scale(self) -> None:
        """Gives the team's agents their own strength."""
        for agent in self._agents:
            agent.action.u = agent.action.u * _strength(agent)


def _strength(agent: Any) -> float:
    """Returns an agent's full push as a share of the usual one."""
    return float(agent.accel or FORCE) / FORCE


def _places_ahead(agent: Any) -> NDArray[np.float64]:
    """Returns (5, 2) where each move would lead, roughly."""
    ahead: NDArray[np.float64] = agent.state.p_pos + PUSHES / FORCE * REACH
    return ahead


def _distances(ones: NDArray[Any], others: NDArray[Any]) -> NDArray[np.float64]:
    """Returns (K, L) distances of points (K, 2) from points (L, 2)."""
    distances: NDArray[np.float64] = np.linalg.norm(ones[:, None] - others, axis=-1)
    return distances
