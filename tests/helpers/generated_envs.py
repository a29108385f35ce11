"""Parallel environments that hypothesis makes up, which go wrong where it says, or not at all.

`Plan` describes one, `make` makes it (env.factory=generated_envs:make). It keeps what it returned
and what it was given, so that a test can compare records with the truth.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any, ClassVar, NamedTuple

import numpy as np
import pettingzoo
from gymnasium import spaces

Fault = Callable[["Generated", Any], Any]
"""Changes what a call returns, (environment, result) -> result, or the environment itself."""


class Plan(NamedTuple):
    """One environment, and how it goes wrong."""

    agents: tuple[Any, ...]
    obs_spaces: tuple[Any, ...]
    action_spaces: tuple[Any, ...]
    masks: str = "none"
    """Where action masks are: none, obs or infos. Every third is all zero."""
    has_state: bool = False
    limit: int = 4
    early: bool = False
    """The last agent leaves after two steps."""
    call: str = ""
    """The call that goes wrong: reset or step, "" for none."""
    at: int = 0
    """The how manieth of these calls."""
    fault: Fault | None = None


class Call(NamedTuple):
    """One reset or step."""

    name: str
    given: Any
    """The seed or the actions."""
    result: Any
    acting: list[Any]
    """The agents that acted in a step."""


class Generated(pettingzoo.ParallelEnv):
    """Plays a plan."""

    metadata: ClassVar[dict[str, Any]] = {"name": "generated"}

    def __init__(self, plan: Plan) -> None:
        self.plan = plan
        self.possible_agents = list(plan.agents)
        self.agents: list[Any] = []
        self.calls: list[Call] = []
        self.ticks = 0
        self.total = 0
        self.counts = {"reset": 0, "step": 0}
        self.rng = np.random.default_rng(0)
        self.shown_state: Any = None
        if plan.has_state:
            self.state = self._state

    def _state(self) -> Any:
        return self.shown_state

    def observation_space(self, agent: Any) -> Any:
        space = self.plan.obs_spaces[self.plan.agents.index(agent)]
        if self.plan.masks == "obs":
            mask = spaces.MultiBinary(sizes(self.action_space(agent)))
            return spaces.Dict(observation=space, action_mask=mask)
        return space

    def action_space(self, agent: Any) -> Any:
        return self.plan.action_spaces[self.plan.agents.index(agent)]

    def reset(self, seed: int | None = None, options: Any = None) -> Any:
        self.ticks = 0
        self.rng = np.random.default_rng(seed)
        self.agents = list(self.possible_agents)
        return self._returned("reset", seed, self._look(), [])

    def step(self, actions: dict[Any, Any]) -> Any:
        acting = list(self.agents)
        self.ticks += 1
        late = self.ticks == self.plan.limit
        leaving = acting[-1:] if self.plan.early and self.ticks == 2 else []
        self.agents = [] if late else [each for each in acting if each not in leaving]
        obs, infos = self._look()
        result = (
            obs,
            {agent: float(self.rng.normal()) for agent in acting},
            {agent: agent in leaving for agent in acting},
            {agent: late and agent not in leaving for agent in acting},
            infos,
        )
        return self._returned("step", actions, result, acting)

    def _look(self) -> tuple[dict[Any, Any], dict[Any, Any]]:
        self.shown_state = self.rng.normal(size=(2, 3))
        obs, infos = {}, {}
        for agent, space in zip(self.plan.agents, self.plan.obs_spaces):
            space.seed(int(self.rng.integers(2**31)))
            obs[agent] = space.sample()
            infos[agent] = {}
            self.total += 1
            mask = self.rng.integers(0, 2, sizes(self.action_space(agent))).astype(np.int8)
            if self.total % 3 == 0:
                mask[:] = 0
            if self.plan.masks == "obs":
                obs[agent] = {"observation": obs[agent], "action_mask": mask}
            elif self.plan.masks == "infos":
                infos[agent] = {"action_mask": mask}
        return obs, infos

    def _returned(self, name: str, given: Any, result: Any, acting: list[Any]) -> Any:
        self.counts[name] += 1
        if self.plan.fault and (self.plan.call, self.plan.at) == (name, self.counts[name]):
            result = self.plan.fault(self, result)
        if not self.calls:
            self.has_state = self.plan.has_state and np.size(self.shown_state) > 0
        self.calls.append(Call(name=name, given=given, result=result, acting=acting))
        return result


def sizes(space: Any) -> int:
    """Returns how many choices a mask of this action space has."""
    if isinstance(space, spaces.MultiDiscrete):
        return int(space.nvec.sum())
    if isinstance(space, spaces.Discrete):
        return int(space.n)
    return int(np.prod(space.shape))


plan: Plan | None = None
"""The next environment's plan. A factory takes no arguments."""
made: list[Generated] = []


def make() -> Generated:
    """Makes an environment of the present plan, and remembers it."""
    assert plan is not None
    made.append(Generated(plan))
    return made[-1]
