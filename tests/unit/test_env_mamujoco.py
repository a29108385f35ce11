"""Multi-agent MuJoCo is equal to gymnasium-robotics' own environment, but for a few points."""

from __future__ import annotations

import logging
from pathlib import Path
from typing import Any

import mujoco
import numpy as np
import pytest
from gymnasium_robotics import mamujoco_v1
from playing import play

from sde_harl.config.schema import EnvConfig
from sde_harl.envs.mamujoco import PARTITIONS
from sde_harl.envs.registry import make
from sde_harl.errors import UserError

MAPS = [
    f"{robot}-{partition}" for robot, partitions in PARTITIONS.items() for partition in partitions
]


@pytest.mark.parametrize("name", MAPS)
def test_every_partition_equals_gymnasium_robotics(name: str) -> None:
    env = make(EnvConfig(name="mamujoco", map=name, agent_obsk=1), num_envs=1, seed=1)
    robot, partition = name.split("-")
    twin: Any = mamujoco_v1.parallel_env(scenario=robot, agent_conf=partition, agent_obsk=1)
    step, spec = env.reset(), env.spec
    obs, _ = twin.reset(seed=int(env.episode_seeds()[0]) & 0x7FFFFFFF)
    low, high = twin.action_space("agent_0").low[0], twin.action_space("agent_0").high[0]
    rng = np.random.default_rng(0)
    for _ in range(8):
        for row, size, seen in zip(step.obs[0], spec.obs_sizes, obs.values(), strict=True):
            np.testing.assert_array_equal(row[:size], seen.astype(np.float32))
        np.testing.assert_array_equal(step.state[0], twin.state().astype(np.float32))
        actions = rng.uniform(2 * low, 2 * high, (1, len(spec.agents), len(spec.branches))).astype(
            np.float32
        )
        env.send(actions)
        own = {
            agent: actions[0, i, : spec.action_sizes[i][0]].clip(low, high)
            for i, agent in enumerate(spec.agents)
        }
        obs, rewards, terminated, _, _ = twin.step(own)
        step = env.recv()
        np.testing.assert_array_equal(step.rewards[0], np.float32(np.mean(list(rewards.values()))))
        if any(terminated.values()):
            break


def test_sizes_follow_the_partition_and_the_neighbourhood() -> None:
    specs = [
        make(
            EnvConfig(name="mamujoco", map="HalfCheetah-6x1", agent_obsk=k), num_envs=1, seed=1
        ).spec
        for k in (0, 1)
    ]
    assert [spec.obs_sizes for spec in specs] == [(7,) * 6, (9, 9, 8, 9, 9, 8)]
    assert specs[0].unit_types == ("",) * 6
    humanoid = make(EnvConfig(name="mamujoco", map="Humanoid-9|8"), num_envs=1, seed=1).spec
    assert humanoid.action_sizes == ((9,), (8,))
    assert humanoid.continuous
    assert humanoid.state_size == 348
    assert (humanoid.name, humanoid.episode_limit) == ("mamujoco/Humanoid-9|8", 1000)
    assert humanoid.choices()[1].tolist() == [True] * 8 + [False]


def test_agents_that_see_the_whole_robot_know_their_number() -> None:
    """Observations and state are standardised, as in HARL's code."""
    config = EnvConfig(name="mamujoco", map="HalfCheetah-2x3", agent_obsk=-1)
    env = make(config, num_envs=2, seed=1)
    plain = make(config.model_copy(update={"agent_obsk": 0}), num_envs=2, seed=1)
    assert env.spec.obs_sizes == (17 + 2, 17 + 2)
    assert env.spec.state_size == 17
    steps = zip((env.reset(), *play(env, 3)), (plain.reset(), *play(plain, 3)))
    for step, raw in steps:
        np.testing.assert_allclose(step.state, standardised(raw.state), atol=1e-5)
        for i, number in enumerate(np.eye(2)):
            seen = np.concatenate([raw.state, [number, number]], -1)
            np.testing.assert_allclose(step.obs[:, i], standardised(seen), atol=1e-5)


def standardised(rows: Any) -> Any:
    return (rows - rows.mean(-1, keepdims=True)) / rows.std(-1, keepdims=True)


def test_the_time_limit_truncates_and_a_fall_terminates() -> None:
    limited = play(make(EnvConfig(name="mamujoco", map="Reacher-2x1"), num_envs=2, seed=1), 101)
    assert [i for i, step in enumerate(limited) if step.truncated.all()] == [50, 100]
    fallen = play(make(EnvConfig(name="mamujoco", map="Hopper-3x1"), num_envs=2, seed=1), 200)
    assert any(step.terminated.any() for step in fallen)
    assert not any(step.truncated.any() for step in fallen)


@pytest.mark.parametrize("name", ["Walker2d-6x1", "Humanoid-17x1", "HalfCheetah"])
def test_an_unknown_partition_names_the_valid_ones(name: str) -> None:
    with pytest.raises(
        UserError, match=rf"env\.map: unknown value '{name}'; choose one of: .*Walker2d-2x3"
    ):
        make(EnvConfig(name="mamujoco", map=name), num_envs=1, seed=1)


def test_mujoco_warns_in_our_log(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, caplog: Any, capfd: Any
) -> None:
    """By itself it prints, and appends to a file in the working directory."""
    monkeypatch.chdir(tmp_path)
    env: Any = make(EnvConfig(name="mamujoco", map="HalfCheetah-6x1"), num_envs=1, seed=1)
    env.reset()
    assert capfd.readouterr() == ("", "")
    assert not list(tmp_path.iterdir())
    single = env._games[0]._env.single_agent_env.unwrapped
    single.data.qvel[:] = 1e12
    with caplog.at_level(logging.WARNING):
        mujoco.mj_step(single.model, single.data, 5)
    assert "MuJoCo: " in caplog.text
