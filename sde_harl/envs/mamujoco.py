"""Multi-agent MuJoCo (gymnasium-robotics' MaMuJoCo v1): one robot whose joints are dealt over agents.

env.map is "<robot>-<partition>", as in "HalfCheetah-6x1". Everybody gets the robot's reward; the time limit truncates.
Agents see their own joints and those up to env.agent_obsk away, so their sizes differ; the state is the robot's. With
env.agent_obsk = -1 they see all of the robot, as HARL's agents do. Actions are torques, clipped to the robot's bounds.
"""

from __future__ import annotations

import contextlib
import io
import logging
from typing import Any

import mujoco
import numpy as np
from gymnasium import spaces
from numpy.typing import NDArray
from pettingzoo.utils import BaseParallelWrapper

from sde_harl.envs.base import EnvConfig, unknown
from sde_harl.envs.pettingzoo import ParallelGame

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
"""Those that v1 has, builds, and builds alike every time: the order of a Pusher's observations differs from process to
process. Walker2d-6x1 and Humanoid-17x1 are of the older MaMuJoCo only."""

WHOLE = -1
"""env.agent_obsk: the whole robot, and which agent one is."""

log = logging.getLogger(__name__)


class WholeRobot(BaseParallelWrapper):  # type: ignore[type-arg]
    """Every agent sees the robot's state (S,) and its own number, one-hot (N,): observations are (S + N,).

    So HARL's MAMuJoCo has it (MujocoMulti.get_obs): policies that share parameters can tell who acts. There the vector
    is standardised besides, of which policy.feature_norm leaves nothing to see.
    """

    def observation_space(self, agent: str) -> spaces.Box:
        return spaces.Box(
            -np.inf, np.inf, (np.size(self.state()) + len(self.possible_agents),), np.float64
        )

    def reset(
        self, seed: int | None = None, options: dict[str, Any] | None = None
    ) -> tuple[dict[str, Any], Any]:
        _, infos = super().reset(seed, options)
        return self._seen(), infos

    def step(self, actions: dict[str, Any]) -> tuple[dict[str, Any], Any, Any, Any, Any]:
        _, rewards, terminated, truncated, infos = super().step(actions)
        return self._seen(), rewards, terminated, truncated, infos

    def _seen(self) -> dict[str, NDArray[np.float64]]:
        state, numbers = self.state(), np.eye(len(self.possible_agents))
        return {
            agent: np.append(state, number) for agent, number in zip(self.possible_agents, numbers)
        }


def make_game(env_config: EnvConfig) -> ParallelGame:
    """Raises UserError for an unknown robot or partition."""
    maps = [
        f"{robot}-{partition}"
        for robot, partitions in PARTITIONS.items()
        for partition in partitions
    ]
    if env_config.map not in maps:
        raise unknown("env.map", env_config.map, maps)
    robot, partition = env_config.map.split("-")
    mujoco.set_mju_user_warning(_warned)
    with contextlib.redirect_stderr(
        io.StringIO()
    ):  # on import it warns of robots that are not these
        from gymnasium_robotics import mamujoco_v1
    whole = env_config.agent_obsk == WHOLE
    nearest = 0 if whole else env_config.agent_obsk
    env: Any = mamujoco_v1.parallel_env(scenario=robot, agent_conf=partition, agent_obsk=nearest)
    limit = env.single_agent_env.spec.max_episode_steps
    game = ParallelGame(WholeRobot(env) if whole else env, f"mamujoco/{env_config.map}", limit)
    game.spec = game.spec._replace(
        unit_types=("",) * len(game.spec.agents)
    )  # "agent_0" tells no limb
    return game


def _warned(text: str) -> None:
    """What MuJoCo would print, and append to a file in the working directory: it grumbles at its own robots' files."""
    log.log(logging.DEBUG if "deprecated" in text else logging.WARNING, "MuJoCo: %s", text.strip())
