"""Parallel environments that go wrong: one line that says what to mend, or a true record."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from typing import Any

import generated_envs
import numpy as np
import pytest
from generated_envs import Call, Generated, Plan
from gymnasium import spaces
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from sde_harl.config.schema import EnvConfig
from sde_harl.envs.base import EnvStep, VectorEnv
from sde_harl.envs.registry import make
from sde_harl.errors import UserError

CONFIG = EnvConfig(name="pettingzoo", factory="generated_envs:make")
BOX = spaces.Box(-1, 1, (3,), np.float32)
SIMPLE = Plan(agents=("a", "b"), obs_spaces=(BOX, BOX), action_spaces=(spaces.Discrete(3),) * 2)
Change = Callable[..., Any]


@pytest.fixture(autouse=True)
def no_plan() -> Iterator[None]:
    """Forgets the environments of the test before and after."""
    generated_envs.made.clear()
    yield
    generated_envs.made.clear()
    generated_envs.plan = None


def vector(plan: Plan) -> VectorEnv:
    """Makes a vector of one environment."""
    generated_envs.plan = plan
    generated_envs.made.clear()
    return make(CONFIG, num_envs=1, seed=3)


def at_random(env: VectorEnv, step: EnvStep, rng: np.random.Generator) -> np.ndarray:
    """Returns actions (1, N, D), choices drawn from the available ones."""
    spec = env.spec
    if spec.continuous:
        return rng.normal(0, 3, (1, len(spec.agents), len(spec.branches))).astype(np.float32)
    draws = rng.uniform(0.1, 1, step.available_actions.shape) * step.available_actions
    branches = np.split(draws, np.cumsum(spec.branches)[:-1], -1)
    return np.stack([branch.argmax(-1) for branch in branches], -1).astype(np.int32)


def play(env: VectorEnv, count: int = 10) -> None:
    """Plays, and compares every value with what the environment returned."""
    played = generated_envs.made[0]
    rng = np.random.default_rng(0)
    heard = len(played.calls)
    step = env.reset()
    for _ in range(count):
        compare(env, step, played, played.calls[heard:])
        heard = len(played.calls)
        env.send(at_random(env, step, rng))
        step = env.recv()
    compare(env, step, played, played.calls[heard:])


def compare(env: VectorEnv, step: EnvStep, played: Generated, calls: list[Call]) -> None:
    """Compares a step with the calls that made it: a reset, a step, or both."""
    first, last = calls[0], calls[-1]
    assert int(env.episode_seeds()[0]) == [c for c in played.calls if c.name == "reset"][-1].given
    np.testing.assert_array_equal(step.obs[0], rows(env, played, last.result[0]))
    np.testing.assert_array_equal(step.final_obs[0], rows(env, played, first.result[0]))
    np.testing.assert_array_equal(step.available_actions[0], choices(env, played, last.result))
    if played.has_state:
        np.testing.assert_array_equal(
            step.state[0], np.float32(np.asarray(played.shown_state).ravel())
        )
    if first.name == "reset":
        assert step.rewards[0] == 0
        return
    _, rewards, terminated, truncated, _ = first.result
    mean = sum(float(rewards[agent]) for agent in first.acting) / len(played.plan.agents)
    assert step.rewards[0] == np.float32(mean)
    assert bool(step.terminated[0] | step.truncated[0]) == (len(calls) == 2)
    if len(calls) == 2:
        cut = any(truncated[agent] and not terminated[agent] for agent in first.acting)
        assert step.truncated[0] == cut
    assert list(first.given) == first.acting
    for agent, action in first.given.items():
        assert played.action_space(agent).contains(action), (agent, action)


def rows(env: VectorEnv, played: Generated, obs: dict[Any, Any]) -> np.ndarray:
    """Returns (N, O), the observations as gymnasium flattens them, 0 where there is none."""
    result = np.zeros((len(played.plan.agents), max(env.spec.obs_sizes)), env.spec.obs_dtype)
    for i, agent in enumerate(played.plan.agents):
        if agent not in obs:
            continue
        seen = obs[agent]
        if played.plan.masks == "obs":
            seen = seen["observation"]
        row = spaces.flatten(played.plan.obs_spaces[i], seen)
        result[i, : len(row)] = row
    return result


def choices(env: VectorEnv, played: Generated, result: Any) -> np.ndarray:
    """Returns (N, A), what the masks leave; the first choice where they leave none."""
    available = env.spec.choices().copy()
    obs, *_, infos = result
    for i, agent in enumerate(played.plan.agents):
        mask = None
        if played.plan.masks == "obs" and agent in obs:
            mask = obs[agent]["action_mask"]
        elif played.plan.masks != "obs" and agent in obs:
            mask = (infos.get(agent) or {}).get("action_mask")
        if mask is None:
            continue
        begin = 0
        first = 0
        for d, size in enumerate(env.spec.action_sizes[i]):
            own = np.asarray(mask[first : first + size], bool)
            if not own.any():
                own[0] = True
            available[i, begin : begin + size] = own
            first += size
            begin += env.spec.branches[d]
    return available


# What may go wrong in a call. Each takes the environment and the call's result.


def without(part: int) -> Change:
    def change(env: Generated, result: Any) -> Any:
        return tuple(each for number, each in enumerate(result) if number != part % len(result))

    return change


def instead(value: Any) -> Change:
    return lambda env, result: value


def raising(error: BaseException) -> Change:
    def change(env: Generated, result: Any) -> Any:
        raise error

    return change


def changed(part: int, change_part: Callable[[Generated, Any], Any]) -> Change:
    def change(env: Generated, result: Any) -> Any:
        parts = list(result)
        part_number = part % len(parts)
        parts[part_number] = change_part(env, parts[part_number])
        return tuple(parts)

    return change


def lacking(part: int) -> Change:
    """The last agent is missing."""
    return changed(part, lambda env, given: dict(list(given.items())[:-1]))


def stranger(part: int) -> Change:
    return changed(part, lambda env, given: {**given, "stranger": next(iter(given.values()))})


def valued(part: int, value: Any) -> Change:
    """The first agent's value is another."""
    return changed(part, lambda env, given: {**given, next(iter(given)): value})


def observed(value: Any) -> Change:
    """The first agent's observation is another, beside its mask if it has one."""

    def change(env: Generated, obs: Any) -> Any:
        agent = next(iter(obs))
        seen = value(obs[agent]) if callable(value) else value
        return {**obs, agent: seen}

    return changed(0, change)


def masked(value: Any) -> Change:
    def change(env: Generated, result: Any) -> Any:
        agent = env.plan.agents[0]
        if env.plan.masks == "obs":
            result[0][agent]["action_mask"] = value
        else:
            result[-1][agent] = {"action_mask": value}
        return result

    return change


def with_attribute(name: str, value: Any) -> Change:
    def change(env: Generated, result: Any) -> Any:
        setattr(env, name, value)
        return result

    return change


NAN = np.full(3, np.nan, np.float32)
HUGE = np.full(3, 1e300)
VALUES = [None, "1", float("nan"), float("inf"), 1e300, np.ones(2), 1j, [], {}, np.bool_(True), 2]
OBS = [NAN, HUGE, np.zeros(2), np.zeros(4), np.zeros((3, 1)), np.zeros(3, "U1"), [[0], [0, 1]]]
FAULTS: list[Change] = [
    *map(without, range(5)),
    *map(instead, (None, {}, (), 7, ({}, {}), ([], [], [], [], []), ({},) * 5)),
    *map(raising, (ValueError("two\nlines"), KeyError("x"), SystemExit(3), AssertionError())),
    *map(lacking, range(5)),
    *map(stranger, range(5)),
    *[valued(part, value) for part in range(5) for value in VALUES],
    *[observed(value) for value in (*OBS, *VALUES)],
    *[masked(value) for value in (*OBS, *VALUES, np.zeros(3), np.full(3, 2), (1, 1, 1))],
    *[
        with_attribute("agents", value)
        for value in ([], ["stranger"], ["a", "a"], None, [[]], ["a"], 7)
    ],
    *[with_attribute("possible_agents", value) for value in ([], ["a"], ["b", "a"], None)],
    *[with_attribute("shown_state", value) for value in (None, NAN, HUGE, np.zeros(6), "x", [])],
]

CHOICES = [spaces.Discrete(2), spaces.Discrete(5, start=3), spaces.MultiDiscrete([2, 3])]
BOXES = [
    spaces.Box(-1, 1, (2,), np.float32),
    spaces.Box(-0.1, 0.1, (2, 2), np.float64),
    spaces.Box(-2, 3, (1,), np.int64),
    spaces.Box(0, 255, (1,), np.uint8),
    spaces.Box(-np.inf, np.inf, (), np.float32),
]
NOT_ACTIONS = [
    None,
    spaces.Text(3),
    spaces.MultiBinary(2),
    spaces.Box(-1, 1, (0,)),
    spaces.Discrete(2**40),
    spaces.Box(-(2**62), 2**62, (1,), np.int64),
    spaces.Tuple([spaces.Discrete(2)]),
]
SEEN = [
    BOX,
    spaces.Box(0, 255, (4, 4, 1), np.uint8),
    spaces.Box(-np.inf, np.inf, (2, 2), np.float64),
    spaces.Discrete(4, start=-1),
    spaces.MultiBinary(3),
    spaces.Dict(x=BOX, y=spaces.Discrete(2)),
    spaces.Tuple([spaces.MultiDiscrete([2, 2]), BOX]),
]
NOT_SEEN = [
    None,
    7,
    spaces.Sequence(BOX),
    spaces.Graph(BOX, None),
    spaces.Box(-1, 1, (0,)),
    spaces.Discrete(2**40),
    spaces.Dict(observation=BOX, action_mask=spaces.MultiBinary(3), more=BOX),
    spaces.Dict(action_mask=spaces.MultiBinary(3)),
]


@st.composite
def plans(draw: Any) -> Plan:
    """Draws an environment: one that is right, or with wrong spaces, or that goes wrong later."""
    agents = draw(st.sampled_from([("a",), ("a", "b"), ("x/1", 0, "b%"), (1, "1"), ("", "b")]))
    kind = draw(st.sampled_from([CHOICES, BOXES]))
    trouble = draw(st.sampled_from(["none", "call", "call", "call", "spaces"]))
    seen = SEEN + NOT_SEEN * (trouble == "spaces")
    acts = kind + NOT_ACTIONS * (trouble == "spaces")
    count = len(agents)
    plan = Plan(
        agents=agents,
        obs_spaces=tuple(draw(st.lists(st.sampled_from(seen), min_size=count, max_size=count))),
        action_spaces=tuple(draw(st.lists(st.sampled_from(acts), min_size=count, max_size=count))),
        masks=draw(st.sampled_from(["none", "obs", "infos"])) if kind is CHOICES else "none",
        has_state=draw(st.booleans()),
        limit=draw(st.integers(1, 5)),
        early=draw(st.booleans()),
    )
    if trouble == "call":
        plan = plan._replace(
            call=draw(st.sampled_from(["reset", "step"])),
            at=draw(st.integers(1, 4)),
            fault=draw(st.sampled_from(FAULTS)),
        )
    return plan


def is_right(plan: Plan) -> bool:
    """Returns whether nothing is wrong with an environment."""
    names = [*map(str, plan.agents)]
    return (
        plan.fault is None
        and all(each in SEEN for each in plan.obs_spaces)
        and all(each in (*CHOICES, *BOXES) for each in plan.action_spaces)
        and len(set(names)) == len(names)
        and "" not in names
    )


def plays_or_says_why(plan: Plan) -> None:
    """Plays an environment: its record is true, or there is one line. Never is it anything else."""
    line = ""
    try:
        play(vector(plan))
    except UserError as error:
        line = str(error)
    assert line == "" or not is_right(plan)
    assert line == "" or line.startswith(("env.factory: ", "env.name: "))
    assert "\n" not in line


@given(plans())
@settings(max_examples=150, deadline=None, suppress_health_check=[HealthCheck.too_slow])
def test_an_environment_plays_or_ends_in_one_line(plan: Plan) -> None:
    plays_or_says_why(plan)


@pytest.mark.slow
@given(plans())
@settings(max_examples=5000, deadline=None, suppress_health_check=[HealthCheck.too_slow])
def test_many_environments_play_or_end_in_one_line(plan: Plan) -> None:
    plays_or_says_why(plan)


@pytest.mark.parametrize("call", ["reset", "step"])
@pytest.mark.parametrize("masks", ["none", "obs", "infos"])
def test_every_fault_in_a_simple_environment_is_one_line_or_harmless(call: str, masks: str) -> None:
    for fault in FAULTS:
        plays_or_says_why(
            SIMPLE._replace(call=call, at=2, fault=fault, masks=masks, has_state=True)
        )


CASES: dict[str, tuple[Plan, str]] = {
    "an agent that is not in turn": (SIMPLE._replace(masks="obs"), ""),
    "reset without infos": (
        SIMPLE._replace(call="reset", at=2, fault=instead({"a": 0, "b": 1})),
        r"expected \(observations, infos\), got a dict \(generated_envs:make, reset\(\)\)",
    ),
    "step of the old API": (
        SIMPLE._replace(call="step", at=1, fault=without(3)),
        r"expected \(observations, rewards, terminations, truncations, infos\), got 4 values "
        r"\(generated_envs:make, step\(\); PettingZoo before",
    ),
    "a termination is missing": (
        SIMPLE._replace(call="step", at=1, fault=lacking(2)),
        r"expected a flag in terminations of 'b', got none",
    ),
    "a reward is missing": (
        SIMPLE._replace(call="step", at=1, fault=lacking(1)),
        r"expected a reward of 'b', got none",
    ),
    "a reward is NaN": (
        SIMPLE._replace(call="step", at=2, fault=valued(1, float("nan"))),
        r"expected a finite number \(float32\) as the reward of 'a', got nan",
    ),
    "an observation is NaN": (
        SIMPLE._replace(call="step", at=2, fault=observed(NAN)),
        r"env\.name: expected finite numbers \(float32\) in the observation of agent a, got nan "
        r"\(pettingzoo/generated_envs\.make, environment 0\)",
    ),
    "the first observation is infinite": (
        SIMPLE._replace(call="reset", at=2, fault=observed(np.full(3, np.inf))),
        r"in the observation of agent a, got inf",
    ),
    "a state is NaN": (
        SIMPLE._replace(
            call="step", at=2, has_state=True, fault=with_attribute("shown_state", NAN * [[1], [1]])
        ),
        r"env\.name: expected finite numbers \(float32\) in the state, got nan",
    ),
    "a state changes its shape": (
        SIMPLE._replace(
            call="step", at=2, has_state=True, fault=with_attribute("shown_state", np.zeros(2))
        ),
        r"expected a state of shape \(2, 3\) and dtype float64 as before, got shape \(2,\)",
    ),
    "a shorter observation": (
        SIMPLE._replace(call="step", at=2, fault=observed(np.zeros(2))),
        r"expected shape \(3,\) and dtype float32, got shape \(2,\) and dtype float64 "
        r"\(generated_envs:make, observation of 'a'\)",
    ),
    "an observation of another type": (
        SIMPLE._replace(call="step", at=2, fault=observed(np.zeros(3, "U1"))),
        r"expected shape \(3,\) and dtype float32, got shape \(3,\) and dtype <U1",
    ),
    "a mask of another length": (
        SIMPLE._replace(masks="infos", call="step", at=2, fault=masked(np.ones(4))),
        r"expected shape \(3,\) .*, got shape \(4,\) .*, observation of 'a'\)",
    ),
    "a mask of other numbers": (
        SIMPLE._replace(masks="obs", call="step", at=2, fault=masked(np.full(3, 2))),
        r"expected an action mask of 0 and 1, got .*, observation of 'a'\)",
    ),
    "an agent that nobody knows": (
        SIMPLE._replace(call="step", at=2, fault=stranger(0)),
        r"expected an observation of possible_agents only, got one of 'stranger'",
    ),
    "an agent leaves without a flag": (
        SIMPLE._replace(call="step", at=2, fault=with_attribute("agents", ["a"])),
        r"expected a termination or truncation of 'b', which left `agents`, got neither",
    ),
    "possible_agents change": (
        SIMPLE._replace(call="reset", at=2, fault=with_attribute("possible_agents", ["a"])),
        r"expected the possible_agents \('a', 'b'\) as before, got \('a',\)",
    ),
    "no agents": (SIMPLE._replace(agents=()), r"expected possible_agents, each once, got none"),
    "names that are equal as text": (
        SIMPLE._replace(agents=(1, "1")),
        r"expected agents whose names differ as text, none of them empty, got \(1, '1'\)",
    ),
    "an exception": (
        SIMPLE._replace(call="step", at=2, fault=raising(ValueError("two\nlines"))),
        r"generated_envs:make: step\(\): ValueError: two lines \(.*test_env_faults\.py:\d+\)",
    ),
    "exit()": (
        SIMPLE._replace(call="step", at=2, fault=raising(SystemExit(0))),
        r"generated_envs:make: step\(\): SystemExit: 0 \(",
    ),
    "a Sequence": (
        SIMPLE._replace(obs_spaces=(BOX, spaces.Sequence(BOX))),
        r"expected a space of fixed size .*, got Sequence\(.*, space of 'b'\)",
    ),
    "a space that is none": (
        SIMPLE._replace(obs_spaces=(BOX, None)),
        r"expected a space of gymnasium's, got NoneType \(generated_envs:make, space of 'b'\)",
    ),
    "spaces that miss an agent": (
        SIMPLE._replace(action_spaces=(spaces.Discrete(2),)),
        r"generated_envs:make: action_space\('b'\): IndexError: ",
    ),
    "an empty Box": (
        SIMPLE._replace(obs_spaces=(BOX, spaces.Box(-1, 1, (0,)))),
        r"expected 1 to 16777216 numbers, got 0 .*, space of 'b'\)",
    ),
    "an endless Discrete": (
        SIMPLE._replace(action_spaces=(spaces.Discrete(2**40),) * 2),
        r"expected 1 to 16777216 numbers, got 1099511627776 .*, space of 'a'\)",
    ),
    "whole numbers beyond float32": (
        SIMPLE._replace(action_spaces=(spaces.Box(-(2**62), 2**62, (1,), np.int64),) * 2),
        r"expected whole numbers within -16777216 to 16777216, got .*, space of 'a'\)",
    ),
}


@pytest.mark.parametrize(("plan", "line"), CASES.values(), ids=CASES)
def test_what_is_wrong_is_said_in_one_line(plan: Plan, line: str) -> None:
    if not line:
        play(vector(plan))
        return
    with pytest.raises(UserError, match=line):
        play(vector(plan))


def test_finite_numbers_are_the_environments_own_business() -> None:
    huge = np.full(3, 3e38, np.float32)
    play(vector(SIMPLE._replace(call="step", at=2, fault=observed(huge))))
    with np.errstate(over="ignore"):
        play(vector(SIMPLE._replace(call="step", at=2, fault=valued(1, -3e38))))
