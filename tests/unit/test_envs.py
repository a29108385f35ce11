"""Environments: the contract of `VectorEnv` on every benchmark, and how one is chosen."""

from __future__ import annotations

import re
import sys
import textwrap
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from playing import assert_equal, at_random, play

from sde_harl.config.schema import EnvConfig
from sde_harl.envs import registry
from sde_harl.envs.base import EnvSpec, EnvStep, VectorEnv
from sde_harl.envs.registry import ENVS, Backend, resolve_backend
from sde_harl.envs.settings import Requirements
from sde_harl.envs.vector import games
from sde_harl.errors import UserError

SMAX = EnvConfig(name="smac", map="3m", backend="smax")
SPREAD = EnvConfig(name="mpe", map="simple_spread")
CASES = [
    SMAX,
    SPREAD,
    SPREAD.model_copy(update={"workers": 2}),
    SPREAD.model_copy(update={"continuous_actions": True}),
    SPREAD.model_copy(update={"backend": "jax"}),
    SPREAD.model_copy(update={"backend": "jax", "continuous_actions": True}),
    EnvConfig(name="mpe", map="simple_reference"),
    EnvConfig(name="mpe", map="simple_speaker_listener"),
    EnvConfig(name="mamujoco", map="Reacher-2x1"),
    EnvConfig(name="pettingzoo", factory="odd_envs:Corridor"),
    EnvConfig(name="pettingzoo", factory="odd_envs:Torque"),
]


def title(config: EnvConfig) -> str:
    notes = "-workers" * bool(config.workers) + "-continuous" * config.continuous_actions
    played = config.map if config.name != "pettingzoo" else config.factory.partition(":")[2]
    return f"{config.name}-{config.backend}-{played}{notes}"


Make = Callable[..., VectorEnv]


@pytest.fixture
def make() -> Iterator[Make]:
    """Gives `registry.make`, and closes what it has made."""
    made: list[VectorEnv] = []

    def make_and_keep(*words: Any, **options: Any) -> VectorEnv:
        made.append(registry.make(*words, **options))
        return made[-1]

    yield make_and_keep
    for env in made:
        env.close()


each_case = pytest.mark.parametrize("config", CASES, ids=title)
pytestmark = pytest.mark.usefixtures("compile_cache")


@each_case
def test_shapes_and_types(config: EnvConfig, make: Make) -> None:
    env = make(config, num_envs=4, seed=1)
    spec, agents = env.spec, len(env.spec.agents)
    assert len(spec.obs_sizes) == len(spec.action_sizes) == len(spec.unit_types) == agents
    expected = {
        "obs": ((4, agents, max(spec.obs_sizes)), np.float32),
        "state": ((4, spec.state_size), np.float32),
        "available_actions": ((4, agents, sum(spec.branches)), np.bool_),
        "active": ((4, agents), np.bool_),
        "rewards": ((4,), np.float32),
        "terminated": ((4,), np.bool_),
        "truncated": ((4,), np.bool_),
        "final_state": ((4, spec.state_size), np.float32),
        "final_obs": ((4, len(spec.agents), max(spec.obs_sizes)), np.float32),
        "won": ((4,), np.int8),
        "returns": ((4,), np.float32),
        "lengths": ((4,), np.int32),
        "void": ((4,), np.bool_),
    }
    for step in play(env, 2):
        assert {
            name: (array.shape, array.dtype) for name, array in step._asdict().items()
        } == expected
        assert step.available_actions.any(-1).all()
    env.close()


@each_case
def test_padding_is_zero_and_unavailable(config: EnvConfig, make: Make) -> None:
    env = make(config, num_envs=4, seed=1)
    for step in play(env, 3):
        for i, obs_size in enumerate(env.spec.obs_sizes):
            assert not step.obs[:, i, obs_size:].any()
        assert not step.available_actions[:, ~env.spec.choices()].any()


@each_case
def test_a_reset_reports_no_episode(config: EnvConfig, make: Make) -> None:
    step = make(config, num_envs=4, seed=1).reset()
    for array in (step.rewards, step.terminated, step.truncated, step.returns, step.lengths):
        assert not array.any()
    assert step.active.all()
    assert (step.won == -1).all()
    np.testing.assert_array_equal(step.final_state, step.state)
    np.testing.assert_array_equal(step.final_obs, step.obs)


@each_case
def test_same_seed_same_rollout(config: EnvConfig, make: Make) -> None:
    first = make(config, num_envs=4, seed=3)
    rollout = play(first, 60)
    seeds = first.episode_seeds()
    second = make(config, num_envs=4, seed=3)
    for again in (first, second):  # a reset starts the streams afresh
        for one, other in zip(rollout, play(again, 60), strict=True):
            assert_equal(one, other)
        np.testing.assert_array_equal(seeds, again.episode_seeds())


@each_case
def test_every_environment_and_seed_has_its_own_episodes(config: EnvConfig, make: Make) -> None:
    env, other = make(config, num_envs=4, seed=3), make(config, num_envs=4, seed=4)
    starts = np.concatenate([env.reset().state, other.reset().state])
    assert len(np.unique(starts, axis=0)) == 8
    before = env.episode_seeds()
    assert before.dtype == np.int64
    assert (before >= 0).all()
    assert len(np.unique(np.concatenate([before, other.episode_seeds()]))) == 8
    ended = np.zeros(4, bool)
    for step in play(env, 60)[1:]:
        ended |= step.terminated | step.truncated
    assert ended.all()
    assert len(np.unique(np.concatenate([before, env.episode_seeds()]))) == 8


@each_case
def test_two_halves_equal_one_whole(config: EnvConfig, make: Make) -> None:
    whole = play(make(config, num_envs=4, seed=5), 60)
    halves = [play(make(config, num_envs=2, seed=5, first_env=first), 60) for first in (0, 2)]
    for together, left, right in zip(whole, *halves, strict=True):
        pairs = zip(EnvStep._fields, left, right, strict=True)
        joined: dict[str, Any] = {name: np.concatenate(pair) for name, *pair in pairs}
        assert_equal(together, EnvStep(**joined))


@each_case
def test_returns_and_lengths_are_sums_over_the_episode(config: EnvConfig, make: Make) -> None:
    env = make(config, num_envs=4, seed=7)
    returns, lengths, episodes = np.zeros(4), np.zeros(4, int), 0
    for step in play(env, 80)[1:]:
        returns, lengths = returns + step.rewards, lengths + 1
        ended = step.terminated | step.truncated
        assert not (step.terminated & step.truncated).any()
        np.testing.assert_allclose(step.returns, np.where(ended, returns, 0), rtol=1e-5)
        np.testing.assert_array_equal(step.lengths, np.where(ended, lengths, 0))
        assert (step.lengths <= (env.spec.episode_limit or 80)).all()
        returns[ended], lengths[ended] = 0, 0
        episodes += ended.sum()
    assert episodes >= 4


@each_case
def test_an_end_shows_the_next_episode_and_keeps_the_last_state(
    config: EnvConfig, make: Make
) -> None:
    ends = 0
    for step in play(make(config, num_envs=4, seed=9), 80)[1:]:
        ended = step.terminated | step.truncated
        np.testing.assert_array_equal(step.final_state[~ended], step.state[~ended])
        np.testing.assert_array_equal(step.final_obs[~ended], step.obs[~ended])
        assert (step.final_obs[ended] != step.obs[ended]).any((-2, -1)).all()
        assert (step.final_state[ended] != step.state[ended]).any(-1).all()
        assert step.active[ended].all()
        ends += ended.sum()
    assert ends > 0


@each_case
def test_actions_may_be_overwritten_and_two_steps_are_kept(config: EnvConfig, make: Make) -> None:
    env = make(config, num_envs=4, seed=11)
    expected = play(env, 6)
    rng, held = np.random.default_rng(0), [env.reset()]
    for count in range(1, len(expected)):
        actions = at_random(env, held[-1], rng).copy()
        env.send(actions)
        actions[:] = 0
        time.sleep(0.005)  # workers write at once
        for step, wanted in zip(held[-2:], expected[max(count - 2, 0) : count], strict=True):
            assert_equal(step, wanted)
        held.append(env.recv())
    assert_equal(held[-1], expected[-1])


@each_case
def test_a_loaded_state_goes_on_with_the_episodes_it_was_taken_in(
    config: EnvConfig, make: Make
) -> None:
    env = make(config, num_envs=4, seed=3)
    assert env.state_dict()["episodes"].tolist() == [0] * 4
    ended = sum(step.terminated | step.truncated for step in play(env, 60))
    state = env.state_dict()
    np.testing.assert_array_equal(state["episodes"], ended)
    assert ended.any()
    other = make(config, num_envs=4, seed=3)
    other.load_state_dict(state)
    np.testing.assert_array_equal(other.state_dict()["episodes"], ended)
    for _ in range(2):  # a reset goes back to what was loaded
        step = other.reset()
        np.testing.assert_array_equal(other.episode_seeds(), env.episode_seeds())
        other.send(at_random(other, step, np.random.default_rng(0)))
        other.recv()
    for vector in (env, other):
        vector.close()


@each_case
def test_a_state_counts_no_step_that_is_under_way(config: EnvConfig, make: Make) -> None:
    env = make(config, num_envs=4, seed=3)
    rng = np.random.default_rng(0)
    step = env.reset()
    ended = np.zeros(4, int)
    for _ in range(60):
        env.send(at_random(env, step, rng))
        time.sleep(0.001)  # workers and JAX go on meanwhile
        np.testing.assert_array_equal(env.state_dict()["episodes"], ended)
        step = env.recv()
        ended += step.terminated | step.truncated
    assert ended.any()
    env.close()


@each_case
def test_a_state_of_another_number_of_environments_is_refused(
    config: EnvConfig, make: Make
) -> None:
    env = make(config, num_envs=4, seed=3)
    with pytest.raises(ValueError, match=r"shape \(4,\), got int64 of shape \(3,\)$"):
        env.load_state_dict({"episodes": np.zeros(3, np.int64)})
    env.close()


def test_the_example_of_a_game_plays() -> None:
    """The documentation of games.py has a whole benchmark, indented by four spaces."""
    lines = str(games.__doc__).splitlines()
    first = lines.index("    class Guess(Game):")
    last = lines.index("        return Guess()")
    scope: dict[str, Any] = {**vars(games)}
    exec(textwrap.dedent("\n".join(lines[first : last + 1])), scope)
    env = games.SerialVector([scope["make_game"](SPREAD)], seed=1, first_env=0)
    said = env.reset().obs.astype(np.int32)
    env.send(said)
    step = env.recv()
    assert (step.rewards[0], step.terminated[0]) == (2, True)


@each_case
def test_recv_needs_a_send(config: EnvConfig, make: Make) -> None:
    env = make(config, num_envs=4, seed=1)
    env.reset()
    with pytest.raises(RuntimeError, match="without send"):
        env.recv()


@pytest.mark.parametrize(
    ("config", "message"),
    [
        (SMAX.model_copy(update={"map": "3s5y"}), r"env\.map: .*'3s5y'; choose one of: 3s5z, "),
        (SMAX.model_copy(update={"continuous_actions": True}), r"env\.continuous_actions: "),
        (SMAX.model_copy(update={"backend": "smx"}), r"env\.backend: .*choose one of: smax, "),
        (
            EnvConfig(name="mpe", map="simple_reference", backend="jax"),
            r"env\.map: .*choose one of: simple_spread",
        ),
        (EnvConfig(name="mpe", map="simple_spred"), r"env\.map: .*choose one of: simple_spread, "),
        (EnvConfig(name="smak", map="3m"), r"env\.name: .*choose one of: smac, "),
    ],
)
def test_what_a_user_can_mend_is_named(config: EnvConfig, message: str, make: Make) -> None:
    with pytest.raises(UserError, match=message):
        make(config, num_envs=2, seed=1)


def test_missing_package_names_the_extra(monkeypatch: pytest.MonkeyPatch, make: Make) -> None:
    monkeypatch.setitem(sys.modules, "mpe2", None)
    monkeypatch.delitem(sys.modules, "mpe2.simple_spread_v3", raising=False)
    with pytest.raises(UserError, match=r"mpe2.*pip install 'sde_harl\[mpe\]'"):
        make(SPREAD, num_envs=2, seed=1)


def lay_out_smac(folder: Path, *packages: str) -> None:
    for name in packages:
        (folder / name).mkdir(parents=True)
        (folder / name / "__init__.py").write_text(
            "raise AssertionError('only looked for, never imported')"
        )


@pytest.mark.parametrize(
    ("packages", "game", "backend", "reason"),
    [
        ((), True, "smax", "oxwhirl's package smac is not installed"),
        (("smac",), True, "smax", "oxwhirl's package smac is not installed"),  # PyPI's namesake
        (("smac", "smac/env", "smac/env/starcraft2"), False, "smax", "StarCraft II is not at"),
        (("smac", "smac/env", "smac/env/starcraft2"), True, "starcraft2", r"4\.10\.0 .* is at"),
    ],
)
def test_auto_backend_says_which_and_why(
    packages: tuple[str, ...],
    game: bool,
    backend: str,
    reason: str,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    lay_out_smac(tmp_path, *packages)
    if game:
        (tmp_path / "Versions" / "Base75689").mkdir(parents=True)
        (tmp_path / "Versions" / "Base75689" / "SC2_x64").touch()
    monkeypatch.setattr(sys, "path", [str(tmp_path)])
    monkeypatch.setenv("SC2PATH", str(tmp_path))
    chosen, line, version = resolve_backend(EnvConfig(name="smac", map="3m"))
    assert chosen == backend
    assert version == ("4.10.0 (build 75689)" if backend == "starcraft2" else "")
    assert re.search(reason, line)
    assert "\n" not in line


def test_backend_that_was_asked_for() -> None:
    assert resolve_backend(SMAX) == ("smax", "smac is played on smax, as env.backend asks.", "")
    assert resolve_backend(SPREAD) == ("mpe2", "mpe is played on mpe2.", "")


def test_a_benchmark_without_a_usable_backend_says_what_each_misses(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    def needs(what: str) -> Backend:
        return Backend(module="none", requirements=lambda: Requirements(missing=what))

    ready = Backend(module="none", results="third")
    backends = {"first": needs("a is away"), "second": needs("b is out")}
    monkeypatch.setitem(ENVS, "odd", backends)
    config = SPREAD.model_copy(update={"name": "odd"})
    with pytest.raises(UserError, match=r"^env\.backend: odd .* here: a is away; b is out$"):
        resolve_backend(config)
    monkeypatch.setitem(ENVS, "odd", backends | {"third": ready})
    assert resolve_backend(config).line == (
        "odd is played on third, and its results are called third: a is away, and b is out."
    )


def test_the_layout_holds_agents_of_different_actions() -> None:
    spec = EnvSpec(
        name="test/x",
        agents=("a", "b"),
        obs_sizes=(1, 1),
        action_sizes=((3,), (2, 4)),
        state_size=1,
        episode_limit=1,
        continuous=False,
        unit_types=("", ""),
        has_win=False,
    )
    assert spec.branches == (3, 4)
    assert spec.choices().astype(int).tolist() == [[1, 1, 1, 1, 0, 0, 0], [1, 1, 0, 1, 1, 1, 1]]
    continuous = spec._replace(action_sizes=((2,), (3,)), continuous=True)
    assert continuous.branches == (1, 1, 1)
    assert continuous.choices().astype(int).tolist() == [[1, 1, 0], [1, 1, 1]]
