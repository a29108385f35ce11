"""Google Research Football (gfootball 2.10.2, Kurach et al., AAAI 2020), our team against its bots.

A game steps gfootball's core itself. The environment around it copies every observation once for
each agent, twice a step, which takes longer than what is done with them. Tests hold observations
and rewards to those of gfootball's own environment.

env.map is one of gfootball's scenarios. As in HARL, the team's reward is what gfootball gives to
its first agent: goals, and with "checkpoints" 0.1 for each of ten distances from the goal that this
agent carries the ball to. The state is what all agents' observations hold, each part once.

An agent controls one player of the left team. Where fewer agents play than the team has players
that can be controlled, the engine lets agents change players during an episode: observations tell
who is controlled.

Defects of gfootball, and what is done here: `seed()` has no effect, and a reset keeps the order in
which teams are processed, and whose kick-off it is, from episodes before (all follow from the
episode's seed here); an unknown scenario ends the process (refused by name before); 11 players of
the right team get 12 rewards (nobody plays on the right); a step after the end is an assertion
(games are reset); there is no sign of truncation (told by the steps that are left).
"""

from __future__ import annotations

import contextlib
import importlib
import io
import pkgutil
import warnings
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any, NamedTuple

import numpy as np
from numpy.typing import NDArray

from sde_harl.envs.base import EnvSpec
from sde_harl.envs.settings import EnvConfig, unknown_value
from sde_harl.envs.vector.games import Game, ObservationBuffers, Outcome
from sde_harl.errors import UserError

if TYPE_CHECKING:
    from sde_harl.drawing.canvas import Colour, Picture

AGENTS = {
    "academy_counterattack_easy": 4,
    "academy_counterattack_hard": 4,
    "academy_corner": 11,
    "academy_single_goal_versus_lazy": 11,
    "1_vs_1_easy": 1,
    "5_vs_5": 4,
}
"""Agents of scenarios where they are not the whole team (11 players), or all but its goalkeeper."""
FULL_TEAM = 11
ACTIONS = 19
NO_PLAYER = -1.0
"""Stands in observations for the players that a smaller team lacks."""
SIMPLE = "simple115v2"
EXTRACTED = "extracted"
REPRESENTATIONS = (SIMPLE, EXTRACTED)
REWARDS = ("scoring", "scoring,checkpoints")
TEAM_PARTS = ("left_team", "left_team_direction", "right_team", "right_team_direction")
MAP_SHAPE = (72, 96)
"""Rows and columns of the small map in `extracted`."""
PLANES = 4
STACKED = 4
CHECKPOINTS = 10
CHECKPOINT_REWARD = 0.1
FARTHEST = 0.99
"""Distance from the goal of the first checkpoint."""
NEAREST = 0.19
"""Distance of the last."""


class FootballGame(Game):
    """One match or drill."""

    seed_bits = 31
    """What fits the engine's unsigned seed of 32 bits with room to spare."""
    pictures_per_s = 10.0

    def __init__(self, env_config: EnvConfig) -> None:
        """Raises UserError for settings that gfootball has not."""
        self._checkpoints = _has_checkpoints(env_config)
        scenario = env_config.map
        agents = agents_of(scenario)
        self._config = _make_config(scenario, agents)
        self._core = _module("football_env_core").FootballEnvCore(self._config)
        # Of the scenario, not of the match: no switch of players changes it.
        rules = self._config.ScenarioConfig()
        # A reset's step has the number -1, and the one of number `game_duration` is the last.
        limit = int(rules.game_duration) + 1
        self._view: _Simple | _Extracted = _Simple()
        if env_config.representation == EXTRACTED:
            self._view = _Extracted(agents, stacked=env_config.stacked)
        types = ("",) * agents
        if not rules.dynamic_player_selection:
            roles = self._core.observation()["left_team_roles"]
            types = tuple(_role(roles[player]) for player in self._controlled())
        self._eye = np.eye(FULL_TEAM, dtype=np.float32)
        self.spec = EnvSpec(
            name=f"football/{scenario}" + self._view.suffix,
            agents=tuple(f"player_{i}" for i in range(agents)),
            obs_sizes=(self._view.size,) * agents,
            action_sizes=((ACTIONS,),) * agents,
            state_size=_Simple.size + FULL_TEAM * (agents - 1),
            episode_limit=limit,
            continuous=False,
            unit_types=types,
            has_win=True,
            obs_images=self._view.images * agents,
            obs_dtype=self._view.dtype,
        )

    def reset(self, seed: int, out: ObservationBuffers) -> None:
        self._config["game_engine_random_seed"] = seed
        # Both would stay as they were in this object's first episode, or go on from its last.
        self._config["reverse_team_processing"] = bool(seed % 2)
        self._config["episode_number"] = seed // 2 % 2 - 1  # a reset adds 1
        self._core.reset()
        self._passed = 0
        self._view.restart()
        self._write(self._core._observation, out)

    def step(self, actions: NDArray[np.generic], out: ObservationBuffers) -> Outcome:
        # As Python's own numbers: the engine takes no others.
        observation, goals, is_over, _ = self._core.step(actions[:, 0].tolist())
        self._write(observation, out)
        is_late = observation["steps_left"] <= 0 and goals == 0
        ours, theirs = observation["score"]
        return Outcome(
            reward=self._reward(observation, goals),
            terminated=is_over and not is_late,
            truncated=is_over and is_late,
            won=int(ours > theirs),
        )

    def picture(self, colours: Sequence[Colour]) -> Picture:
        # Here, because a run that nobody watches needs no library that draws.
        from sde_harl.envs.football_picture import draw

        return draw(self._core._observation, colours)

    def record(self, folder: Path) -> bool:
        # The core reads both when an episode begins.
        self._config["dump_full_episodes"] = True
        self._config["tracesdir"] = str(folder)
        return True

    def close(self) -> None:
        self._core.close()

    def _controlled(self) -> list[int]:
        """Returns (N,) the player of each agent."""
        players: list[int] = self._core._observation["left_agent_controlled_player"]
        return players

    def _write(self, observation: dict[str, Any], out: ObservationBuffers) -> None:
        active = self._eye[observation["left_agent_controlled_player"]]  # (N, 11)
        world = _world(observation)
        self._view.write(observation, world, active, out)
        out.state[:] = np.concatenate([world.places, world.mode, active.ravel()])

    def _reward(self, observation: dict[str, Any], goals: int) -> float:
        """Returns gfootball's reward of the first agent, in its arithmetic of float32."""
        reward = np.float32(goals)
        if not self._checkpoints:
            return float(reward)
        if goals == 1:
            reward += np.float32(CHECKPOINT_REWARD * (CHECKPOINTS - self._passed))
            self._passed = CHECKPOINTS
            return float(reward)
        owns = observation["ball_owned_team"] == 0
        if not owns or observation["ball_owned_player"] != self._controlled()[0]:
            return float(reward)
        x, y, _ = observation["ball"]
        distance = ((x - 1) ** 2 + y**2) ** 0.5
        step = (FARTHEST - NEAREST) / (CHECKPOINTS - 1)
        while self._passed < CHECKPOINTS and distance <= FARTHEST - step * self._passed:
            reward += np.float32(CHECKPOINT_REWARD)
            self._passed += 1
        return float(reward)


class _World(NamedTuple):
    """The part of the observations that is the same for all agents."""

    places: NDArray[np.float32]
    """(97,) players' places and directions, the ball's, and who owns it."""
    mode: NDArray[np.float32]
    """(7,) normal, kick-off, goal kick, free kick, corner, throw-in, penalty."""


def _world(observation: dict[str, Any]) -> _World:
    places = np.full(97, NO_PLAYER, np.float32)
    for number, part in enumerate(TEAM_PARTS):
        values = observation[part].ravel()
        places[22 * number : 22 * number + len(values)] = values
    places[88:91] = observation["ball"]
    places[91:94] = observation["ball_direction"]
    places[94:97] = 0.0
    places[95 + observation["ball_owned_team"]] = 1.0
    mode = np.zeros(7, np.float32)
    mode[observation["game_mode"]] = 1.0
    return _World(places=places, mode=mode)


class _Simple:
    """simple115v2: 115 numbers."""

    size = 115
    dtype = "float32"
    images: tuple[tuple[int, ...], ...] = ()
    suffix = ""

    def restart(self) -> None:
        """Does nothing: it remembers nothing."""

    def write(
        self,
        observation: dict[str, Any],
        world: _World,
        active: NDArray[np.float32],
        out: ObservationBuffers,
    ) -> None:
        """Writes all agents' observations; `active` (N, 11) tells whom each controls."""
        out.obs[:, :97] = world.places
        out.obs[:, 97:108] = active
        out.obs[:, 108:] = world.mode


class _Extracted:
    """extracted: a small map with planes for our team, theirs, the ball, and the agent's player.

    With `stacked`, the maps of the last four steps, the newest last.
    """

    dtype = "uint8"

    def __init__(self, agents: int, *, stacked: bool) -> None:
        self._steps = STACKED if stacked else 1
        shape = (*MAP_SHAPE, PLANES * self._steps)
        self.images: tuple[tuple[int, ...], ...] = (shape,)
        self.size = int(np.prod(shape))
        # Another observation is another task: its results are kept apart.
        self.suffix = "-extracted" + "-stacked" * stacked
        self._maps = np.zeros((agents, *shape), np.uint8)
        self._is_first = True

    def restart(self) -> None:
        """Forgets the maps of the episode before."""
        self._is_first = True

    def write(
        self,
        observation: dict[str, Any],
        world: _World,
        active: NDArray[np.float32],
        out: ObservationBuffers,
    ) -> None:
        """Writes all agents' observations; `active` (N, 11) tells whom each controls."""
        newest = self._newest(observation)
        if self._is_first:
            self._maps[:] = np.tile(newest, self._steps)
            self._is_first = False
        else:
            self._maps[..., :-PLANES] = self._maps[..., PLANES:]
            self._maps[..., -PLANES:] = newest
        out.obs[:] = self._maps.reshape(len(self._maps), -1)

    def _newest(self, observation: dict[str, Any]) -> NDArray[np.uint8]:
        """Returns the maps (N, 72, 96, 4) of this step."""
        maps = np.zeros((len(self._maps), *MAP_SHAPE, PLANES), np.uint8)
        ours = observation["left_team"]
        _mark(maps[..., 0], ours)
        _mark(maps[..., 1], observation["right_team"])
        _mark(maps[..., 2], observation["ball"][None, :2])
        for agent, player in enumerate(observation["left_agent_controlled_player"]):
            _mark(maps[agent : agent + 1, ..., 3], ours[player][None])
        return maps


def _mark(maps: NDArray[np.uint8], points: NDArray[Any]) -> None:
    """Marks points (K, 2) of the field in maps (N, 72, 96), as gfootball's mark_points does."""
    rows, columns = MAP_SHAPE
    x = ((points[:, 0] + 1.0) / 2.0 * columns).astype(int)
    y = ((points[:, 1] + 1.0 / 2.25) / (2.0 / 2.25) * rows).astype(int)
    maps[:, np.clip(y, 0, rows - 1), np.clip(x, 0, columns - 1)] = 255


def make_game(env_config: EnvConfig) -> FootballGame:
    """Makes one game. Raises UserError for a scenario or a setting that gfootball has not."""
    if env_config.map not in maps():
        raise unknown_value("env.map", env_config.map, maps())
    if env_config.continuous_actions:
        raise UserError("env.continuous_actions: football has discrete actions only")
    if env_config.representation not in REPRESENTATIONS:
        raise unknown_value("env.representation", env_config.representation, REPRESENTATIONS)
    if env_config.rewards not in REWARDS:
        raise unknown_value("env.rewards", env_config.rewards, REWARDS)
    if env_config.stacked and env_config.representation != EXTRACTED:
        raise UserError("env.stacked: expected false (env.representation is not extracted)")
    return FootballGame(env_config)


def maps() -> list[str]:
    """Returns the valid values of env.map."""
    with _quiet():
        package = importlib.import_module("gfootball.scenarios")
    names = [module.name for module in pkgutil.iter_modules(package.__path__)]
    return [name for name in names if "_vs_" in name or name.startswith("academy_")]


def agents_of(scenario: str) -> int:
    """Returns how many agents play a scenario: HARL's numbers where HARL plays it."""
    if scenario in AGENTS:
        return AGENTS[scenario]
    players = len(_make_config(scenario, 1).ScenarioConfig().left_team)
    if players == FULL_TEAM:
        return players
    return players - 1


def _has_checkpoints(env_config: EnvConfig) -> bool:
    return env_config.rewards.endswith("checkpoints")


def _make_config(scenario: str, agents: int) -> Any:
    """Returns gfootball's configuration; nothing is recorded by the engine."""
    return _module("config").Config(
        {
            "level": scenario,
            "players": [f"agent:left_players={agents},right_players=0"],
            "dump_full_episodes": False,
            "dump_scores": False,
            "write_video": False,
            "tracesdir": "",
            "game_engine_random_seed": 0,
        }
    )


def _role(role: Any) -> str:
    """Returns a role's name: GK, CB, CM, ..."""
    return str(_engine().e_PlayerRole.values[int(role)]).rsplit("_", 1)[-1]


def _engine() -> Any:
    with _quiet():
        return importlib.import_module("gfootball_engine")


def _module(name: str) -> Any:
    with _quiet():
        return importlib.import_module(f"gfootball.env.{name}")


@contextlib.contextmanager
def _quiet() -> Iterator[None]:
    """Silences what gym 0.25 says on import: that it is no longer maintained."""
    nowhere = io.StringIO()
    with contextlib.ExitStack() as quiet:
        quiet.enter_context(contextlib.redirect_stderr(nowhere))
        quiet.enter_context(contextlib.redirect_stdout(nowhere))
        quiet.enter_context(warnings.catch_warnings())
        warnings.simplefilter("ignore")
        yield
