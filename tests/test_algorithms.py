"""HAPPO and what on-policy algorithms share, against closed forms and on problems small enough to know the answer."""

from __future__ import annotations

import numpy as np
import pytest
import torch

from sde_harl.algorithms.happo import Happo
from sde_harl.algorithms.on_policy import ValueNorm, advantages
from sde_harl.algorithms.rollout import Rollout
from sde_harl.config import AlgoConfig, CodecConfig, PolicyConfig
from sde_harl.envs.base import EnvSpec
from sde_harl.policy.critic import Critic
from sde_harl.policy.split import SplitPolicy


def spec(agents: int, actions: int, obs: int) -> EnvSpec:
    names = tuple(f"agent_{k}" for k in range(agents))
    return EnvSpec("test/game", names, (obs,) * agents, ((actions,),) * agents, obs, 1, False, ("",) * agents, False)


def test_advantages_of_one_episode_are_the_discounted_sum_of_deltas() -> None:
    gamma, lam = 0.9, 0.8
    rewards = np.array([[1.0], [2.0], [3.0]], np.float32)
    values = np.array([[0.5], [0.4], [0.3], [0.2]], np.float32)
    none = np.zeros((3, 1), bool)
    deltas = [1 + 0.9 * 0.4 - 0.5, 2 + 0.9 * 0.3 - 0.4, 3 + 0.9 * 0.2 - 0.3]
    expected = [sum((gamma * lam) ** (k - t) * deltas[k] for k in range(t, 3)) for t in range(3)]
    result = advantages(rewards, values, np.zeros((3, 1)), none, none, gamma, lam)
    np.testing.assert_allclose(result[:, 0], expected, rtol=1e-6)


def test_a_terminated_episode_has_no_future_and_a_truncated_one_its_final_states_value() -> None:
    rewards = np.ones((2, 2), np.float32)
    values = np.array([[0.0, 0.0], [7.0, 7.0], [5.0, 5.0]], np.float32)
    terminated = np.array([[True, False], [False, False]])
    truncated = np.array([[False, True], [False, False]])
    final = np.array([[0.0, 10.0], [0.0, 0.0]], np.float32)
    result = advantages(rewards, values, final, terminated, truncated, 0.5, 1.0)
    np.testing.assert_allclose(result[0], [1.0, 1.0 + 0.5 * 10.0])  # and nothing of the next episode's 7.0
    np.testing.assert_allclose(result[1], 1.0 + 0.5 * 5.0 - 7.0)


def test_value_normalisation_tracks_mean_and_deviation() -> None:
    norm, data = ValueNorm(), np.random.default_rng(0).normal(3.0, 2.0, 100_000)
    assert norm.statistics() == (0.0, 1.0)
    for part in np.split(data, 50):
        norm.update(part)
    np.testing.assert_allclose(norm.statistics(), (3.0, 2.0), rtol=0.02)
    copy = ValueNorm()
    copy.restore(norm.state())
    assert copy.statistics() == norm.statistics()


def act(policy: SplitPolicy, rollout: Rollout, generator: np.random.Generator) -> None:
    """Fill a rollout's actions as the fleet would, with torch's own latents."""
    n, steps, envs, _ = rollout.actions.shape
    latents = np.zeros((n, steps * envs, policy.shape.latent_max()), np.float32)
    for net in policy.groups:
        with torch.no_grad():
            obs = torch.from_numpy(rollout.obs[list(net.members)]).flatten(1, 2)
            latents[list(net.members)] = net.quantise(net.encode(net.normalise(obs))).numpy()
    decision = policy.acting().act(latents, rollout.available.reshape(n, steps * envs, -1), generator)
    rollout.actions[:] = decision.actions.reshape(rollout.actions.shape)
    rollout.log_probs[:] = decision.log_probs.reshape(rollout.actions.shape)


def learner(game: EnvSpec, codec: str = "entropy", **algo: object) -> Happo:
    generator = torch.Generator().manual_seed(0)
    torch.manual_seed(0)
    policy_config = PolicyConfig(blocks=2, local_blocks=1, width=16, latent=4)
    codec_config = CodecConfig(name=codec, rate_rows=32)
    policy = SplitPolicy(game, policy_config, codec_config, generator)
    return Happo(policy, Critic(game.state_size, policy_config, generator), AlgoConfig(**algo), codec_config, generator)


def new_rollout(game: EnvSpec, envs: int, latent: int = 4) -> Rollout:
    rollout = Rollout(game, 1, envs, latent)
    rollout.available[:], rollout.active[:], rollout.terminated[:] = True, True, True
    return rollout


@pytest.mark.parametrize("codec", ["entropy", "float32", "int8"])
def test_agents_learn_to_name_what_they_see(codec: str) -> None:
    """An identity task: reward 1 for each agent that answers with the index it is shown; chance is 1/4."""
    game, rng = spec(2, 4, 4), np.random.default_rng(0)
    happo, rollout = learner(game, codec, lr=3e-3, critic_lr=3e-3), new_rollout(game, 256)
    reward = 0.0
    for _ in range(60):
        shown = rng.integers(0, 4, (2, 1, 256))
        rollout.obs[:] = np.eye(4, dtype=np.float32)[shown]
        rollout.states[0], rollout.states[1] = rollout.obs[0, 0], rollout.obs[0, 0]
        act(happo.policy, rollout, rng)
        rollout.rewards[:] = (rollout.actions[..., 0] == shown).mean(0)
        reward = float(rollout.rewards.mean())
        scalars = happo.update(rollout, 0.0)
        assert scalars["ratio_error"] < 1e-4, "what acted is not what is trained"
    assert reward > 0.95


@pytest.mark.parametrize("seed", [0, 1, 2])
def test_the_climbing_game_does_not_end_at_its_punishment(seed: int) -> None:
    """Claus & Boutilier's climbing game (AAAI 1998): payoffs 11, 7, 5, and -30 for a miss beside the best."""
    payoff = np.array([[11.0, -30.0, 0.0], [-30.0, 7.0, 6.0], [0.0, 0.0, 5.0]], np.float32)
    game, rng = spec(2, 3, 2), np.random.default_rng(seed)
    happo, rollout = learner(game, lr=3e-3, entropy_coef=0.01), new_rollout(game, 256)
    rollout.obs[:] = np.array([1.0, -1.0], np.float32)
    rollout.states[:] = 1.0
    for _ in range(80):
        act(happo.policy, rollout, rng)
        rollout.rewards[:] = payoff[rollout.actions[0, ..., 0], rollout.actions[1, ..., 0]]
        happo.update(rollout, 0.0)
    assert rollout.rewards.mean() > 4.5


def test_a_dead_agent_gives_no_policy_gradient() -> None:
    game, rng = spec(2, 3, 4), np.random.default_rng(0)
    happo, rollout = learner(game, "float32", epochs=1, entropy_coef=0.0), new_rollout(game, 64)
    rollout.obs[:] = rng.normal(size=rollout.obs.shape)
    rollout.active[0] = False
    act(happo.policy, rollout, rng)
    rollout.rewards[:] = rng.normal(size=rollout.rewards.shape)
    before = [parameter.detach().clone() for parameter in happo.policy.groups[0].parameters()]
    happo.update(rollout, 0.0)
    assert all(torch.equal(a, b) for a, b in zip(before, happo.policy.groups[0].parameters()))
    assert all(parameter.grad.abs().sum() > 0 for parameter in happo.policy.groups[1].policy_parameters())


def test_the_second_group_sees_the_first_ones_ratio() -> None:
    """M of the second agent is the advantage times new/old of the first: one SGD-free check of the product."""
    game, rng = spec(2, 3, 4), np.random.default_rng(0)
    happo, rollout = learner(game, "float32", fixed_order=True, lr=1e-2), new_rollout(game, 64)
    rollout.obs[:] = rng.normal(size=rollout.obs.shape)
    act(happo.policy, rollout, rng)
    rollout.rewards[:] = rng.normal(size=rollout.rewards.shape)
    seen: list[torch.Tensor] = []
    original = happo._update_group
    happo._update_group = lambda net, opt, rows, m: (seen.append(m.clone()), original(net, opt, rows, m))[1]  # type: ignore[method-assign]
    happo.update(rollout, 0.0)
    net = happo.policy.groups[0]
    with torch.no_grad():
        logits = net(net.normalise(torch.from_numpy(rollout.obs[:1]).flatten(1, 2))).logits
    chosen = torch.from_numpy(rollout.actions[:1]).flatten(1, 2).long()
    new = logits.log_softmax(-1).gather(-1, chosen)[0, :, 0]
    ratio = torch.exp(new - torch.from_numpy(rollout.log_probs[0].ravel()))
    torch.testing.assert_close(seen[1], seen[0] * ratio, rtol=1e-4, atol=1e-5)
    assert (ratio - 1).abs().max() > 1e-3
