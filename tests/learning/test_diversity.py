"""The intrinsic reward: its terms in closed form, what earns nothing, and a task that needs it."""

from __future__ import annotations

import math

import numpy as np
import pytest
import torch
from games import act, learner, new_rollout, see, spec

from sde_harl.auxiliary.diversity import Diversity
from sde_harl.auxiliary.policy_kl import GroupExperience, sampled_kl
from sde_harl.auxiliary.predictors import Predictors
from sde_harl.buffers.rollout import Rollout
from sde_harl.config.schema import CodecConfig, DiversityConfig, PolicyConfig
from sde_harl.envs.base import EnvSpec
from sde_harl.errors import UserError
from sde_harl.policy.critic_input import make_critic_input
from sde_harl.policy.group_net import GroupNet
from sde_harl.policy.gru import RecurrentState
from sde_harl.policy.split_policy import SplitPolicy


def group(game: EnvSpec, seed: int = 0, share: bool = False, **policy: object) -> GroupNet:
    """All agents in one group, with weights that make them differ."""
    everybody = tuple(range(len(game.agents)))
    config = PolicyConfig(
        **{
            "blocks": 2,
            "local_blocks": 1,
            "width": 8,
            "latent": 4,
            "groups": (everybody,),
            **policy,
        }
    )
    generator = torch.Generator().manual_seed(seed)
    (net,) = SplitPolicy(
        spec=game,
        policy=config,
        codec=CodecConfig(name="float32"),
        share=share,
        generator=generator,
    ).groups
    for parameter in net.parameters():
        parameter.data += 0.3 * torch.randn(parameter.shape, generator=generator)
    return net


def blind(net: GroupNet, biases: list[list[float]]) -> GroupNet:
    """Make every agent's outputs `biases`, whatever it sees."""
    net.head_weight.data.zero_()
    net.head_bias.data[:, 0] = torch.tensor(biases)
    return net


def seen(game: EnvSpec, actions: list[list[list[float]]], seed: int = 0) -> GroupExperience:
    """actions (n, B, D); random observations, everything available."""
    chosen = torch.tensor(actions, dtype=torch.float32 if game.continuous else torch.int64)
    n, rows = chosen.shape[:2]
    obs = torch.randn(n, rows, max(game.obs_sizes), generator=torch.Generator().manual_seed(seed))
    obs *= torch.from_numpy(np.arange(obs.shape[-1]) < np.array(game.obs_sizes)[:, None, None])
    available = torch.from_numpy(game.choices()[:, None].repeat(rows, 1))
    return GroupExperience(
        obs=obs, available_actions=available, actions=chosen, recurrent_state=None
    )


def test_an_action_earns_what_it_tells_of_who_acts() -> None:
    """Two agents, p = (s, 1 - s) and (1 - s, s), have the mean (1/2, 1/2).

    The term is log 2s for one's own action, and log 2(1 - s) for the other.
    """
    game, s = spec(((2,), (2,)), 3), 0.8
    net = blind(group(game), [[math.log(s), math.log(1 - s)], [math.log(1 - s), math.log(s)]])
    earned = sampled_kl(net, seen(game, [[[0], [1]], [[0], [1]]]), beta1=1.0)
    own, others = math.log(2 * s), math.log(2 * (1 - s))
    torch.testing.assert_close(earned, torch.tensor([[own, others], [others, own]]))


@pytest.mark.parametrize("beta1", [0.5, 1.0, 2.0])
def test_the_mean_over_actions_is_the_kl_of_the_sharpened_policy_from_the_groups_mean(
    beta1: float,
) -> None:
    """Three agents of four choices, one of them unavailable; by numpy, member after member."""
    game = spec(((4,),) * 3, 5)
    net, rows = group(game), seen(game, [[[0]] * 6] * 3)
    rows.available_actions[:, :, 1] = False
    choices = [0, 2, 3]
    logits = np.empty((3, 3, 6, 3))  # of member j on what agent i saw
    for agent in range(3):
        shown = rows.obs[agent].expand(3, -1, -1)
        logits[:, agent] = net(net.normalise(shown)).outputs.detach()[..., choices]
    probability = np.exp(logits) / np.exp(logits).sum(-1, keepdims=True)
    own, mean = np.diagonal(probability).transpose(2, 0, 1), probability.mean(0)
    sharp = own**beta1 / (own**beta1).sum(-1, keepdims=True)
    kl = (sharp * np.log(sharp / mean)).sum(-1)
    assert kl.min() > 1e-3
    earned = np.stack(
        [
            sampled_kl(net, rows._replace(actions=torch.full((3, 6, 1), a)), beta1).detach()
            for a in choices
        ],
        -1,
    )
    np.testing.assert_allclose((own * earned).sum(-1), kl, rtol=1e-4)


def test_branches_tell_together_no_more_than_who_acts() -> None:
    """Two sure agents that differ in both branches earn log 2, not twice that.

    There is no more to know of which of two an agent is.
    """
    game = spec(((2, 2), (2, 2)), 3)
    net = blind(group(game), [[20.0, 0.0, 20.0, 0.0], [0.0, 20.0, 0.0, 20.0]])
    earned = sampled_kl(net, seen(game, [[[0, 0]], [[1, 1]]]), beta1=1.0)
    torch.testing.assert_close(earned, torch.full((2, 1), math.log(2)))


@pytest.mark.parametrize("beta1", [0.6, 1.0, 2.0])
def test_continuous_actions_earn_in_closed_form(beta1: float) -> None:
    """The means are +m and -m, with one deviation s.

    With a Gaussian's density f, the term is w (log f~ - log (f+ + f-)/2), f~ of s^2 / beta1.
    The second agent's action has a dimension less."""
    game = spec(((2,), (1,)), 3, continuous=True)
    m, a = 0.3, np.array([-1.0, -0.1, 0.0, 0.4, 2.0])
    net = blind(group(game), [[m, 0.0], [-m, 0.0]])
    assert net.log_std is not None
    net.log_std.data.fill_(0.7)
    s = float(net.std()[0, 0, 0].detach())
    rows = seen(game, [[[each, 0.0] for each in a]] * 2)
    rows.actions[1, :, 1] = 0.0

    def log_density(mean: float, deviation: float) -> np.ndarray:
        return -0.5 * ((a - mean) / deviation) ** 2 - math.log(deviation * math.sqrt(2 * math.pi))

    log_mean = np.logaddexp(log_density(m, s), log_density(-m, s)) - math.log(2)
    earned = sampled_kl(net, rows, beta1)[1].detach().numpy()
    sharp = log_density(-m, s / math.sqrt(beta1))
    np.testing.assert_allclose(
        earned, np.exp(sharp - log_density(-m, s)) * (sharp - log_mean), rtol=1e-4, atol=1e-6
    )


def test_agents_that_are_alike_earn_nothing() -> None:
    game = spec(((4,),) * 3, 5)
    net = group(game, share=True)
    assert net.identity is not None
    net.identity.data.zero_()
    earned = sampled_kl(net, seen(game, [[[0], [2], [3]]] * 3), beta1=1.0)
    torch.testing.assert_close(earned, torch.zeros(3, 3), atol=1e-6, rtol=0)


@pytest.mark.parametrize(
    "policy",
    [
        {},
        {"recurrent": True},
        {"local_blocks": 0},
        {"local_blocks": 2},
        {"local_blocks": 2, "recurrent": True},
    ],
    ids=str,
)
@pytest.mark.parametrize("share", [False, True])
def test_members_look_at_an_agents_rows_through_their_own_nets(
    policy: dict[str, object], share: bool
) -> None:
    """Computes the term one agent after the other.

    Its mates get what it saw, cut to their own sizes, and its memory.
    """
    game = spec(((4,),) * 3, 5)._replace(obs_sizes=(5, 3, 4))
    net = group(game, share=share, **policy)
    rows = seen(game, [[[0], [1], [2], [3], [0], [1]]] * 3)
    if net.gru:
        memory = torch.randn(3, 2, 8, generator=torch.Generator().manual_seed(1))
        rows = rows._replace(
            recurrent_state=RecurrentState(
                memory, torch.tensor([[[1.0, 1.0, 0.0], [1.0, 0.0, 1.0]]])
            )
        )
    earned, features = sampled_kl(net, rows, beta1=1.0), net.normalise(rows.obs)
    for agent in range(3):
        shown = features[agent] * net.normalise.mask
        state = rows.recurrent_state and RecurrentState(
            rows.recurrent_state.memory[agent].expand(3, -1, -1), rows.recurrent_state.keep
        )
        log_probs = net(shown, state).outputs.log_softmax(-1)
        taken = log_probs.gather(-1, rows.actions[agent].expand(3, -1, -1))[..., 0]
        expected = taken[agent] - taken.exp().mean(0).log()
        torch.testing.assert_close(earned[agent], expected, rtol=1e-4, atol=1e-5)
        own = net(features, rows.recurrent_state).outputs.log_softmax(-1)[agent]
        torch.testing.assert_close(log_probs[agent], own)


def episodes(game: EnvSpec, steps: int, envs: int) -> Rollout:
    """Random observations and actions; everybody alive, nothing ends."""
    rng = np.random.default_rng(0)
    rollout = Rollout(
        game, steps=steps, envs=envs, latent_size=4, critic_input=make_critic_input("EP", game)
    )
    own = np.arange(rollout.obs.shape[-1]) < np.array(game.obs_sizes)[:, None]
    rollout.obs[:] = rng.normal(size=rollout.obs.shape) * own[:, None, None]
    rollout.available_actions[:], rollout.active_masks[:] = game.choices()[:, None, None], True
    rollout.actions[:] = rng.integers(0, 2, rollout.actions.shape)
    return rollout


def predictors(game: EnvSpec, **config: float) -> Predictors:
    members = tuple(range(len(game.agents)))
    return Predictors(
        members=members,
        spec=game,
        config=DiversityConfig(**config),
        generator=torch.Generator().manual_seed(0),
    )


@pytest.mark.parametrize(
    ("actions", "continuous"),
    [(((4,), (3,)), False), (((2, 3), (2,)), False), (((2,), (1,)), True)],
)
def test_the_predictors_part_is_beta1_log_q_minus_log_p(
    actions: tuple[tuple[int, ...], ...], continuous: bool
) -> None:
    """Untaught, both predict no change: (1 - beta1) |o' - o|^2 / O_i.

    Then q's mean is moved by c.
    """
    game, beta1, c = spec(actions, 5, continuous)._replace(obs_sizes=(5, 3)), 2.0, 0.7
    rollout, told = episodes(game, 4, 3), predictors(game)
    change = np.diff(rollout.obs, axis=1)
    sizes = np.array(game.obs_sizes)[:, None, None]
    blind = (change**2).sum(-1) / sizes
    reward = told.reward(rollout, beta1)
    np.testing.assert_allclose(reward[:, :-1], (1 - beta1) * blind, rtol=1e-5)
    assert (reward[:, -1] == 0).all(), "what comes behind the rollout is not known"
    told._net.biases[-1].data[0] = c
    own = np.arange(5) < sizes[..., None]
    knowing = ((change - c) ** 2 * own).sum(-1) / sizes
    np.testing.assert_allclose(
        told.reward(rollout, beta1)[:, :-1], blind - beta1 * knowing, rtol=1e-4
    )


def test_bytes_are_told_as_numbers_from_0_to_1() -> None:
    """A pixel that turns from 255 to 0 is off by 1, and no difference of bytes."""
    game = spec(((2,), (2,)), 1)._replace(obs_dtype="uint8")
    rollout = Rollout(
        game, steps=2, envs=1, latent_size=4, critic_input=make_critic_input("EP", game)
    )
    rollout.obs[:, 0], rollout.active_masks[:] = 255, True
    np.testing.assert_allclose(predictors(game).reward(rollout, 3.0)[:, 0], -2.0)


def test_nothing_is_told_across_an_episodes_end_or_of_the_dead() -> None:
    game = spec(((2,), (2,)), 3)
    rollout, told = episodes(game, 4, 2), predictors(game)
    rollout.terminated[0, 0] = rollout.truncated[1, 1] = True
    rollout.active_masks[1, 2:, 0] = False
    counts = np.ones((2, 4, 2), bool)
    counts[:, 3], counts[:, 0, 0], counts[:, 1, 1], counts[1, 1:, 0] = False, False, False, False
    np.testing.assert_array_equal(told.reward(rollout, 2.0) != 0, counts)
    rollout.active_masks[:] = False
    told.learn(rollout)
    assert (told.reward(rollout, 2.0) == 0).all()


def test_knowing_who_acts_is_worth_what_it_explains() -> None:
    """One agent's world drifts by +1/2, the other's by -1/2.

    p, which does not know the agent, errs by 1/4; q need not err at all.
    """
    game = spec(((2,), (2,)), 3)
    rollout, told = episodes(game, 9, 32), predictors(game, lr=3e-3, steps=200)
    drift = np.array([0.5, -0.5], np.float32)[:, None, None, None]
    for t in range(1, 9):
        rollout.obs[:, t] = rollout.obs[:, t - 1] + drift[:, 0]
    rollout.obs -= 4.5 * drift  # both see the same on average: what is seen shall not tell who acts
    told.learn(rollout)
    assert 0.1 < told.reward(rollout, 1.0)[:, :-1].mean() < 0.25


def test_the_team_earns_the_mean_over_the_living() -> None:
    """In groups of two and of one, the lone agent earns nothing; nobody does where all are dead."""
    game, config = spec(((3,),) * 3, 4), DiversityConfig(coef=0.5, beta1=2.0, beta2=3.0)
    generator = torch.Generator().manual_seed(0)
    policy_config = PolicyConfig(
        blocks=2, local_blocks=1, width=8, latent=4, groups=((0, 2), (1,)), head_gain=2.0
    )
    policy = SplitPolicy(
        spec=game,
        policy=policy_config,
        codec=CodecConfig(name="float32"),
        share=False,
        generator=generator,
    )
    rollout = episodes(game, 3, 4)
    rollout.active_masks[0, :, 0], rollout.active_masks[:, 2, 1] = False, False
    diversity = Diversity(policy=policy, spec=game, config=config, generator=generator)
    net, told = diversity._groups[0]
    obs, actions = (
        torch.from_numpy(each[[0, 2]]).flatten(1, 2) for each in (rollout.obs, rollout.actions)
    )
    kl = sampled_kl(
        net,
        GroupExperience(
            obs=obs,
            available_actions=torch.ones(2, 12, 3, dtype=torch.bool),
            actions=actions.long(),
            recurrent_state=None,
        ),
        2.0,
    )
    intrinsic = diversity.reward(rollout)
    each = np.zeros((3, 3, 4))
    each[[0, 2]] = 3.0 * kl.detach().numpy().reshape(2, 3, 4) + told.reward(rollout, 2.0)
    expected = 0.5 * np.average(each, 0, rollout.active_masks + 1e-9)
    expected[2, 1] = 0.0
    np.testing.assert_allclose(intrinsic.rewards, expected, rtol=1e-4, atol=1e-6)
    scalars = intrinsic.scalars
    parts = 0.5 * (3.0 * scalars["diversity/policy_kl"] + scalars["diversity/predictor"])
    assert (
        scalars["diversity/reward"]
        == pytest.approx(float(intrinsic.rewards.mean()))
        == pytest.approx(parts)
    )


def test_what_can_earn_nothing_is_refused() -> None:
    game, generator = spec(((3,), (3,)), 4), torch.Generator().manual_seed(0)
    alone = SplitPolicy(
        spec=game, policy=PolicyConfig(), codec=CodecConfig(), share=False, generator=generator
    )
    with pytest.raises(UserError, match=r"diversity.coef.*policy.groups"):
        Diversity(policy=alone, spec=game, config=DiversityConfig(coef=0.1), generator=generator)
    joints = spec(((2,), (2,)), 4, continuous=True)
    together = SplitPolicy(
        spec=joints,
        policy=PolicyConfig(groups=((0, 1),)),
        codec=CodecConfig(),
        share=False,
        generator=generator,
    )
    with pytest.raises(UserError, match=r"diversity.beta1.*continuous"):
        Diversity(
            policy=together,
            spec=joints,
            config=DiversityConfig(coef=0.1, beta1=0.5),
            generator=generator,
        )


KEYS, COST = 3, 0.3
"""Three agents of one role must turn three keys at once.

    An agent that turns one in vain pays; waiting costs nothing.
    """


def turned(actions: np.ndarray) -> np.ndarray:
    """Reward (E,) of actions (N, E): a key, or KEYS to wait."""
    opened = (np.sort(actions, 0) == np.arange(KEYS)[:, None]).all(0)
    return np.where(opened, 1.0, -COST * (actions < KEYS).sum(0))


def keys(seed: int, coef: float, updates: int = 80, apart: float = 0.0) -> float:
    """The last mean reward of a group that sees nothing to choose its keys by.

    `apart`: how much more likely, in nats, every agent is at first to turn a key of its own.
    """
    game, rng = spec(((KEYS + 1,),) * KEYS, 2), np.random.default_rng(seed)
    algorithm = learner(
        game, "happo", "float32", seed, groups=((0, 1, 2),), lr=5e-3, critic_lr=5e-3
    )
    (net,) = algorithm.policy.groups
    net.head_bias.data[:, 0, :KEYS] += apart * torch.eye(KEYS)
    config, generator = DiversityConfig(coef=coef), torch.Generator().manual_seed(seed)
    diversity = (
        Diversity(policy=algorithm.policy, spec=game, config=config, generator=generator)
        if coef
        else None
    )
    rollout, reward = new_rollout(game, 256), 0.0
    see(rollout, np.broadcast_to(np.array([1.0, -1.0], np.float32), (KEYS, 256, 2)))
    for _ in range(updates):
        act(algorithm.policy, rollout, rng)
        rollout.rewards[0] = turned(rollout.actions[:, 0, :, 0])
        reward = float(rollout.rewards.mean())
        if diversity:
            rollout.rewards += diversity.reward(rollout).rewards
        algorithm.update(rollout, 0.0)
    return reward


def test_a_group_learns_with_diversity_what_it_does_not_learn_without() -> None:
    """The best is 1. Agents that are alike open 3 times in 32, pay, and learn to wait."""
    assert keys(seed=1, coef=1.0) > 0.95
    assert keys(seed=1, coef=0.0) < 0.05


@pytest.mark.slow
@pytest.mark.parametrize("seed", [1, 2, 3])
def test_it_fails_for_starting_alike_and_not_for_want_of_time(seed: int) -> None:
    """With diversity it is learnt; without, not in three times the steps.

    Without it is learnt, too, if agents start apart.
    """
    assert keys(seed, coef=1.0) > 0.95
    assert keys(seed, coef=0.0) < 0.05
    assert keys(seed, coef=0.0, updates=240) < 0.05
    assert keys(seed, coef=0.0, apart=2.0) > 0.95
