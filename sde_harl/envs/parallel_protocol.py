"""A parallel environment of PettingZoo's, with everything that it returns checked on its way in.

PettingZoo checks nothing by itself, and Python unpacks a dict of two agents as readily as the two
results of a reset. So whatever isn't PettingZoo's parallel API becomes one line that names the
environment, the agent and the cure. Spaces and observations are `parallel_spaces`' business.

An agent *acts* in a step if it is in `agents` before it, and is *alive* after the step if it is in
`agents` and neither terminated nor truncated: environments differ in whether they take an agent off
the list in the step that ends its part.
"""

from __future__ import annotations

import inspect
import math
from collections.abc import Callable, Iterable, Mapping
from contextlib import AbstractContextManager
from typing import Any, NamedTuple

import numpy as np
from numpy.typing import NDArray

from sde_harl.config.entry_points import FAILURES, explained, explanation
from sde_harl.config.wording import brief
from sde_harl.envs.parallel_spaces import MisfitError, as_array
from sde_harl.errors import UserError

LARGEST = float(np.finfo(np.float32).max)
"""Rewards are recorded as float32."""


class Origin(NamedTuple):
    """Tells where an environment comes from, for error lines."""

    key: str
    """The key that names it, "env.factory"."""
    spelt: str
    """The key's value."""

    def error(self, expected: str, got: str, place: str = "") -> UserError:
        """Returns the error for something that the environment gave."""
        return UserError(f"{self.key}: expected {expected}, got {got} ({self.spelt}{place})")

    def explained(self, what: str) -> AbstractContextManager[None]:
        """Turns whatever the environment raises into one line."""
        return explained(f"{self.key}: {self.spelt}: {what}")


class Seen(NamedTuple):
    """The observations that a reset or a step returns."""

    obs: Mapping[Any, Any]
    """By agent; those that are not alive may be missing."""
    infos: Mapping[Any, Any]
    """By agent, where there are any."""
    alive: set[Any]


class Stepped(NamedTuple):
    """The outcome of a step."""

    seen: Seen
    reward: float
    """The sum over the agents that acted."""
    is_over: bool
    """Nobody is alive."""
    is_cut: bool
    """An agent was truncated, and not terminated, in this step."""


class ParallelProtocol:
    """Calls one environment. Whatever is wrong with what it returns or raises is a UserError."""

    def __init__(self, env: Any, origin: Origin) -> None:
        self._env = env
        self._origin = origin
        self.agents = self._possible_agents()
        self._known = set(self.agents)
        self._acting: list[Any] = []
        if not _takes_seed(env.reset):
            raise origin.error("reset(seed=None, options=None)", "a reset() without seed")

    @property
    def acting(self) -> list[Any]:
        """The agents that act in the next step, in the environment's own order."""
        return self._acting

    def space(self, method: str, agent: Any) -> Any:
        """Returns what `observation_space` or `action_space` returns for an agent."""
        with self._origin.explained(f"{method}({brief(agent)})"):
            return getattr(self._env, method)(agent)

    def reset(self, seed: int) -> Seen:
        """Begins the episode of `seed`."""
        with self._origin.explained("reset()"):
            result = self._env.reset(seed=seed)
        if not isinstance(result, (tuple, list)) or len(result) != 2:
            raise self._error("(observations, infos)", _kind(result), ", reset()")
        possible = self._possible_agents()
        if possible != self.agents:
            raise self._error(
                f"the possible_agents {brief(self.agents)} as before", brief(possible), ", reset()"
            )
        self._acting = self._present(", reset()")
        if not self._acting:
            raise self._error("agents that play", "none in `agents`", ", reset()")
        return self._seen(*result, alive=set(self._acting), place=", reset()")

    def step(self, actions: dict[Any, Any]) -> Stepped:
        """Plays the actions of the agents that act."""
        try:
            result = self._env.step(actions)
        except FAILURES as error:
            raise self._failure("step()", error) from error
        if not isinstance(result, (tuple, list)) or len(result) != 5:
            raise self._error(
                "(observations, rewards, terminations, truncations, infos)",
                _kind(result),
                ", step(); PettingZoo before 1.19 had one `dones` for both",
            )
        obs, rewards, terminations, truncations, infos = result
        acted = self._acting
        terminated = self._flags("terminations", terminations)
        truncated = self._flags("truncations", truncations)
        reward = self._reward(rewards)
        self._acting = self._present(", step()")
        left = terminated | truncated
        for agent in {*acted}.difference(self._acting, left):
            raise self._error(
                f"a termination or truncation of {brief(agent)}, which left `agents`",
                "neither",
                ", step()",
            )
        alive = set(self._acting) - left
        return Stepped(
            seen=self._seen(obs, infos, alive=alive, place=", step()"),
            reward=reward,
            is_over=not alive,
            is_cut=bool(truncated - terminated),
        )

    def state(self) -> NDArray[Any] | None:
        """Returns the environment's own state, None where it has none."""
        try:
            state = self._env.state()
            array = np.asarray(state)
        # PettingZoo's base class raises the latter, and its wrappers pass the former on.
        except (AttributeError, NotImplementedError):
            return None
        except FAILURES as error:
            raise self._failure("state()", error) from error
        if array.dtype.kind not in "biuf":
            raise self._error("numbers", _kind(state), ", state()")
        if not array.size:
            return None
        return array

    def state_like(self, first: NDArray[Any]) -> NDArray[Any]:
        """Returns the state, which must have the shape and the kind of numbers of the `first`."""
        state = self.state()
        if state is None:
            raise self._error(f"a state of shape {first.shape}", "none any more", ", state()")
        try:
            return as_array(state, shape=first.shape, dtype=first.dtype)
        except MisfitError as misfit:
            raise self._error(
                f"a state of {misfit.expected} as before", misfit.got, ", state()"
            ) from None

    def render(self) -> NDArray[np.uint8] | None:
        """Returns the environment's picture, (H, W, 3); None where it draws none."""
        core = getattr(self._env, "unwrapped", None) or self._env
        try:
            # Factories are called without arguments, and most environments ask for their mode only
            # when they draw.
            if getattr(core, "render_mode", "") is None:
                core.render_mode = "rgb_array"
            picture = self._env.render()
        # PettingZoo's base class raises the latter, and its wrappers pass the former on.
        except (AttributeError, NotImplementedError):
            return None
        except FAILURES as error:
            raise self._failure("render()", error) from error
        if not isinstance(picture, np.ndarray):
            return None
        if picture.ndim != 3 or picture.shape[2] != 3 or picture.dtype != np.uint8:
            got = f"{picture.dtype} of shape {picture.shape}"
            raise self._error("a picture (H, W, 3) of bytes", got, ", render()")
        return np.ascontiguousarray(picture)

    def close(self) -> None:
        """Closes the environment, if it can be closed."""
        if hasattr(self._env, "close"):
            with self._origin.explained("close()"):
                self._env.close()

    def _failure(self, what: str, error: BaseException) -> UserError:
        return explanation(f"{self._origin.key}: {self._origin.spelt}: {what}", error)

    def _error(self, expected: str, got: str, place: str = "") -> UserError:
        return self._origin.error(expected, got, place)

    def _possible_agents(self) -> tuple[Any, ...]:
        with self._origin.explained("possible_agents"):
            agents = tuple(self._env.possible_agents)
            is_set = len(set(agents)) == len(agents) > 0
        if not is_set:
            raise self._error("possible_agents, each once", brief(agents) if agents else "none")
        return agents

    def _present(self, place: str) -> list[Any]:
        try:
            agents = list(self._env.agents)
            is_right = self._known.issuperset(agents) and len(set(agents)) == len(agents)
        except FAILURES as error:
            raise self._failure("agents", error) from error
        if not is_right:
            raise self._error("`agents` of possible_agents, each once", brief(agents), place)
        return agents

    def _seen(self, obs: Any, infos: Any, *, alive: set[Any], place: str) -> Seen:
        return Seen(
            obs=self._by_agent("an observation", obs, needed=alive, place=place),
            infos=self._by_agent("an info", infos, needed=(), place=place),
            alive=alive,
        )

    def _by_agent(
        self, what: str, given: Any, *, needed: Iterable[Any], place: str = ", step()"
    ) -> Mapping[Any, Any]:
        """Returns a dict by agent. Raises UserError where it has too many agents or too few."""
        if type(given) is not dict and not isinstance(given, Mapping):
            raise self._error(f"{what} of each agent, in a dict", _kind(given), place)
        if not self._known.issuperset(given):
            unknown = next(agent for agent in given if agent not in self._known)
            raise self._error(f"{what} of possible_agents only", f"one of {brief(unknown)}", place)
        for agent in needed:
            if agent not in given:
                raise self._error(f"{what} of {brief(agent)}", "none", place)
        return given

    def _flags(self, name: str, given: Any) -> set[Any]:
        """Returns the agents among those that acted whose flag is set."""
        flags = self._by_agent(f"a flag in {name}", given, needed=self._acting)
        flagged: set[Any] = set()
        for agent in self._acting:
            flag = flags[agent]
            if flag is False:  # nearly always
                continue
            if not _is_flag(flag):
                raise self._error(
                    f"True or False in the {name} of {brief(agent)}", brief(flag), ", step()"
                )
            if flag:
                flagged.add(agent)
        return flagged

    def _reward(self, given: Any) -> float:
        """Returns the sum of rewards; of agents that have left before, none counts."""
        rewards = self._by_agent("a reward", given, needed=self._acting)
        acting = self._acting
        numbers = [_number(reward) for agent, reward in rewards.items() if agent in acting]
        total = sum(numbers)
        if math.isfinite(total) and max(map(abs, numbers)) <= LARGEST:
            return total
        wrong = next(agent for agent in self._acting if not abs(_number(rewards[agent])) <= LARGEST)
        raise self._error(
            f"a finite number (float32) as the reward of {brief(wrong)}",
            brief(rewards[wrong]),
            ", step()",
        )


def _takes_seed(reset: Callable[..., Any]) -> bool:
    try:
        parameters = inspect.signature(reset).parameters.values()
    except (TypeError, ValueError):  # not every callable in C has one
        return True
    return any(each.name == "seed" or each.kind is each.VAR_KEYWORD for each in parameters)


def _is_flag(flag: Any) -> bool:
    if isinstance(flag, (bool, np.bool_)):
        return True
    return isinstance(flag, (int, np.number)) and flag in (0, 1)


def _number(reward: Any) -> float:
    """Returns a reward as a float, NaN where it is no number."""
    if isinstance(reward, float):
        return float(reward)
    array = np.asarray(reward)
    if array.size != 1 or array.dtype.kind not in "biuf":
        return math.nan
    return float(array.reshape(()))


def _kind(result: Any) -> str:
    """Returns what a call returned, in a few words."""
    if isinstance(result, (tuple, list)):
        return f"{len(result)} values"
    return f"a {type(result).__name__}"
