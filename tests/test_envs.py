"""Environments: the contract of `VectorEnv` on every benchmark, then what is particular to each."""

from __future__ import annotations

import importlib
import re
import subprocess
import sys
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
import pytest
from numpy.typing import NDArray

from sde_harl.envs import EnvSpec, Step, VectorEnv, make, resolve_backend
from sde_harl.errors import UserError

STOP = 4  # SMAX's action "stop"; 0 to 3 move, the rest attack


class Config(NamedTuple):
    name: str
    map: str
    backend: str = "auto"
    continuous_actions: bool = False


SMAX = Config("smac", "3m", "smax")
CASES = [SMAX, *(Config("mpe", f"simple_{name}") for name in ("spread", "reference", "speaker_listener"))]
each_case = pytest.mark.parametrize("config", CASES, ids=lambda config: config.map)
Actions = NDArray[np.int32]
Policy = Callable[[Step, np.random.Generator], Actions]


@pytest.fixture(autouse=True, scope="module")
def compile_cache(tmp_path_factory: pytest.TempPathFactory) -> Iterator[None]:
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("XDG_CACHE_HOME", str(tmp_path_factory.mktemp("cache")))
        yield


def at_random(step: Step, rng: np.random.Generator) -> Actions:
    """(E, N, 1) actions, each environment's drawn alike whatever the others do."""
    draws = rng.random(step.available_actions.shape[1:])
    actions: Actions = (draws * step.available_actions).argmax(-1).astype(np.int32)[..., None]
    return actions


def shoot_first(step: Step, rng: np.random.Generator) -> Actions:
    """(E, N, 1) actions that attack the first enemy in range, else wait."""
    shots = step.available_actions[:, :, STOP + 1 :]
    return np.where(shots.any(-1), STOP + 1 + shots.argmax(-1), STOP).astype(np.int32)[..., None]


def play(env: VectorEnv, count: int, policy: Policy = at_random) -> list[Step]:
    """`count` steps from a reset; the first Step is the reset's."""
    rng = np.random.default_rng(0)
    steps = [env.reset()]
    for _ in range(count):
        env.send(policy(steps[-1], rng))
        steps.append(env.recv())
    return steps


def assert_equal(one: Step, other: Step) -> None:
    for name, left, right in zip(Step._fields, one, other, strict=True):
        np.testing.assert_array_equal(left, right, err_msg=name)


@each_case
def test_shapes_and_types(config: Config) -> None:
    env = make(config, 4, seed=1)
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
    }
    for step in play(env, 2):
        assert {name: (array.shape, array.dtype) for name, array in step._asdict().items()} == expected
        assert step.available_actions.any(-1).all()
    env.close()


@each_case
def test_padding_is_zero_and_unavailable(config: Config) -> None:
    env = make(config, 4, seed=1)
    for step in play(env, 3):
        for i, (obs_size, action_size) in enumerate(zip(env.spec.obs_sizes, env.spec.action_sizes, strict=True)):
            assert not step.obs[:, i, obs_size:].any()
            assert not step.available_actions[:, i, sum(action_size) :].any()


@each_case
def test_a_reset_reports_no_episode(config: Config) -> None:
    step = make(config, 4, seed=1).reset()
    for array in (step.rewards, step.terminated, step.truncated, step.returns, step.lengths):
        assert not array.any()
    assert step.active.all()
    assert (step.won == -1).all()
    np.testing.assert_array_equal(step.final_state, step.state)
    np.testing.assert_array_equal(step.final_obs, step.obs)


@each_case
def test_same_seed_same_rollout(config: Config) -> None:
    first = make(config, 4, seed=3)
    rollout = play(first, 60)
    seeds = first.episode_seeds()
    second = make(config, 4, seed=3)
    for again in (first, second):  # a reset starts the streams afresh
        for one, other in zip(rollout, play(again, 60), strict=True):
            assert_equal(one, other)
        np.testing.assert_array_equal(seeds, again.episode_seeds())


@each_case
def test_every_environment_and_seed_has_its_own_episodes(config: Config) -> None:
    env, other = make(config, 4, seed=3), make(config, 4, seed=4)
    starts = np.concatenate([env.reset().state, other.reset().state])
    assert len(np.unique(starts, axis=0)) == 8
    before = env.episode_seeds()
    assert before.dtype == np.int64 and (before >= 0).all()
    assert len(np.unique(np.concatenate([before, other.episode_seeds()]))) == 8
    ended = np.zeros(4, bool)
    for step in play(env, 60)[1:]:
        ended |= step.terminated | step.truncated
    assert ended.all()
    assert len(np.unique(np.concatenate([before, env.episode_seeds()]))) == 8


@each_case
def test_two_halves_equal_one_whole(config: Config) -> None:
    whole = play(make(config, 4, seed=5), 60)
    halves = [play(make(config, 2, seed=5, first_env=first), 60) for first in (0, 2)]
    for together, left, right in zip(whole, *halves, strict=True):
        joined: list[Any] = [np.concatenate(pair) for pair in zip(left, right, strict=True)]
        assert_equal(together, Step(*joined))


@each_case
def test_returns_and_lengths_are_sums_over_the_episode(config: Config) -> None:
    env = make(config, 4, seed=7)
    returns, lengths, episodes = np.zeros(4), np.zeros(4, int), 0
    for step in play(env, 80)[1:]:
        returns, lengths = returns + step.rewards, lengths + 1
        ended = step.terminated | step.truncated
        assert not (step.terminated & step.truncated).any()
        np.testing.assert_allclose(step.returns, np.where(ended, returns, 0), rtol=1e-5)
        np.testing.assert_array_equal(step.lengths, np.where(ended, lengths, 0))
        assert (step.lengths <= env.spec.episode_limit).all()
        returns[ended], lengths[ended] = 0, 0
        episodes += ended.sum()
    assert episodes >= 4


@each_case
def test_an_end_shows_the_next_episode_and_keeps_the_last_state(config: Config) -> None:
    ends = 0
    for step in play(make(config, 4, seed=9), 80)[1:]:
        ended = step.terminated | step.truncated
        np.testing.assert_array_equal(step.final_state[~ended], step.state[~ended])
        np.testing.assert_array_equal(step.final_obs[~ended], step.obs[~ended])
        assert (step.final_obs[ended] != step.obs[ended]).any((-2, -1)).all()
        assert (step.final_state[ended] != step.state[ended]).any(-1).all()
        assert step.active[ended].all()
        ends += ended.sum()
    assert ends > 0


@each_case
def test_actions_may_be_overwritten_and_steps_kept(config: Config) -> None:
    env = make(config, 4, seed=11)
    expected = play(env, 3)
    copies = [[array.copy() for array in step] for step in expected[:2]]
    rng, step = np.random.default_rng(0), env.reset()
    for wanted in expected[1:]:
        actions = at_random(step, rng)
        env.send(actions)
        actions[:] = 0
        step = env.recv()
        assert_equal(step, wanted)
    for copied, kept in zip(copies, expected, strict=False):
        assert all(np.array_equal(one, other) for one, other in zip(copied, kept, strict=True))


@each_case
def test_recv_needs_a_send(config: Config) -> None:
    env = make(config, 4, seed=1)
    env.reset()
    with pytest.raises(RuntimeError, match="without send"):
        env.recv()


def test_smax_spec() -> None:
    spec = make(SMAX, 4, seed=1).spec
    assert (spec.name, spec.agents) == ("smax/3m", ("ally_0", "ally_1", "ally_2"))
    assert (spec.episode_limit, spec.has_win, spec.unit_types) == (100, True, ("marine",) * 3)


def test_smax_dead_agents_may_only_stop() -> None:
    dead = 0
    for step in play(make(SMAX, 4, seed=1), 80):
        assert step.available_actions[step.active][:, : STOP + 1].all()
        assert step.available_actions[~step.active][:, STOP].all()
        assert (step.available_actions[~step.active].sum(-1) == 1).all()
        dead += (~step.active).sum()
    assert dead > 0


def test_smax_wins_and_losses() -> None:
    steps = play(make(SMAX, 4, seed=1), 200, shoot_first)[1:]
    won, returns = np.concatenate([step.won for step in steps]), np.concatenate([step.returns for step in steps])
    over = np.concatenate([step.terminated for step in steps])
    np.testing.assert_array_equal(over, won >= 0)
    assert (won == 1).sum() > 5 and (won == 0).sum() > 0
    # all damage is worth 1 (a last shot may overkill), the win 1 more
    assert returns[won == 1].min() > 1.99 > returns[won == 0].max()


def test_smax_time_limit_truncates() -> None:
    env: Any = make(SMAX, 4, seed=1)
    env.reset()
    battles = env._games.games
    late = battles.state.replace(step=battles.state.step + 98)
    env._games = env._games._replace(games=battles.replace(state=late))
    stop = np.full((4, 3, 1), STOP)
    for truncated in (False, True, False):
        env.send(stop)
        step = env.recv()
        assert (step.truncated == truncated).all() and not step.terminated.any()
        assert (step.won == (0 if truncated else -1)).all()


def test_smax_compiles_once_for_vectors_of_one_size() -> None:
    one, other = make(SMAX, 4, seed=1), make(SMAX, 4, seed=2, first_env=4)
    assert one._program.step is other._program.step  # type: ignore[attr-defined]


def test_smax_import_is_silent_and_late() -> None:
    program = """
import sys
import sde_harl.envs
assert not {"jax", "mpe2", "torch"} & set(sys.modules), "heavy at import"
before = sys.stdout, sys.stderr, sys.__stdout__
from sde_harl.envs import smax
smax._import_smax()
assert before == (sys.stdout, sys.stderr, sys.__stdout__), "streams replaced"
"""
    done = subprocess.run([sys.executable, "-c", program], capture_output=True, text=True, timeout=120)
    assert (done.returncode, done.stdout) == (0, ""), done.stderr


def test_smax_cache_that_cannot_be_written_is_only_a_warning(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    from sde_harl.envs import smax

    (tmp_path / "file").touch()
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path / "file"))
    smax._keep_compiled(smax._cache_dir())
    assert "compiles again" in caplog.text


def test_mpe_sizes_differ_between_agents() -> None:
    env = make(Config("mpe", "simple_speaker_listener"), 2, seed=1)
    assert env.spec.obs_sizes == (3, 11) and env.spec.action_sizes == ((3,), (5,))
    assert env.spec.unit_types == ("speaker", "listener")
    step = env.reset()
    np.testing.assert_array_equal(step.state, np.concatenate([step.obs[:, 0, :3], step.obs[:, 1]], -1))


def test_mpe_truncates_after_25_steps() -> None:
    steps = play(make(CASES[1], 2, seed=1), 50)
    assert [i for i, step in enumerate(steps) if step.truncated.all()] == [25, 50]
    assert not any(step.terminated.any() for step in steps)
    assert all((step.won == -1).all() for step in steps)


def test_mpe_reward_is_the_mean_over_agents() -> None:
    simple_spread_v3 = importlib.import_module("mpe2.simple_spread_v3")
    env = make(CASES[1], 1, seed=1)
    env.reset()
    twin = simple_spread_v3.parallel_env()
    twin.reset(seed=int(env.episode_seeds()[0]))
    for action in range(5):
        env.send(np.full((1, 3, 1), action))
        _, rewards, *_ = twin.step({agent: action for agent in env.spec.agents})
        np.testing.assert_allclose(env.recv().rewards[0], np.mean(list(rewards.values())), rtol=1e-6)


def test_mpe_continuous() -> None:
    env = make(CASES[2]._replace(continuous_actions=True), 2, seed=1)
    assert env.spec.continuous and env.spec.action_sizes == ((15,), (15,))
    env.reset()
    env.send(np.full((2, 2, 15), 0.5, np.float32))
    assert np.isfinite(env.recv().obs).all()


@pytest.mark.parametrize(
    ("config", "message"),
    [
        (SMAX._replace(map="3s5y"), r"env\.map: .*'3s5y'; choose one of: 3s5z, "),
        (SMAX._replace(continuous_actions=True), r"env\.continuous_actions: "),
        (SMAX._replace(backend="starcraft2"), r"env\.backend: starcraft2 is not built yet; use smax"),
        (SMAX._replace(backend="smx"), r"env\.backend: .*choose one of: smax, "),
        (Config("mpe", "simple_spred"), r"env\.map: .*choose one of: simple_spread, "),
        (Config("smak", "3m"), r"env\.name: .*choose one of: smac, "),
    ],
)
def test_what_a_user_can_mend_is_named(config: Config, message: str) -> None:
    with pytest.raises(UserError, match=message):
        make(config, 2, seed=1)


def test_missing_package_names_the_extra(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(sys.modules, "mpe2", None)
    monkeypatch.delitem(sys.modules, "mpe2.simple_spread_v3", raising=False)
    with pytest.raises(UserError, match=r"mpe2.*pip install -e '\.\[mpe\]'"):
        make(CASES[1], 2, seed=1)


def lay_out_smac(folder: Path, *packages: str) -> None:
    for name in packages:
        (folder / name).mkdir(parents=True)
        (folder / name / "__init__.py").write_text("raise AssertionError('only looked for, never imported')")


@pytest.mark.parametrize(
    ("packages", "game", "backend", "reason"),
    [
        ((), True, "smax", "the package smac .* is not installed"),
        (("smac",), True, "smax", "the package smac .* is not installed"),  # PyPI's namesake
        (("smac", "smac/env", "smac/env/starcraft2"), False, "smax", "StarCraft II is not at"),
        (("smac", "smac/env", "smac/env/starcraft2"), True, "starcraft2", "are both here"),
    ],
)
def test_auto_backend_says_which_and_why(
    packages: tuple[str, ...], game: bool, backend: str, reason: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    lay_out_smac(tmp_path, *packages)
    monkeypatch.setattr(sys, "path", [str(tmp_path)])
    monkeypatch.setenv("SC2PATH", str(tmp_path if game else tmp_path / "nowhere"))
    chosen, line = resolve_backend(Config("smac", "3m"))
    assert chosen == backend
    assert re.search(reason, line) and "\n" not in line


def test_backend_that_was_asked_for() -> None:
    assert resolve_backend(SMAX) == ("smax", "smac is played on smax, as env.backend asks.")
    assert resolve_backend(CASES[1]) == ("mpe", "mpe is played on mpe.")


def test_the_layout_holds_agents_of_different_actions() -> None:
    spec = EnvSpec("test/x", ("a", "b"), (1, 1), ((3,), (2, 4)), 1, 1, False, ("", ""), False)
    assert spec.branches == (3, 4)
    assert spec.choices().astype(int).tolist() == [[1, 1, 1, 1, 0, 0, 0], [1, 1, 0, 1, 1, 1, 1]]
    continuous = spec._replace(action_sizes=((2,), (3,)), continuous=True)
    assert continuous.branches == (1, 1, 1)
    assert continuous.choices().astype(int).tolist() == [[1, 1, 0], [1, 1, 1]]
