"""Every registered environment that is installed keeps the contract of `VectorEnv`.

One that is not installed is skipped by its name, with how to install it.
"""

from __future__ import annotations

import gc
import os
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import numpy as np
import psutil
import pytest
from playing import at_random, kept

from sde_harl.config.schema import EnvConfig
from sde_harl.drawing.canvas import ROLE_COLOURS
from sde_harl.envs import registry
from sde_harl.envs.base import EnvStep, VectorEnv
from sde_harl.envs.registry import ENVS, make_watched
from sde_harl.errors import UserError

CASES = [
    EnvConfig(name="smac", map="3m", backend="smax"),
    EnvConfig(name="mpe", map="simple_speaker_listener", backend="mpe2"),
    EnvConfig(name="mpe", map="simple_tag", backend="mpe2"),
    EnvConfig(name="mpe", map="simple_adversary", backend="mpe2"),
    EnvConfig(name="mpe", map="simple_world_comm", backend="mpe2"),
    EnvConfig(name="mpe", map="simple_world_comm", backend="mpe2", continuous_actions=True),
    EnvConfig(name="mpe", map="simple_spread", backend="jax"),
    EnvConfig(name="mamujoco", map="Reacher-2x1", backend="mujoco"),
    EnvConfig(name="football", map="academy_3_vs_1_with_keeper", backend="gfootball"),
    EnvConfig(
        name="football",
        map="academy_pass_and_shoot_with_keeper",
        backend="gfootball",
        representation="extracted",
    ),
    EnvConfig(name="lbforaging", map="5x5-3p-2f", backend="lbforaging"),
    EnvConfig(name="rware", map="tiny-2ag", backend="rware"),
    EnvConfig(name="pettingzoo", factory="odd_envs:Corridor", backend="pettingzoo"),
]
ELSEWHERE = {
    ("smac", "starcraft2"): "tests/unit/test_starcraft.py, on a look-alike",
    ("smacv2", "starcraft2"): "tests/unit/test_starcraft.py, on a look-alike",
    ("devices", "devices"): "tests/unit/test_sensors.py: there is no game",
}
STEPS = 200
GAMES = 2

pytestmark = pytest.mark.usefixtures("compile_cache")


def title(config: EnvConfig) -> str:
    words = [config.name, config.backend]
    if config.name != "pettingzoo":
        words.append(config.map)
    if config.name == "football":
        words.append(config.representation)
    return "-".join(words) + "-continuous" * config.continuous_actions


def test_no_backend_is_left_out() -> None:
    tested = {(config.name, config.backend) for config in CASES} | set(ELSEWHERE)
    assert tested == {(name, key) for name, backends in ENVS.items() for key in backends}
    for place in ELSEWHERE.values():
        assert Path(__file__).parents[2].joinpath(place.split(",")[0].split(":")[0]).exists()


@pytest.fixture
def make() -> Iterator[Callable[..., VectorEnv]]:
    """Gives a function that makes vectors of GAMES games, and closes them."""
    made: list[VectorEnv] = []

    def make_or_skip(config: EnvConfig, **options: Any) -> VectorEnv:
        try:
            made.append(registry.make(config, **{"num_envs": GAMES, "seed": 1, **options}))
        except UserError as error:
            if "needs the package" in str(error):
                pytest.skip(str(error))
            raise
        return made[-1]

    yield make_or_skip
    for env in made:
        env.close()


def played(env: VectorEnv, steps: int = STEPS) -> Iterator[tuple[EnvStep, EnvStep, Any]]:
    """Plays random legal steps; gives each step with the one before and the actions between."""
    rng = np.random.default_rng(0)
    before = kept(env.reset())
    for _ in range(steps):
        actions = at_random(env, before, rng)
        env.send(actions)
        now = kept(env.recv())
        yield before, now, actions
        before = now


def same(one: EnvStep, other: EnvStep) -> None:
    for name, left, right in zip(EnvStep._fields, one, other):
        np.testing.assert_array_equal(left, right, err_msg=name)


each = pytest.mark.parametrize("config", CASES, ids=title)


@each
def test_two_hundred_random_legal_steps(config: EnvConfig, make: Callable[..., VectorEnv]) -> None:
    env = make(config)
    spec = env.spec
    choices = spec.choices()
    limits = [0] * GAMES
    for before, now, actions in played(env):
        assert np.isfinite(now.rewards).all()
        assert now.obs.dtype == spec.obs_dtype
        assert now.state.dtype == spec.state_dtype
        assert not (now.terminated & now.truncated).any()
        assert not now.void.any()
        assert not (now.available_actions & ~choices).any()
        for i, size in enumerate(spec.obs_sizes):
            assert not now.obs[:, i, size:].any()
        if not spec.continuous:
            chosen = np.take_along_axis(before.available_actions, actions[:, :, :1], -1)
            assert chosen.all(), "the step was not legal"
        for e in range(GAMES):
            limits[e] += 1
            if now.truncated[e] and spec.episode_limit:
                assert now.lengths[e] == limits[e] == spec.episode_limit
            if now.terminated[e] or now.truncated[e]:
                assert now.lengths[e] == limits[e]
                assert (now.won[e] in (0, 1)) == spec.has_win
                limits[e] = 0
            else:
                assert now.won[e] == -1
                np.testing.assert_array_equal(now.final_obs[e], now.obs[e])


@each
def test_the_dead_stay_dead_and_can_do_nothing(
    config: EnvConfig, make: Callable[..., VectorEnv]
) -> None:
    env = make(config)
    for before, now, _ in played(env, 100):
        goes_on = ~(now.terminated | now.truncated)
        assert not (now.active & ~before.active)[goes_on].any()
        if config.name == "smac":
            assert (now.available_actions[~now.active].sum(-1) == 1).all()


@each
def test_seeds_repeat_and_differ(config: EnvConfig, make: Callable[..., VectorEnv]) -> None:
    first = list(played(make(config), 60))
    for (_, one, _), (_, other, _) in zip(first, played(make(config), 60)):
        same(one, other)
    others = [step.obs for _, step, _ in played(make(config, seed=2), 60)]
    assert any((one.obs != other).any() for (_, one, _), other in zip(first, others))


@each
def test_a_seed_means_the_same_whatever_was_played_before(
    config: EnvConfig, make: Callable[..., VectorEnv]
) -> None:
    env = make(config)
    first = [step for _, step, _ in played(env, 40)]
    for one, (_, other, _) in zip(first, played(env, 40)):
        same(one, other)


@each
def test_workers_change_nothing_and_leave_nothing(
    config: EnvConfig, make: Callable[..., VectorEnv]
) -> None:
    steps = list(played(make(config), 40))
    children = set(psutil.Process().children(recursive=True))
    memory = _shared_memory()
    working = make(config.model_copy(update={"workers": 2}))
    for (_, one, _), (_, other, _) in zip(steps, played(working, 40)):
        same(one, other)
    working.close()
    assert set(psutil.Process().children(recursive=True)) <= children
    del working, one, other
    gc.collect()
    assert _shared_memory() <= memory


# SMAX compiles for a quarter of a minute here: tests/unit/test_play.py draws its battles.
@pytest.mark.parametrize(
    "config",
    [
        pytest.param(config, id=title(config), marks=[pytest.mark.slow] * (config.name == "smac"))
        for config in CASES
    ],
)
def test_what_is_watched_is_what_is_played(
    config: EnvConfig, make: Callable[..., VectorEnv]
) -> None:
    """Watching changes no step; the pictures are of one size, and change with the game."""
    plain = make(config, num_envs=1)
    watched = make_watched(config, ROLE_COLOURS * 4, seed=1, env=0)
    pictures: list[Any] = []
    drawn = config.name != "pettingzoo"  # odd_envs draw nothing
    try:
        for before, now, actions in played(plain, 8):
            if not pictures:
                same(watched.vector.reset(), before)
            watched.vector.send(actions)
            same(watched.vector.recv(), now)
            pictures.append(watched.artist.picture())
            if now.terminated[0] or now.truncated[0]:
                break
    except UserError as error:
        if "MuJoCo needs EGL" in str(error):
            pytest.skip(str(error))
        raise
    finally:
        watched.vector.close()
    assert all((picture is not None) == drawn for picture in pictures)
    if drawn:
        assert {picture.dtype for picture in pictures} == {np.dtype(np.uint8)}
        assert len({picture.shape for picture in pictures}) == 1
        assert any((picture != pictures[0]).any() for picture in pictures)


def _shared_memory() -> set[str]:
    """Returns what lies in this host's shared memory under this process's name."""
    return {name for name in os.listdir("/dev/shm") if str(os.getpid()) in name}
