"""Particle worlds: equal to mpe2's own environments, step by step."""

from __future__ import annotations

import importlib
from typing import Any

import numpy as np
import pytest
from numpy.typing import NDArray
from playing import assert_equal, play

from sde_harl.config.schema import EnvConfig
from sde_harl.envs.base import EnvSpec, EnvStep, VectorEnv
from sde_harl.envs.mpe import SCENARIOS
from sde_harl.envs.mpe_versus import SIDES
from sde_harl.envs.registry import make

SPREAD = EnvConfig(name="mpe", map="simple_spread")


class Twin:
    """mpe2's own environment with all its wrappers, in step with environment 0 of a vector."""

    def __init__(self, scenario: str, continuous: bool) -> None:
        module = importlib.import_module(f"mpe2.{SCENARIOS[scenario]}")
        # its wrapper for continuous actions would clip too, and print every time
        self._env = module.parallel_env(max_cycles=25, continuous_actions=continuous)
        self.world = self._env.unwrapped.world

    def begin(self, env: VectorEnv) -> list[NDArray[np.float32]]:
        obs, _ = self._env.reset(seed=int(env.episode_seeds()[0]))
        return list(obs.values())

    def step(
        self, spec: EnvSpec, actions: NDArray[Any]
    ) -> tuple[list[NDArray[np.float32]], float, bool, bool]:
        """Observations, mean reward, terminated, truncated after (N, D) actions."""
        sized = zip(actions, spec.action_sizes)
        own = [action[: size[0]] if spec.continuous else int(action[0]) for action, size in sized]
        obs, rewards, terminated, truncated, _ = self._env.step(dict(zip(spec.agents, own)))
        mean = float(np.mean(list(rewards.values())))
        return list(obs.values()), mean, any(terminated.values()), any(truncated.values())


def some_actions(spec: EnvSpec, rng: np.random.Generator) -> NDArray[Any]:
    """(1, N, D)."""
    if spec.continuous:
        return rng.uniform(0, 1, (1, len(spec.agents), len(spec.branches))).astype(np.float32)
    return np.array([[[rng.integers(size)] for (size,) in spec.action_sizes]], np.int32)


def assert_obs(padded: NDArray[np.float32], expected: list[NDArray[np.float32]]) -> None:
    for row, obs in zip(padded, expected, strict=True):
        np.testing.assert_array_equal(row[: len(obs)], obs)


@pytest.mark.parametrize("continuous", [False, True], ids=["discrete", "continuous"])
# Those with opponents are compared with them in test_env_mpe_versus.py.
@pytest.mark.parametrize("scenario", sorted(set(SCENARIOS) - set(SIDES)))
def test_equal_to_mpe2_over_whole_episodes(scenario: str, continuous: bool) -> None:
    env = make(
        EnvConfig(name="mpe", map=scenario, continuous_actions=continuous), num_envs=1, seed=1
    )
    twin = Twin(scenario, continuous)
    rng = np.random.default_rng(0)
    step = env.reset()
    assert_obs(step.obs[0], twin.begin(env))
    for _ in range(8 * 25):
        actions = some_actions(env.spec, rng)
        obs, reward, terminated, truncated = twin.step(env.spec, actions[0])
        env.send(actions)
        step = env.recv()
        assert_obs(step.final_obs[0], obs)
        np.testing.assert_array_equal(step.final_state[0], np.concatenate(obs))
        np.testing.assert_allclose(step.rewards[0], reward, rtol=2e-7)  # one rounding to float32
        assert (bool(step.terminated[0]), bool(step.truncated[0])) == (terminated, truncated)
        if truncated:
            assert_obs(step.obs[0], twin.begin(env))


def world(scenario: str) -> Any:
    """mpe2's world inside the only game of a vector."""
    vector: Any = make(EnvConfig(name="mpe", map=scenario), num_envs=1, seed=1)
    vector.reset()
    return vector._games[0]


@pytest.mark.parametrize("gap", [0.0005, 0.1, 0.29, 0.2999, 0.31])
def test_spread_pushes_apart_as_mpe2_does(gap: float) -> None:
    """Random play seldom makes agents overlap; here they do. Equal but for the last bits."""
    game = world("simple_spread")
    for agent, position in zip(game._agents, [(0.0, 0.0), (gap, 0.0), (gap / 2, gap / 3)]):
        agent.state.p_pos = np.array(position)
    forces = [np.array([0.5, -1.0]) for _ in game._agents] + [None] * 3
    plain = importlib.import_module("mpe2._mpe_utils.core").World
    expected = plain.apply_environment_force(game._world, list(forces))
    for ours, theirs in zip(game._add_contacts(list(forces))[:3], expected):
        np.testing.assert_allclose(ours, theirs, rtol=1e-12)
    own = [game._scenario.reward(agent, game._world) for agent in game._agents]
    mixed = [0.5 * reward + 0.5 * game._scenario.global_reward(game._world) for reward in own]
    assert (sum(own) < 0) == (gap < 0.3 or gap / 2 < 0.25)
    np.testing.assert_allclose(game._reward(), np.mean(mixed), rtol=1e-12)


def set_world(world: Any, games: Any, e: int) -> None:
    """Put environment `e` of JAX's games into a world of mpe2's."""
    for agent, position, speed in zip(world.agents, games.agents[e], games.speeds[e], strict=True):
        agent.state.p_pos, agent.state.p_vel = (
            np.array(position, np.float64),
            np.array(speed, np.float64),
        )
    for landmark, position in zip(world.landmarks, games.landmarks[e], strict=True):
        landmark.state.p_pos = np.array(position, np.float64)


def crowd(spec: EnvSpec, obs: NDArray[np.float32], rng: np.random.Generator) -> NDArray[Any]:
    """(N, D) actions that mostly go for the origin, where agents meet."""
    sideways = rng.random(len(obs)) < 0.5
    inward = np.where(sideways, 1 + (obs[:, 2] < 0), 3 + (obs[:, 3] < 0))
    moves = np.where(rng.random(len(obs)) < 0.3, rng.integers(0, 5, len(obs)), inward)
    if not spec.continuous:
        return moves[:, None].astype(np.int32)
    return (np.eye(5)[moves] * rng.uniform(0, 1.5, (len(obs), 5))).astype(np.float32)


@pytest.mark.usefixtures("compile_cache")
@pytest.mark.parametrize("continuous", [False, True], ids=["discrete", "continuous"])
def test_the_compiled_spread_equals_mpe2_step_by_step(continuous: bool) -> None:
    """Each episode goes its way in both, from the same start, to the end."""
    config = EnvConfig(
        name="mpe", map="simple_spread", backend="jax", continuous_actions=continuous
    )
    env: Any = make(config, num_envs=4, seed=1)
    assert env.spec == make(config.model_copy(update={"backend": "auto"}), num_envs=1, seed=1).spec
    twins = [Twin("simple_spread", continuous) for _ in range(4)]
    rng, step, touches = np.random.default_rng(0), env.reset(), 0
    for t in range(4 * 25):
        if t % 25 == 0:
            for e, twin in enumerate(twins):
                twin.begin(env)
                set_world(twin.world, env._state.games, e)
        actions = np.stack([crowd(env.spec, obs, rng) for obs in step.obs])
        expected = [
            twin.step(env.spec, own.clip(0, 1) if continuous else own)
            for twin, own in zip(twins, actions)
        ]
        env.send(actions)
        step = env.recv()
        for e, (obs, reward, terminated, truncated) in enumerate(expected):
            np.testing.assert_allclose(step.final_obs[e], np.stack(obs), atol=1e-4)
            np.testing.assert_allclose(step.rewards[e], reward, atol=1e-4)
            np.testing.assert_allclose(step.final_state[e], np.concatenate(obs), atol=1e-4)
            assert (bool(step.terminated[e]), bool(step.truncated[e])) == (terminated, truncated)
            touches += sum(np.hypot(*(obs[0][10:14].reshape(2, 2).T)) < 0.3)
    assert touches > 20, "agents never met"


@pytest.mark.usefixtures("compile_cache")
def test_the_compiled_spread_starts_as_mpe2_does() -> None:
    """All positions uniform over the square: mean 0, variance 1/3."""
    env: Any = make(EnvConfig(name="mpe", map="simple_spread", backend="jax"), num_envs=500, seed=1)
    env.reset()
    places = np.stack([env._state.games.agents, env._state.games.landmarks])
    assert np.abs(places).max() <= 1
    assert not np.asarray(env._state.games.speeds).any()
    np.testing.assert_allclose(places.mean((1, 2)), 0, atol=0.06)
    np.testing.assert_allclose(places.var((1, 2)), 1 / 3, atol=0.04)


@pytest.mark.usefixtures("compile_cache")
def test_large_arrays_of_the_compiled_spread_tell_what_small_ones_do() -> None:
    """Observations of 500 games come from JAX one by one, those of 4 in one array with all else."""
    config = EnvConfig(name="mpe", map="simple_spread", backend="jax")
    many, few = make(config, num_envs=500, seed=1), make(config, num_envs=4, seed=1)
    for large, small in zip(play(many, 30), play(few, 30), strict=True):
        first = {name: field[:4] for name, field in large._asdict().items()}
        assert_equal(EnvStep(**first), small)
    np.testing.assert_array_equal(many.episode_seeds()[:4], few.episode_seeds())


@pytest.mark.parametrize("backend", ["mpe2", "jax"])
@pytest.mark.usefixtures("compile_cache")
def test_continuous_actions_are_clipped(backend: str) -> None:
    game = make(
        SPREAD.model_copy(update={"backend": backend, "continuous_actions": True}),
        num_envs=2,
        seed=1,
    )
    far = np.random.default_rng(0).uniform(-3, 3, (2, 3, 5)).astype(np.float32)
    seen = []
    for actions in (far, far.clip(0, 1)):
        game.reset()
        game.send(actions)
        seen.append(game.recv().obs.copy())
    np.testing.assert_array_equal(*seen)


def test_sizes_differ_between_agents() -> None:
    env = make(EnvConfig(name="mpe", map="simple_speaker_listener"), num_envs=2, seed=1)
    assert env.spec.obs_sizes == (3, 11)
    assert env.spec.action_sizes == ((3,), (5,))
    assert env.spec.unit_types == ("speaker", "listener")
    step = env.reset()
    np.testing.assert_array_equal(
        step.state, np.concatenate([step.obs[:, 0, :3], step.obs[:, 1]], -1)
    )


def test_truncates_after_25_steps() -> None:
    steps = play(make(SPREAD, num_envs=2, seed=1), 50)
    assert [i for i, step in enumerate(steps) if step.truncated.all()] == [25, 50]
    assert not any(step.terminated.any() for step in steps)
    assert all((step.won == -1).all() for step in steps)


def test_continuous_sizes() -> None:
    spec = make(
        EnvConfig(name="mpe", map="simple_reference", continuous_actions=True), num_envs=2, seed=1
    ).spec
    assert spec.continuous
    assert spec.action_sizes == ((15,), (15,))


@pytest.mark.parametrize("backend", ["mpe2", "jax"])
def test_results_with_continuous_actions_are_kept_apart(backend: str) -> None:
    names = [
        make(
            SPREAD.model_copy(update={"backend": backend, "continuous_actions": each}),
            num_envs=2,
            seed=1,
        ).spec.name
        for each in (False, True)
    ]
    assert names == ["mpe/simple_spread", "mpe/simple_spread-continuous"]
