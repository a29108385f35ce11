"""Parallel environments for tests.

Worker processes import this file by its name, as they would import a user's.
"""

from __future__ import annotations

import os
import signal
import time
from typing import Any, ClassVar

import numpy as np
import pettingzoo
from gymnasium import spaces

LIMIT = 6


class Corridor(pettingzoo.ParallelEnv):
    """Two agents count their steps.

    "b" leaves after two; "a" plays to the limit, or wins by choice 4. An agent sees its own last
    action. "a" has five choices, of which choice 1 is unavailable in odd steps; "b" chooses in two
    branches.
    """

    metadata: ClassVar[dict[str, Any]] = {"name": "corridor"}
    possible_agents: ClassVar[list[str]] = ["a", "b"]

    def __init__(self) -> None:
        self.agents: list[str] = []
        self.spaces = {"a": spaces.Discrete(5, start=10), "b": spaces.MultiDiscrete([2, 3])}
        self.last: dict[str, Any] = {}

    def observation_space(self, agent: str) -> spaces.Space[Any]:
        if agent == "b":
            return spaces.Box(0, 255, (2, 2), np.uint8)
        seen = spaces.Box(-np.inf, np.inf, (3,))
        return spaces.Dict({"observation": seen, "action_mask": spaces.MultiBinary(5)})

    def action_space(self, agent: str) -> spaces.Space[Any]:
        return self.spaces[agent]

    def _obs(self, agent: str) -> Any:
        if agent == "b":
            first, second = self.last.get("b", (0, 0))
            return np.array([[self.step_count, first], [second, 255]], np.uint8)
        seen = np.array([self.step_count, self.last.get("a", 0), self.start])
        return {
            "observation": seen,
            "action_mask": np.array([1, 1 - self.step_count % 2, 1, 1, 1], np.int8),
        }

    def reset(self, seed: int | None = None, options: Any = None) -> tuple[Any, Any]:
        self.step_count, self.last = 0, {}
        self.start = np.random.RandomState(seed).uniform()
        self.agents = list(self.possible_agents)
        return {agent: self._obs(agent) for agent in self.agents}, {
            agent: {} for agent in self.agents
        }

    def step(self, actions: dict[str, Any]) -> tuple[Any, Any, Any, Any, Any]:
        assert set(actions) == set(self.agents)
        assert all(self.spaces[agent].contains(action) for agent, action in actions.items()), (
            actions
        )
        assert not (self.step_count % 2 and actions["a"] == 11), "unavailable"
        self.step_count += 1
        self.last, present = actions, list(self.agents)
        terminated = {
            agent: (agent == "b" and self.step_count == 2) or actions["a"] == 14
            for agent in present
        }
        truncated = {agent: self.step_count == LIMIT for agent in present}
        self.agents = [agent for agent in present if not (terminated[agent] or truncated[agent])]
        obs = {agent: self._obs(agent) for agent in present}
        rewards = {agent: float(len(agent)) for agent in present}
        return obs, rewards, terminated, truncated, {agent: {} for agent in present}


class Torque(pettingzoo.ParallelEnv):
    """Two continuous agents of different sizes, and a state; each sees its own last action."""

    metadata: ClassVar[dict[str, Any]] = {"name": "torque"}
    possible_agents: ClassVar[list[str]] = ["joint_0", "joint_1"]

    def __init__(self) -> None:
        self.agents = list(self.possible_agents)
        low = np.array([-2, 0], np.float32)
        self.spaces = {"joint_0": spaces.Box(low, low + 3), "joint_1": spaces.Box(-1, 1, (1,))}

    def observation_space(self, agent: str) -> spaces.Space[Any]:
        return spaces.Box(-np.inf, np.inf, self.spaces[agent].shape)

    def action_space(self, agent: str) -> spaces.Space[Any]:
        return self.spaces[agent]

    def state(self) -> np.ndarray:
        return np.array([[self.step_count, self.start]])

    def reset(self, seed: int | None = None, options: Any = None) -> tuple[Any, Any]:
        self.step_count, self.agents = 0, list(self.possible_agents)
        self.start = np.random.RandomState(seed).uniform()
        return {agent: np.zeros(space.shape) for agent, space in self.spaces.items()}, {}

    def step(self, actions: dict[str, Any]) -> tuple[Any, Any, Any, Any, Any]:
        assert all(self.spaces[agent].contains(action) for agent, action in actions.items()), (
            actions
        )
        self.step_count += 1
        over = self.step_count == LIMIT
        flags = [dict.fromkeys(self.possible_agents, flag) for flag in (False, over)]
        self.agents = [] if over else self.agents
        return (
            actions,
            {agent: float(action.sum()) for agent, action in actions.items()},
            *flags,
            {},
        )


class Cues(pettingzoo.ParallelEnv):
    """Two steps: each agent sees one of three cues, then a blank, and must name the cue then."""

    metadata: ClassVar[dict[str, Any]] = {"name": "cues"}
    possible_agents: ClassVar[list[str]] = ["left", "right"]

    def __init__(self) -> None:
        self.agents: list[str] = []

    def observation_space(self, agent: str) -> spaces.Space[Any]:
        return spaces.Box(0, 1, (4,))

    def action_space(self, agent: str) -> spaces.Space[Any]:
        return spaces.Discrete(3)

    def reset(self, seed: int | None = None, options: Any = None) -> tuple[Any, Any]:
        self.agents, self.blank = list(self.possible_agents), False
        self.cues = dict(zip(self.agents, np.random.default_rng(seed).integers(0, 3, 2)))
        return {agent: np.eye(4)[cue] for agent, cue in self.cues.items()}, {}

    def step(self, actions: dict[str, Any]) -> tuple[Any, Any, Any, Any, Any]:
        over, self.blank = self.blank, True
        rewards = {agent: float(over and actions[agent] == cue) for agent, cue in self.cues.items()}
        flags = [dict.fromkeys(self.possible_agents, flag) for flag in (over, False)]
        self.agents = [] if over else self.agents
        return dict.fromkeys(self.possible_agents, np.eye(4)[3]), rewards, *flags, {}


class Seekers(pettingzoo.ParallelEnv):
    """Two agents on grids of 5 by 5, each with a lamp to walk to, and another one once it is there.

    An agent sees its grid as an image of bytes, itself in one channel and the lamp in the other. A
    step nearer is worth 1, a step away -1: an agent that uses its image gets 1 in each of the six
    steps, one that doesn't gets about 0.
    """

    metadata: ClassVar[dict[str, Any]] = {"name": "seekers"}
    possible_agents: ClassVar[list[str]] = ["left", "right"]
    moves = np.array([(0, 1), (0, -1), (1, 0), (-1, 0)])
    shape: tuple[int, ...] = (5, 5, 2)

    def __init__(self) -> None:
        self.agents: list[str] = []

    def observation_space(self, agent: str) -> spaces.Space[Any]:
        return spaces.Box(0, 255, self.shape, np.uint8)

    def action_space(self, agent: str) -> spaces.Space[Any]:
        return spaces.Discrete(4)

    def _obs(self, agent: str) -> np.ndarray:
        image = np.zeros((5, 5, 2), np.uint8)
        image[(*self.at[agent], 0)], image[(*self.lamp[agent], 1)] = 255, 200
        return image

    def _elsewhere(self, at: np.ndarray) -> np.ndarray:
        lamp = self.rng.integers(0, 5, 2)
        return lamp if (lamp != at).any() else self._elsewhere(at)

    def reset(self, seed: int | None = None, options: Any = None) -> tuple[Any, Any]:
        self.rng = np.random.default_rng(seed)
        self.step_count = 0
        self.agents = list(self.possible_agents)
        self.at = {agent: self.rng.integers(0, 5, 2) for agent in self.agents}
        self.lamp = {agent: self._elsewhere(self.at[agent]) for agent in self.agents}
        return {agent: self._obs(agent) for agent in self.agents}, {}

    def step(self, actions: dict[str, Any]) -> tuple[Any, Any, Any, Any, Any]:
        self.step_count += 1
        rewards = {
            agent: self._walk(agent, self.moves[action]) for agent, action in actions.items()
        }
        flags = [
            dict.fromkeys(self.possible_agents, flag) for flag in (False, self.step_count == LIMIT)
        ]
        self.agents = [] if self.step_count == LIMIT else self.agents
        return {agent: self._obs(agent) for agent in self.possible_agents}, rewards, *flags, {}

    def _walk(self, agent: str, move: np.ndarray) -> float:
        before = np.abs(self.lamp[agent] - self.at[agent]).sum()
        self.at[agent] = np.clip(self.at[agent] + move, 0, 4)
        after = np.abs(self.lamp[agent] - self.at[agent]).sum()
        if not after:
            self.lamp[agent] = self._elsewhere(self.at[agent])
        return float(before - after)


class ChannelsFirst(Seekers):
    """Seekers with images (C, H, W) of floats, and a state that is the first agent's image."""

    shape = (2, 5, 5)

    def observation_space(self, agent: str) -> spaces.Space[Any]:
        return spaces.Box(0, 1, self.shape)

    def _obs(self, agent: str) -> np.ndarray:
        return np.moveaxis(super()._obs(agent), -1, 0) / np.float32(255)

    def state(self) -> np.ndarray:
        return self._obs("left")


class Sizes(Seekers):
    """Seekers whose images have two sizes."""

    def observation_space(self, agent: str) -> spaces.Space[Any]:
        return spaces.Box(0, 255, self.shape if agent == "left" else (4, 5, 2), np.uint8)

    def _obs(self, agent: str) -> np.ndarray:
        return super()._obs(agent)[: 5 if agent == "left" else 4]


class Failing(Corridor):
    """Raises in the third step, or is killed."""

    def __init__(self, kill: bool) -> None:
        super().__init__()
        self._kill = kill

    def step(self, actions: dict[str, Any]) -> tuple[Any, Any, Any, Any, Any]:
        print("a game's print must not reach the worker's answers")
        if self.step_count == 2 and self._kill:
            os.kill(os.getpid(), signal.SIGKILL)
        if self.step_count == 2:
            raise ValueError("the third step\nis too much")
        return super().step(actions)


class Stuck(Corridor):
    """Never comes back from its first step."""

    def step(self, actions: dict[str, Any]) -> tuple[Any, Any, Any, Any, Any]:
        while True:
            time.sleep(1)


class Pid(Corridor):
    """Shows in its observation which process it is in."""

    def _obs(self, agent: str) -> Any:
        seen = super()._obs(agent)
        if agent == "a":
            seen["observation"] = np.array([os.getpid() % 1000, os.getpid() // 1000, 0])
        return seen


def raising() -> Corridor:
    return Failing(kill=False)


def killed() -> Corridor:
    return Failing(kill=True)


def refusing() -> Corridor:
    raise RuntimeError("no licence")


def mixed() -> Corridor:
    env = Corridor()
    env.spaces["b"] = spaces.Box(-1, 1, (1,))
    return env


def unplayable() -> Corridor:
    env = Corridor()
    env.spaces["b"] = spaces.Text(5)
    return env


def nothing() -> None:
    """Returns None where an environment is expected."""


SAME = Corridor()


def same() -> Corridor:
    return SAME


def same_within_a_wrapper() -> Any:
    return pettingzoo.utils.BaseParallelWrapper(SAME)


class InTurns(pettingzoo.AECEnv):
    """Plays one agent after the other, and is never played here."""

    metadata: ClassVar[dict[str, Any]] = {"name": "in_turns"}
    possible_agents: ClassVar[list[str]] = ["a"]


def in_turns() -> InTurns:
    return InTurns()


def a_class() -> type:
    return Corridor


class Unseeded(Cues):
    """Can't be given a seed."""

    def reset(self) -> tuple[Any, Any]:  # type: ignore[override]
        return super().reset()


class Echo(pettingzoo.ParallelEnv):
    """Agents see their own last action, and nothing at first; six steps."""

    metadata: ClassVar[dict[str, Any]] = {"name": "echo"}
    possible_agents: ClassVar[list[str]] = ["a", "b"]
    act: spaces.Space[Any] = spaces.Box(-1, 1, (1,))

    def __init__(self) -> None:
        self.agents: list[str] = []

    def observation_space(self, agent: str) -> spaces.Space[Any]:
        return spaces.Box(-np.inf, np.inf, np.shape(self.act.sample()))

    def action_space(self, agent: str) -> spaces.Space[Any]:
        return self.act

    def reset(self, seed: int | None = None, options: Any = None) -> tuple[Any, Any]:
        self.step_count = 0
        self.agents = list(self.possible_agents)
        shape = self.observation_space("a").shape
        return dict.fromkeys(self.agents, np.zeros(shape)), self._infos()

    def _infos(self) -> dict[str, Any]:
        return {}

    def step(self, actions: dict[str, Any]) -> tuple[Any, Any, Any, Any, Any]:
        for agent, action in actions.items():
            assert self.action_space(agent).contains(action), action
        self.step_count += 1
        over = self.step_count == LIMIT
        flags = self._flags(over)
        rewards = dict.fromkeys(self.agents, 1.0)
        self.agents = [] if over else self.agents
        return actions, rewards, *flags, self._infos()

    def _flags(self, over: bool) -> tuple[Any, Any]:
        return dict.fromkeys(self.agents, False), dict.fromkeys(self.agents, over)


class Whole(Echo):
    """Takes whole numbers."""

    act = spaces.Box(-1, 2, (2,), np.int64)


class Fine(Echo):
    """Has bounds that float32 rounds to numbers beyond them."""

    act = spaces.Box(-0.1, 0.1, (1,), np.float64)


class BothEnds(Echo):
    """Ends for "a", and is cut off for "b"."""

    def _flags(self, over: bool) -> tuple[Any, Any]:
        return {"a": over, "b": False}, {"a": False, "b": over}


class Slashes(Echo):
    """Has agents whose names mean something in HDF5's paths, or in ours."""

    possible_agents: ClassVar[list[str]] = ["red/0", ".", "100%"]


class Turns(Echo):
    """Says in its infos who is in turn: "a", with two choices, then "b", with five."""

    def action_space(self, agent: str) -> spaces.Space[Any]:
        return spaces.Discrete({"a": 2, "b": 5}[agent])

    def _infos(self) -> dict[str, Any]:
        turn = self.possible_agents[self.step_count % 2]
        return {
            agent: {"action_mask": np.full(self.action_space(agent).n, agent == turn, np.int8)}
            for agent in self.possible_agents
        }

    def step(self, actions: dict[str, Any]) -> tuple[Any, Any, Any, Any, Any]:
        _, *rest = super().step(actions)
        return dict.fromkeys(self.possible_agents, np.ones(1)), *rest


made = 0


class Growing(Echo):
    """Is larger than the one that was made before."""

    def __init__(self) -> None:
        super().__init__()
        global made
        made += 1
        self.act = spaces.Box(-1, 1, (2 - made % 2,))


def growing() -> Growing:
    return Growing()


class Broken(Echo):
    """Shows "b" what is no number from the third step on."""

    def step(self, actions: dict[str, Any]) -> tuple[Any, Any, Any, Any, Any]:
        obs, *rest = super().step(actions)
        shown = dict(obs)
        if self.step_count > 2:
            shown["b"] = np.full(1, np.nan)
        return shown, *rest
