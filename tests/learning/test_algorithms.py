"""The on-policy family: its steps by hand, and problems small enough to know the answer."""

from __future__ import annotations

import copy
from collections.abc import Callable

import numpy as np
import pytest
import torch
from games import act, learner, new_rollout, see, spec, view_of

from sde_harl.algorithms.on_policy.group_batch import GroupBatch
from sde_harl.algorithms.registry import ON_POLICY
from sde_harl.buffers.rollout import Rollout
from sde_harl.envs.base import EnvSpec

SETTINGS = {
    name: {"kl_threshold": 0.05, "entropy_coef": 0.0}
    if name == "hatrpo"
    else {"lr": 5e-3, "critic_lr": 5e-3}
    for name in ON_POLICY
}
"""Settings that make an algorithm quick on a game of one step."""


def named(shown: np.ndarray, actions: np.ndarray) -> np.ndarray:
    """Returns the reward: 1 for a right answer, or 1/2 for each right half of one.

    shown (N, E) in 0..3, actions (N, E, D).
    """
    wanted = shown[..., None] if actions.shape[-1] == 1 else np.stack([shown // 2, shown % 2], -1)
    if actions.dtype == np.float32:
        return -np.abs(actions - (wanted - 0.5)).mean(-1)
    return (actions == wanted).mean(-1)


IDENTITY: dict[str, tuple[EnvSpec, float]] = {
    "discrete": (spec(((4,), (4,)), 4), 0.9),
    "multi-discrete": (spec(((2, 2), (2, 2)), 4), 0.9),
    "continuous": (spec(((2,), (2,)), 4, continuous=True), -0.4),
}
"""The game, and the mean reward to be beaten: chance is 1/4, 1/2 and -0.59 or worse."""


CASES = [(name, actions, "float32") for name in ON_POLICY for actions in IDENTITY]
CASES += [
    (name, "discrete", codec) for name in ("happo", "hatrpo") for codec in ("entropy", "int8")
]


@pytest.mark.parametrize(("name", "actions", "codec"), CASES)
def test_agents_learn_to_name_what_they_see(name: str, actions: str, codec: str) -> None:
    (game, good), rng = IDENTITY[actions], np.random.default_rng(0)
    algorithm = learner(game, name, codec, **SETTINGS[name])
    rollout, reward = new_rollout(game, 256, view_of(name)), 0.0
    for _ in range(60):
        shown = rng.integers(0, 4, (2, 256))
        see(rollout, np.eye(4, dtype=np.float32)[shown])
        act(algorithm.policy, rollout, rng)
        rollout.rewards[0] = named(shown, rollout.actions[:, 0]).mean(0)
        reward = float(rollout.rewards.mean())
        scalars = algorithm.update(rollout, 0.0)
        assert scalars["ratio_error"] < 1e-4, "what acted is not what is trained"
    assert reward > good


CLIMBING = np.array([[11.0, -30.0, 0.0], [-30.0, 7.0, 6.0], [0.0, 0.0, 5.0]], np.float32)
PENALTY = np.array([[-3.0, 0.0, 10.0], [0.0, 2.0, 0.0], [10.0, 0.0, -3.0]], np.float32)


@pytest.mark.parametrize(
    ("payoff", "good"), [(CLIMBING, 4.5), (PENALTY, 9.0)], ids=["climbing", "penalty"]
)
@pytest.mark.parametrize("name", ON_POLICY)
def test_matrix_games_are_coordinated(name: str, payoff: np.ndarray, good: float) -> None:
    """Both games are from Claus & Boutilier (AAAI 1998).

    Climbing: 5 is safe, and a miss beside 11 costs 30. Penalty: either 10 will do.
    """
    game, rng = spec(((3,), (3,)), 2), np.random.default_rng(1)
    algorithm = learner(game, name, "float32", **SETTINGS[name])
    rollout = new_rollout(game, 256, view_of(name))
    see(rollout, np.broadcast_to(np.array([1.0, -1.0], np.float32), (2, 256, 2)))
    for _ in range(60):
        act(algorithm.policy, rollout, rng)
        rollout.rewards[:] = payoff[rollout.actions[0, ..., 0], rollout.actions[1, ..., 0]]
        algorithm.update(rollout, 0.0)
    assert rollout.rewards.mean() > good


def played(game: EnvSpec, name: str = "happo", **algo: object) -> tuple[object, Rollout]:
    """An algorithm and a rollout of random rewards that its policy acted in."""
    rng = np.random.default_rng(0)
    algorithm, rollout = (
        learner(game, name, "float32", **algo),
        new_rollout(game, 64, view_of(name)),
    )
    see(rollout, rng.normal(size=(len(game.agents), 64, max(game.obs_sizes))).astype(np.float32))
    act(algorithm.policy, rollout, rng)
    rollout.rewards[:] = rng.normal(size=rollout.rewards.shape)
    return algorithm, rollout


@pytest.mark.parametrize("name", ON_POLICY)
def test_a_restored_algorithm_goes_on_as_the_one_that_was_saved(name: str) -> None:
    """Its state holds all that the next update depends on, besides the nets and the generator."""
    game, rng = spec(((3,), (3,)), 4), np.random.default_rng(0)
    first, second = (learner(game, name, minibatches=2, seed=seed) for seed in (0, 1))
    rollout = new_rollout(game, 64, view_of(name))
    see(rollout, rng.normal(size=(2, 64, 4)).astype(np.float32))
    act(first.policy, rollout, rng)
    rollout.rewards[:] = rng.normal(size=rollout.rewards.shape)
    first.update(rollout, 0.0)
    second.policy.load_state_dict(first.policy.state_dict())
    second.load_state_dict(copy.deepcopy(first.state_dict()))
    second._generator.set_state(first._generator.get_state())
    assert first.update(rollout, 0.5) == second.update(rollout, 0.5)
    for mine, other in zip(first.policy.parameters(), second.policy.parameters()):
        assert torch.equal(mine, other)
    critics = (each.critic_trainer.critic.parameters() for each in (first, second))
    assert all(torch.equal(mine, other) for mine, other in zip(*critics))


def watched(algorithm: object) -> list[GroupBatch]:
    """The rows of every group's update, in order, as they are taken up."""
    seen: list[GroupBatch] = []
    original: Callable[[int, GroupBatch], dict[str, float]] = algorithm.update_group
    algorithm.update_group = lambda index, rows: (seen.append(rows), original(index, rows))[1]
    return seen


@pytest.mark.parametrize("name", ON_POLICY)
@pytest.mark.parametrize("aggregation", ["prod", "mean"])
def test_each_group_sees_the_product_of_the_ratios_before_it(name: str, aggregation: str) -> None:
    """M of group k is the advantage times new/old of groups 0..k-1.

    Algorithms that are not sequential have no M.
    """
    game = spec(((2, 3), (2, 3), (2,)), 4)
    algorithm, rollout = played(
        game, name, fixed_order=True, lr=1e-2, action_aggregation=aggregation
    )
    seen = watched(algorithm)
    algorithm.update(rollout, 0.0)
    product, own = np.ones(64), []
    for net, rows in zip(algorithm.policy.groups, seen):
        expected = (
            seen[0].advantages[0] * product if algorithm.sequential else seen[0].advantages[0]
        )
        if not algorithm.decentralised_critic:
            np.testing.assert_allclose(rows.advantages[0], expected, rtol=2e-4, atol=1e-5)
        with torch.no_grad():
            log_probs = net.distribution(net(rows.obs).outputs, rows.available_actions).log_probs(
                rows.actions
            )
        ratios = (log_probs - rows.log_probs).exp()[0].numpy()
        dimensions = len(game.action_sizes[net.members[0]])
        own.append(ratios.prod(-1) if aggregation == "prod" else ratios[:, :dimensions].mean(-1))
        product = product * own[-1]
    assert np.abs(own[0] - 1).max() > 1e-3
    assert len(seen) == 3


def test_a_dead_agents_choice_has_no_part_in_the_product() -> None:
    algorithm, rollout = played(spec(((3,), (3,)), 4), fixed_order=True, lr=1e-2)
    rollout.active_masks[0, 0, ::2] = False
    seen = watched(algorithm)
    algorithm.update(rollout, 0.0)
    assert torch.equal(seen[0].advantages[0, ::2], seen[1].advantages[0, ::2])
    assert not torch.isclose(seen[0].advantages[0, 1::2], seen[1].advantages[0, 1::2]).any()


def test_happo_of_single_agents_takes_the_step_that_numpy_computes() -> None:
    """With one epoch the ratio is 1, so the gradient of the head's bias has a closed form.

    It is the mean of M (1[a] - p) plus the entropy's;
    Adam's first step is lr g / (|g| + eps)."""
    coef, lr, eps = 0.1, 1e-2, 1e-5
    algorithm, rollout = played(
        spec(((3,), (3,)), 4), fixed_order=True, epochs=1, lr=lr, adam_eps=eps, entropy_coef=coef
    )
    seen = watched(algorithm)
    nets = algorithm.policy.groups
    before = [net.head_bias.detach().numpy().ravel().copy() for net in nets]
    outputs = [
        net(net.normalise(torch.from_numpy(rollout.obs[k : k + 1, 0]))).outputs
        for k, net in enumerate(nets)
    ]
    algorithm.update(rollout, 0.0)
    for k, net in enumerate(nets):
        p = np.exp(outputs[k][0].detach().numpy())
        p /= p.sum(-1, keepdims=True)
        chosen = np.eye(3)[rollout.actions[k, 0, :, 0]]
        entropy = -(p * np.log(p)).sum(-1, keepdims=True)
        gradient = seen[k].advantages[0].numpy()[:, None] * (chosen - p) - coef * p * (
            np.log(p) + entropy
        )
        g = gradient.mean(0)
        step = net.head_bias.detach().numpy().ravel() - before[k]
        np.testing.assert_allclose(step, lr * g / (np.abs(g) + eps), rtol=2e-3)


@pytest.mark.parametrize("masks", [True, False])
def test_dead_agents_give_no_policy_gradient_unless_asked_for(masks: bool) -> None:
    algorithm, rollout = played(
        spec(((3,), (3,)), 4), epochs=1, entropy_coef=0.0, policy_active_masks=masks
    )
    rollout.active_masks[0] = False
    before = [parameter.detach().clone() for parameter in algorithm.policy.groups[0].parameters()]
    algorithm.update(rollout, 0.0)
    same = [torch.equal(a, b) for a, b in zip(before, algorithm.policy.groups[0].parameters())]
    assert all(same) if masks else not any(same)
    assert all(
        parameter.grad.abs().sum() > 0
        for parameter in algorithm.policy.groups[1].policy_parameters()
    )


def test_objectives_are_clipped_where_that_is_the_algorithm() -> None:
    ratio, m = torch.tensor([0.5, 1.1, 1.5, 0.5, 1.5]), torch.tensor([1.0, 1.0, 1.0, -1.0, -1.0])
    game = spec(((2,), (2,)), 2)
    clipped, plain = learner(game, "happo", clip_coef=0.2), learner(game, "haa2c")
    torch.testing.assert_close(
        clipped.objective(ratio, m), torch.tensor([0.5, 1.1, 1.2, -0.8, -1.5])
    )
    torch.testing.assert_close(plain.objective(ratio, m), ratio * m)


@pytest.mark.parametrize("name", ON_POLICY)
def test_minibatches_and_decayed_rates_are_as_good(name: str) -> None:
    """At the run's end the learning rate is 0: only hatrpo's policies move, which have none."""
    algorithm, rollout = played(spec(((3,), (3,)), 4), name, minibatches=4, lr_decay=True)
    before = [
        parameter.detach().clone() for parameter in algorithm.critic_trainer.critic.parameters()
    ]
    scalars = algorithm.update(rollout, 1.0)
    assert all(map(torch.equal, before, algorithm.critic_trainer.critic.parameters()))
    algorithm.update(rollout, 0.0)
    assert not any(map(torch.equal, before, algorithm.critic_trainer.critic.parameters()))
    assert all(np.isfinite(value) for value in scalars.values())


def test_agents_that_share_parameters_are_one_policy_but_for_their_identity() -> None:
    algorithm, rollout = played(spec(((3,), (3,), (3,)), 4), "mappo", share_param=True, lr=1e-2)
    [net] = algorithm.policy.groups
    assert net.members == (0, 1, 2)
    assert len(net.head_weight) == len(net.local_weights[0]) == 1
    algorithm.update(rollout, 0.0)
    weights = algorithm.policy.local_parameters()
    for mine, others in zip(weights[0], weights[1]):
        np.testing.assert_array_equal(mine, others)
    latents = np.ones((3, 1, 4), np.float32)
    told = algorithm.policy.acting().outputs(latents)[0]
    assert np.abs(told[0] - told[1]).max() > 1e-6, "the identity was not learnt"
    with torch.no_grad():
        net.identity.zero_()
    told = algorithm.policy.acting().outputs(latents)[0]
    np.testing.assert_array_equal(told[0], told[1])
