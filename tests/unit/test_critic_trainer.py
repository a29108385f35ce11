"""Advantages, value normalisation, what the critic sees and its loss, against closed forms."""

from __future__ import annotations

import numpy as np
import pytest
import torch
from games import spec

from sde_harl.algorithms.on_policy.critic_trainer import CriticTrainer, value_loss
from sde_harl.algorithms.on_policy.gae import compute_gae
from sde_harl.algorithms.on_policy.value_norm import ValueNorm
from sde_harl.buffers.rollout import Rollout
from sde_harl.config.schema import AlgoConfig, PolicyConfig
from sde_harl.envs.base import EnvSpec
from sde_harl.policy.critic import Critic
from sde_harl.policy.critic_input import make_critic_input


def test_advantages_of_one_episode_are_the_discounted_sum_of_deltas() -> None:
    gamma, lam = 0.9, 0.8
    rewards = np.array([[1.0], [2.0], [3.0]], np.float32)
    values = np.array([[[0.5], [0.4], [0.3], [0.2]], [[0.1], [0.1], [0.1], [0.1]]], np.float32)
    none = np.zeros((3, 1), bool)
    result = compute_gae(
        rewards=rewards,
        values=values,
        final_values=np.zeros((2, 3, 1)),
        terminated=none,
        truncated=none,
        gamma=gamma,
        gae_lambda=lam,
    )
    for seen, each in zip(values[..., 0], result[..., 0]):
        deltas = [rewards[t, 0] + gamma * seen[t + 1] - seen[t] for t in range(3)]
        expected = [
            sum((gamma * lam) ** (k - t) * deltas[k] for k in range(t, 3)) for t in range(3)
        ]
        np.testing.assert_allclose(each, expected, rtol=1e-6)


def test_a_terminated_episode_has_no_future_and_a_truncated_one_its_final_states_value() -> None:
    rewards = np.ones((2, 2), np.float32)
    values = np.array([[[0.0, 0.0], [7.0, 7.0], [5.0, 5.0]]], np.float32)
    terminated = np.array([[True, False], [False, False]])
    truncated = np.array([[False, True], [False, False]])
    final = np.array([[[0.0, 10.0], [0.0, 0.0]]], np.float32)
    [result] = compute_gae(
        rewards=rewards,
        values=values,
        final_values=final,
        terminated=terminated,
        truncated=truncated,
        gamma=0.5,
        gae_lambda=1.0,
    )
    np.testing.assert_allclose(
        result[0], [1.0, 1.0 + 0.5 * 10.0]
    )  # and nothing of the next episode's 7.0
    np.testing.assert_allclose(result[1], 1.0 + 0.5 * 5.0 - 7.0)


def test_value_normalisation_tracks_mean_and_deviation() -> None:
    norm, data = ValueNorm(), np.random.default_rng(0).normal(3.0, 2.0, 100_000)
    assert norm.statistics() == (0.0, 1.0)
    for part in np.split(data, 50):
        norm.update(part)
    np.testing.assert_allclose(norm.statistics(), (3.0, 2.0), rtol=0.02)
    copy = ValueNorm()
    copy.load_state_dict(norm.state_dict())
    assert copy.statistics() == norm.statistics()


def test_batches_of_a_replay_count_once_whatever_their_size() -> None:
    """Samples of a replay repeat its rows: 20 of them are no reason to forget 300."""
    norm = ValueNorm(by_rows=False)
    for mean, batches in ((0.0, 300), (5.0, 20)):
        for _ in range(batches):
            norm.update(np.full(8000, mean, np.float32))
    assert norm.statistics()[0] == pytest.approx(5.0 * 20 / 320, rel=0.01)


TWO = EnvSpec("test/two", ("a", "b"), (2, 3), ((2,), (2,)), 4, 5, False, ("", ""), False)


def test_the_critic_sees_the_state_or_the_agents_own_version_of_it() -> None:
    state, obs = np.arange(4.0)[None], np.array([[[10.0, 11.0, 0.0], [20.0, 21.0, 22.0]]])
    shown = {kind: make_critic_input(kind, TWO) for kind in ("EP", "FP", "own")}
    assert {kind: view.sizes for kind, view in shown.items()} == {
        "EP": (4,),
        "FP": (6, 7),
        "own": (2, 3),
    }
    assert shown["EP"](state, obs).tolist() == [[[0, 1, 2, 3]]]
    assert shown["FP"](state, obs).tolist() == [
        [[0, 1, 2, 3, 10, 11, 0]],
        [[0, 1, 2, 3, 20, 21, 22]],
    ]
    assert shown["own"](state, obs).tolist() == [[[10, 11, 0]], [[20, 21, 22]]]


@pytest.mark.parametrize("share", [True, False])
def test_agents_values_come_of_one_net_or_of_each_its_own(share: bool) -> None:
    view = make_critic_input("own", spec(((2,), (2,)), 3))
    critic = Critic(
        critic_input=view,
        policy=PolicyConfig(critic_width=8),
        share=share,
        generator=torch.Generator().manual_seed(0),
    )
    same = torch.randn(1, 5, 3, generator=torch.Generator().manual_seed(1)).expand(2, -1, -1)
    values, _ = critic(critic.normalise(same))
    assert torch.equal(values[0], values[1]) == share
    assert sum(each.numel() for each in critic.parameters()) == (1 if share else 2) * (
        3 * 8 + 8 + 8 * 8 + 8 + 8 + 1
    )


def trainer(**algo: object) -> CriticTrainer:
    generator = torch.Generator().manual_seed(0)
    return CriticTrainer(
        Critic(
            critic_input=make_critic_input("EP", TWO),
            policy=PolicyConfig(critic_width=8),
            share=True,
            generator=generator,
        ),
        AlgoConfig(**algo),
        generator,
    )


def test_the_value_loss_is_hubers_or_half_the_square_and_the_worse_of_clipped_and_not() -> None:
    values, targets, old = torch.tensor([[3.0, 0.5]]), torch.zeros(1, 2), torch.tensor([[4.0, 0.5]])
    plain = {"clip_value_loss": False, "huber_delta": 1.0}
    torch.testing.assert_close(
        value_loss(values, targets, old, config=AlgoConfig(**plain), whole=2),
        torch.tensor((2.5 + 0.125) / 2),
    )
    torch.testing.assert_close(
        value_loss(values, targets, old, config=AlgoConfig(**plain, use_huber=False), whole=2),
        torch.tensor((4.5 + 0.125) / 2),
    )
    # 3.0 is 1 below the old value, of which 0.2 are allowed: 3.8 counts.
    clipped = AlgoConfig(clip_value_loss=True, use_huber=False, clip_coef=0.2)
    torch.testing.assert_close(
        value_loss(values, targets, old, config=clipped, whole=2),
        torch.tensor((3.8**2 / 2 + 0.125) / 2),
    )


@pytest.mark.parametrize("kind", ["EP", "FP", "own"])
def test_the_critic_learns_values_that_depend_on_what_it_sees(kind: str) -> None:
    game, rng = spec(((2,), (2,)), 3), np.random.default_rng(0)
    view = make_critic_input(kind, game)
    rollout = Rollout(game, steps=2, envs=128, latent_size=4, critic_input=view)
    generator = torch.Generator().manual_seed(0)
    critic = CriticTrainer(
        Critic(
            critic_input=view, policy=PolicyConfig(critic_width=32), share=True, generator=generator
        ),
        AlgoConfig(critic_lr=5e-3),
        generator,
    )
    rollout.terminated[:] = True
    for _ in range(40):
        state = rng.normal(size=(3, 128, 3)).astype(np.float32)
        for t in range(3):
            rollout.critic_inputs[:, t] = view(state[t], np.stack([state[t]] * 2, 1))
        rollout.rewards[:] = 5.0 + np.sign(state[:2, :, 0] - state[:2, :, 1])
        scalars = critic.start_update(critic.estimator.estimate(rollout)).result()
    assert scalars["explained_variance"] > 0.8
