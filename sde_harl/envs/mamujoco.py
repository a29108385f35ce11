"""Multi-agent MuJoCo (gymnasium-robotics' MaMuJoCo v1): one robot whose joints are dealt to agents.

env.map is "<robot>-<partition>", as in "HalfCheetah-6x1". All agents get the robot's reward; the
time limit truncates. Agents see their own joints and those up to env.agent_obsk away, so their
sizes differ; the state is the robot's. With env.agent_obsk = -1 they see all of the robot, as
HARL's agents do. Actions are torques, clipped to the robot's bounds.
"""

from __future__ import annotations

import contextlib
import io
import logging
import os
from collections.abc import Sequence
from typing import TYPE_CHECKING, Any

import mujoco
import numpy as np
from gymnasium import spaces
from numpy.typing import NDArray
from pettingzoo.utils import BaseParallelWrapper

from sde_harl.envs.parallel_protocol import Origin
from sde_harl.envs.pettingzoo import ParallelGame
from sde_harl.envs.settings import EnvConfig, unknown_value
from sde_harl.errors import UserError

if TYPE_CHECKING:
    from sde_harl.drawing.canvas import Colour, Picture

PARTITIONS = {
    "HalfCheetah": ("2x3", "6x1"),
    "Ant": ("2x4", "2x4d", "4x2"),
    "Walker2d": ("2x3",),
    "Hopper": ("3x1",),
    "Humanoid": ("9|8",),
    "HumanoidStandup": ("9|8",),
    "Swimmer": ("2x1",),
    "Reacher": ("2x1",),
}
"""Partitions by robot: those that v1 has, can build, and builds alike every time.

A Pusher is missing because the order of its observations differs from process to process.
Walker2d-6x1 and Humanoid-17x1 exist in the older MaMuJoCo only.
"""
WHOLE_ROBOT = -1
"""env.agent_obsk: every agent sees all of the robot, and which agent it is."""

log = logging.getLogger(__name__)

# Some releases of PettingZoo have types and make this class generic, others don't.
_Wrapper: Any = BaseParallelWrapper


class RobotGame(ParallelGame):
    """A robot, drawn by MuJoCo."""

    pictures_per_s = 20.0

    def picture(self, colours: Sequence[Colour]) -> Picture | None:
        # Without a display MuJoCo draws by EGL, which needs no graphics card.
        if "DISPLAY" not in os.environ:
            os.environ.setdefault("MUJOCO_GL", "egl")
        try:
            return super().picture(colours)
        except UserError as error:
            raise UserError(
                f"{error}; to draw, MuJoCo needs EGL (Debian: libegl1 libegl-mesa0) or OSMesa"
                " (libosmesa6 and MUJOCO_GL=osmesa)"
            ) from error


class WholeRobot(_Wrapper):  # type: ignore[misc]  # the base's type is Any
    """Shows every agent the robot's state (S,) and the agent's number, one-hot (N,).

    Observations are (S + N,), as in HARL's MAMuJoCo (MujocoMulti.get_obs): policies that share
    parameters can tell who acts. As there, each of them and the state are standardised, by the mean
    and deviation of their own numbers: nets that normalise nothing learn from them, too.
    """

    def observation_space(self, agent: str) -> spaces.Box:
        size = np.size(super().state()) + len(self.possible_agents)
        return spaces.Box(-np.inf, np.inf, (size,), np.float64)

    def state(self) -> NDArray[np.float64]:
        return _standardised(super().state())

    def reset(
        self, seed: int | None = None, options: dict[str, Any] | None = None
    ) -> tuple[dict[str, Any], Any]:
        _, infos = super().reset(seed, options)
        return self._observations(), infos

    def step(self, actions: dict[str, Any]) -> tuple[dict[str, Any], Any, Any, Any, Any]:
        _, rewards, terminated, truncated, infos = super().step(actions)
        return self._observations(), rewards, terminated, truncated, infos

    def _observations(self) -> dict[str, NDArray[np.float64]]:
        state = super().state()
        one_hot = np.eye(len(self.possible_agents))
        return {
            agent: _standardised(np.append(state, number))
            for agent, number in zip(self.possible_agents, one_hot)
        }


def _standardised(numbers: NDArray[np.float64]) -> NDArray[np.float64]:
    """Returns numbers (K,) less their mean, in units of their deviation."""
    standardised: NDArray[np.float64] = (numbers - numbers.mean()) / (numbers.std() or 1.0)
    return standardised


def make_game(env_config: EnvConfig) -> RobotGame:
    """Makes one game. Raises UserError for an unknown robot or partition."""
    names = maps()
    if env_config.map not in names:
        raise unknown_value("env.map", env_config.map, names)
    mujoco.set_mju_user_warning(_log_warning)
    robot, partition = env_config.map.split("-")
    env = _make_robot(robot, partition, nearest=max(env_config.agent_obsk, 0))
    limit = env.single_agent_env.spec.max_episode_steps
    if env_config.agent_obsk == WHOLE_ROBOT:
        env = WholeRobot(env)
    origin = Origin(key="env.map", spelt=env_config.map)
    game = RobotGame(env, f"mamujoco/{env_config.map}", origin=origin, episode_limit=limit)
    # "agent_0" says nothing about the limb that it moves, so it is no hint for roles
    game.spec = game.spec._replace(unit_types=("",) * len(game.spec.agents))
    return game


def maps() -> list[str]:
    """Returns the valid values of env.map."""
    return [f"{robot}-{dealt}" for robot, partitions in PARTITIONS.items() for dealt in partitions]


def _make_robot(robot: str, partition: str, *, nearest: int) -> Any:
    """Makes gymnasium-robotics' environment; agents see joints up to `nearest` away."""
    # imported here: its import warns on stderr of robots that are none of these, in every run
    with contextlib.redirect_stderr(io.StringIO()):
        from gymnasium_robotics import mamujoco_v1
    # The mode is fixed when it is made. Nothing is prepared for it before the first picture.
    return mamujoco_v1.parallel_env(
        scenario=robot, agent_conf=partition, agent_obsk=nearest, render_mode="rgb_array"
    )


def _log_warning(text: str) -> None:
    """Logs a warning of MuJoCo's.

    By itself MuJoCo prints it and appends it to a file in the working directory. It warns that its
    own robots' files are deprecated, which no user can change: that goes to the debug log.
    """
    level = logging.WARNING
    if "deprecated" in text:
        level = logging.DEBUG
    log.log(level, "MuJoCo: %s", text.strip())
