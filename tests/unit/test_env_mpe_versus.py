"""Particle worlds with opponents are mpe2's, with a script in the opponents' place."""

from __future__ import annotations

import importlib
from typing import Any

import numpy as np
import pytest
from playing import at_random

from sde_harl.config.schema import EnvConfig
from sde_harl.envs import mpe_versus
from sde_harl.envs.mpe import SCENARIOS
from sde_harl.envs.mpe_versus import SIDES
from sde_harl.envs.registry import make

TEAMS = {
    "simple_tag": ("adversary_0", "adversary_1", "adversary_2"),
    "simple_world_comm": ("leadadversary_0", "adversary_0", "adversary_1", "adversary_2"),
    "simple_adversary": ("agent_0", "agent_1"),
}
each = pytest.mark.parametrize("scenario", TEAMS)


@each
@pytest.mark.parametrize("continuous", [False, True])
def test_a_world_is_mpe2s(scenario: str, continuous: bool) -> None:
    config = EnvConfig(name="mpe", map=scenario, continuous_actions=continuous)
    env = make(config, num_envs=1, seed=1)
    assert env.spec.agents == TEAMS[scenario]
    step = env.reset()
    module = importlib.import_module(f"mpe2.{SCENARIOS[scenario]}")
    twin: Any = module.parallel_env(max_cycles=25, continuous_actions=continuous)
    obs, _ = twin.reset(seed=int(env.episode_seeds()[0]))
    world = twin.unwrapped.world
    rng = np.random.default_rng(0)
    for _ in range(25):
        for row, agent, size in zip(step.final_obs[0], env.spec.agents, env.spec.obs_sizes):
            np.testing.assert_allclose(row[:size], obs[agent], rtol=1e-6, atol=1e-6)
        chosen = np.clip(at_random(env, step, rng), 0, None if not continuous else 1)
        actions: dict[str, Any] = {}
        for i, agent in enumerate(env.spec.agents):
            size = env.spec.action_sizes[i][0]
            actions[agent] = chosen[0, i, :size] if continuous else int(chosen[0, i, 0])
        for each_agent in world.agents:
            if each_agent.name not in actions:
                move = SIDES[scenario].script(world, each_agent)
                actions[each_agent.name] = np.eye(5, dtype=np.float32)[move] if continuous else move
        env.send(chosen)
        step = env.recv()
        obs, rewards, _, truncated, _ = twin.step(actions)
        wanted = np.mean([rewards[agent] for agent in env.spec.agents])
        np.testing.assert_allclose(step.rewards[0], wanted, rtol=1e-5, atol=1e-6)
    assert step.truncated[0]
    assert all(truncated.values())


def average_return(scenario: str, monkeypatch: pytest.MonkeyPatch, script: Any) -> float:
    side = SIDES[scenario]._replace(script=script)
    monkeypatch.setitem(mpe_versus.SIDES, scenario, side)
    env = make(EnvConfig(name="mpe", map=scenario), num_envs=20, seed=1)
    step = env.reset()
    rng = np.random.default_rng(0)
    for _ in range(25):
        env.send(at_random(env, step, rng))
        step = env.recv()
    return float(step.returns.mean())


@each
def test_a_script_makes_it_harder_than_standing_still(
    scenario: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    scripted = average_return(scenario, monkeypatch, SIDES[scenario].script)
    still = average_return(scenario, monkeypatch, lambda world, opponent: 0)
    assert scripted < still
