"""The off-policy family: its steps by hand, and problems small enough to know the answer."""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest
import torch
from games import act, new_rollout, replay_learner, see_all, spec
from test_algorithms import IDENTITY, PENALTY, named

from sde_harl.algorithms.off_policy.batch import Batch
from sde_harl.algorithms.off_policy.had3qn import duelling
from sde_harl.algorithms.off_policy.reports import Reports
from sde_harl.algorithms.registry import ALGORITHMS, OFF_POLICY
from sde_harl.buffers.rollout import Rollout
from sde_harl.policy.distributions import Categoricals
from sde_harl.record.checkpoint import flatten

ACTIONS = {
    name: [
        actions
        for actions, (game, _) in IDENTITY.items()
        if (kind.continuous if game.continuous else kind.discrete)
        and (game.continuous or len(game.branches) <= kind.most_choices)
    ]
    for name, kind in OFF_POLICY.items()
}
QUICK = {"lr": 5e-3, "critic_lr": 5e-3, "updates": 5.0, "gamma": 0.0, "alpha": 0.05}
QUICK |= {"auto_alpha": False, "policy_noise": 0.0}
CASES = [(name, actions, "float32") for name in OFF_POLICY for actions in ACTIONS[name]]
CASES += [("hasac", "discrete", "entropy"), ("hatd3", "continuous", "int8")]


@pytest.mark.parametrize(("name", "actions", "codec"), CASES)
def test_agents_learn_to_name_what_they_see(name: str, actions: str, codec: str) -> None:
    (game, good), rng = IDENTITY[actions], np.random.default_rng(0)
    # A joint critic that sees one agent's observation alone can't teach the other.
    game = game._replace(state_size=8)
    algorithm = replay_learner(game, name, codec, warmup_steps=256, **QUICK)
    rollout = new_rollout(game, 64)
    for step in range(51):
        shown = rng.integers(0, 4, (2, 64))
        see_all(rollout, np.eye(4, dtype=np.float32)[shown])
        # Greedily at the end: an off-policy algorithm learns to act greedily.
        act(algorithm.policy, rollout, None if step == 50 else rng)
        rollout.rewards[0] = named(shown, rollout.actions[:, 0]).mean(0)
        algorithm.update(rollout, 0.0)
    assert rollout.rewards.mean() > (good if actions != "continuous" else -0.2)


def play_penalty(name: str, rollouts: int, seed: int = 0, **algo: object) -> tuple[Any, Rollout]:
    """Penalty: either 10 will do, and choosing apart costs 3; numbers choose by thirds."""
    continuous = ALGORITHMS[name].continuous and not ALGORITHMS[name].discrete
    game = spec(((1,), (1,)) if continuous else ((3,), (3,)), 2, continuous=continuous)
    game = game._replace(state_size=4)
    rng = np.random.default_rng(1)
    algorithm = replay_learner(game, name, seed=seed, **{**QUICK, "warmup_steps": 512, **algo})
    rollout = new_rollout(game, 64)
    see_all(rollout, np.broadcast_to(np.array([1.0, -1.0], np.float32), (2, 64, 2)))
    for step in range(rollouts):
        act(algorithm.policy, rollout, None if step == rollouts - 1 else rng)
        first, second = rollout.actions[:, 0, :, 0]
        if continuous:
            first, second = (
                np.clip((each + 1) * 1.5, 0, 2).astype(int) for each in (first, second)
            )
        rollout.rewards[0] = PENALTY[first, second]
        algorithm.update(rollout, 0.0)
    return algorithm, rollout


@pytest.mark.parametrize("name", OFF_POLICY)
def test_the_penalty_game_is_coordinated(name: str) -> None:
    _, rollout = play_penalty(name, 40)
    assert rollout.rewards.mean() > 9


@pytest.mark.parametrize("name", OFF_POLICY)
def test_blocks_of_bfloat16_learn_too(name: str) -> None:
    (half, rollout), (whole, _) = (
        play_penalty(name, 40, precision=precision) for precision in ("bfloat16", "float32")
    )
    assert rollout.rewards.mean() > 9
    ours, theirs = (flatten(each.policy.state_dict()) for each in (half, whole))
    assert {key: each.dtype for key, each in ours.items()} == {
        key: each.dtype for key, each in theirs.items()
    }, "parameters stay float32"
    assert any(not np.array_equal(ours[key], theirs[key]) for key in ours)


@pytest.mark.parametrize("name", OFF_POLICY)
def test_a_seed_repeats_bit_for_bit(name: str) -> None:
    (first, _), (second, _), (other, _) = (
        play_penalty(name, 14, seed=seed, auto_alpha=True) for seed in (0, 0, 1)
    )
    states = [flatten(each.state_dict() | each.policy.state_dict()) for each in (first, second)]
    for key, value in states[0].items():
        assert np.array_equal(value, states[1][key]), key
    assert not np.array_equal(
        first.policy.groups[0].head_bias.detach(), other.policy.groups[0].head_bias.detach()
    )


@pytest.mark.parametrize("name", ["hasac", "hatd3"])
def test_gradients_have_no_limit(name: str) -> None:
    free, limited = (
        flatten(play_penalty(name, 9, max_grad_norm=most)[0].state_dict()) for most in (10.0, 1e-9)
    )
    for key, value in free.items():
        assert not isinstance(value, torch.Tensor) or torch.equal(value, limited[key]), key


def played(name: str, continuous: bool | None = None, **algo: object) -> tuple[Any, Batch]:
    """An algorithm of three agents with random rewards in its replay, and a batch of it."""
    if continuous is None:
        continuous = ALGORITHMS[name].continuous
    actions = ((2,), (1,), (2,)) if continuous else ((3,), (2,), (3,))
    game = spec(actions, 3, continuous=continuous)._replace(state_size=9)
    settings = {"fixed_order": True, "batch_size": 32, "n_step": 2, "lr": 1e-2, **algo}
    algorithm = replay_learner(game, name, envs=8, **settings)
    rng = np.random.default_rng(0)
    rollout = new_rollout(game, 8)
    rollout.terminated[:] = False
    for step in range(9):
        see_all(rollout, rng.normal(size=(3, 8, 3)).astype(np.float32))
        act(algorithm.policy, rollout, rng)
        rollout.latents[:] = rng.normal(size=rollout.latents.shape)
        rollout.rewards[:] = rng.normal(size=(1, 8))
        rollout.terminated[:] = step % 4 == 3
        algorithm.experience.replay.add(rollout)
    sample = algorithm.experience.replay.sample(32, algorithm._generator, steps=2, gamma=0.9)
    return algorithm, algorithm._maker.make(sample, symbols=algo.get("replay") == "symbols")


def reports_of(algorithm: Any) -> Reports:
    return Reports(algorithm.scalars)


@pytest.mark.parametrize(("shared", "continuous"), [(False, True), (True, False)])
def test_the_soft_bellman_backup(shared: bool, continuous: bool) -> None:
    """r + gamma (min Q' + sum alpha H), nothing after an end."""
    algorithm, batch = played("hasac", continuous, share_alpha=shared, alpha=0.3)
    assert batch.discounts.min() == 0
    with torch.no_grad():
        algorithm.temperatures.log_alpha += torch.arange(len(algorithm.temperatures.log_alpha))
    alpha = algorithm.temperatures.alpha().numpy()[:, 0] * np.ones(3)
    state = algorithm._generator.get_state()
    target = algorithm.targets(batch)
    algorithm._generator.set_state(state)
    nets = algorithm.policy.groups
    outputs = [net(batch.features[i : i + 1, 32:]).outputs for i, net in enumerate(nets)]
    policy = algorithm.distribution(torch.cat(outputs), batch.choices(slice(None), batch.after))
    drawn = policy.draw(algorithm._generator)
    actions, entropies = drawn.actions.detach(), drawn.surprise.detach().numpy()
    joint = torch.cat(list(actions), -1)
    twins = algorithm.q_trainer.target(
        algorithm.q_trainer.target.embed(batch.states[:, 32:]), joint
    )
    soft = twins.detach().numpy().min(0) + (alpha[:, None] * entropies).sum(0)
    expected = batch.returns.numpy() + batch.discounts.numpy() * soft
    np.testing.assert_allclose(target, expected, rtol=1e-5, atol=1e-5)


def test_smoothed_targets_stay_close_and_in_range(monkeypatch: pytest.MonkeyPatch) -> None:
    algorithm, batch = played("hatd3", policy_noise=5.0, noise_clip=0.3)
    seen = []
    monkeypatch.setattr(
        algorithm.q_trainer,
        "target_values",
        lambda states, joint: (seen.append(joint), torch.zeros(1, 32))[1],
    )
    target = algorithm.targets(batch)
    torch.testing.assert_close(target, batch.returns[None])
    plain = algorithm._algo.model_copy(update={"policy_noise": 0.0})
    monkeypatch.setattr(algorithm, "_algo", plain)
    algorithm.targets(batch)
    noisy, exact = seen
    moved = (noisy - exact).abs()
    assert noisy.abs().max() <= 1
    assert 0.29 < moved.max() <= 0.3 + 1e-6
    # The second agent's second number is padding.
    assert (noisy[:, 3] == 0).all()
    assert (exact[:, 3] == 0).all()


@pytest.mark.parametrize("name", ["hasac", "hatd3", "maddpg", "had3qn"])
def test_groups_learn_beside_what_those_before_them_do_now(name: str) -> None:
    algorithm, batch = played(name)
    nets, seen = algorithm.policy.groups, []
    original = algorithm.group_loss

    def watched(net: Any, outputs: Any, batch: Any, others: Any, embedded: Any) -> Any:
        seen.append(others.clone())
        return original(net, outputs, batch, others, embedded)

    algorithm.group_loss = watched
    before = [net.head_bias.detach().clone() for net in nets]
    algorithm.update_groups(batch, reports_of(algorithm))
    assert not any(map(torch.equal, before, (net.head_bias for net in nets)))
    if name == "maddpg":
        for others in seen:
            assert torch.equal(others, batch.actions)
        return
    for k, others in enumerate(seen[1:], 1):
        # Only the group that has just learnt acts anew.
        same = [bool((others[i] == seen[k - 1][i]).all()) for i in range(3)]
        assert [i for i in range(3) if not same[i]] in ([k - 1], [])
    assert not all(map(torch.equal, seen, seen[1:]))
    if name == "hatd3":
        now = algorithm.actions_now(nets[0], batch)
        torch.testing.assert_close(seen[1][:1], now)
        torch.testing.assert_close(seen[2][:1], now)


@pytest.mark.parametrize("name", ["hasac", "haddpg", "had3qn"])
@pytest.mark.parametrize("masks", [True, False])
def test_dead_agents_give_no_gradient_unless_asked_for(name: str, masks: bool) -> None:
    algorithm, batch = played(name, policy_active_masks=masks)
    batch.active[0] = 0.0
    before = [[each.clone() for each in net.policy_parameters()] for net in algorithm.policy.groups]
    algorithm.update_groups(batch, reports_of(algorithm))
    same = [
        all(map(torch.equal, old, net.policy_parameters()))
        for old, net in zip(before, algorithm.policy.groups)
    ]
    assert same == [masks, False, False]


@pytest.mark.parametrize("name", ["hasac", "haddpg", "hatd3", "maddpg", "had3qn"])
@pytest.mark.parametrize("masks", [True, False])
def test_the_dead_of_a_group_give_no_gradient_unless_asked_for(name: str, masks: bool) -> None:
    """The others of their group are alive in the same rows."""
    algorithm, batch = played(name, share_param=True, policy_active_masks=masks)
    batch.active[0] = 0.0
    (net,) = algorithm.policy.groups
    assert net.members == (0, 1, 2)
    outputs = batch.forward(net, batch.now).outputs.detach().requires_grad_(True)
    embedded = algorithm.q_trainer.critic.embed(batch.states[:, batch.now])
    algorithm._entropies = torch.zeros(3)
    loss, _ = algorithm.group_loss(net, outputs, batch, batch.actions, embedded)
    loss.backward()
    moved = (outputs.grad.flatten(1) != 0).any(1).tolist()
    assert moved == [not masks, True, True]


def test_entropy_counts_what_was_available() -> None:
    """A positive share of log |A|: HARL's target is 0 for choices."""
    algorithm, batch = played("hasac", continuous=False, target_entropy=0.5)
    # The second agent has two choices of the layout's three.
    wanted = 0.5 * np.log([3.0, 2.0, 3.0])
    np.testing.assert_allclose(algorithm._target_entropies(batch), wanted, rtol=1e-5)
    before = algorithm.temperatures.alpha().clone()
    algorithm.update_groups(batch, reports_of(algorithm))
    # Policies that are nearly uniform have more than half of the entropy: alpha falls.
    assert (algorithm.temperatures.alpha() < before).all()


REWARDS = (0.0, 0.0, 0.0, 7.0)


def after_warmup(*rewards: float, rollouts: int = 16, shown: int = 16, **algo: object) -> Any:
    """Returns HASAC of three agents in two groups, which were given these rewards in turn.

    What rollouts behind the first `shown` ones give is a hundred times as large.
    """
    game = spec(((3,), (3,), (3,)), 3)._replace(state_size=9)
    settings = {"warmup_steps": 64 * shown, "groups": ((0, 1), (2,)), "auto_alpha": False, **algo}
    algorithm = replay_learner(game, "hasac", **settings)
    rollout, rng = new_rollout(game, 64), np.random.default_rng(0)
    for part in range(rollouts):
        see_all(rollout, rng.normal(size=(3, 64, 3)).astype(np.float32))
        act(algorithm.policy, rollout, rng)
        rollout.rewards[0] = np.resize(rewards, 64) * (100 if part >= shown else 1)
        algorithm.update(rollout, 0.0)
    return algorithm


def first_alpha(*rewards: float, **settings: Any) -> Any:
    alpha = after_warmup(*rewards, **settings).temperatures.alpha()[:, 0].numpy()
    assert (alpha == alpha[0]).all()
    return alpha[0]


@pytest.mark.parametrize("shared", [False, True])
@pytest.mark.parametrize("rollouts", [16, 19])
def test_the_first_alpha_is_of_the_size_of_the_rewards(shared: bool, rollouts: int) -> None:
    """Two standard deviations of the warm-up's, over the number of agents; measured once."""
    for size in (0.01, 1.0, 1e6):
        rewards = np.array(REWARDS) * size
        measured = first_alpha(*rewards, rollouts=rollouts, share_alpha=shared)
        np.testing.assert_allclose(measured, 2 * rewards.std() / 3, rtol=1e-5)


def test_the_first_alpha_where_the_rewards_say_nothing() -> None:
    assert first_alpha(-0.1) == pytest.approx(0.2)
    # They differ by rounding.
    assert first_alpha(-0.1, float(np.nextafter(np.float32(-0.1), np.float32(0)))) == pytest.approx(
        0.2
    )
    assert first_alpha(*REWARDS, shown=2, rollouts=3) == pytest.approx(0.2)


def test_the_first_alpha_that_is_given_or_loaded_stays() -> None:
    assert first_alpha(*REWARDS, alpha=0.7) == pytest.approx(0.7)
    algorithm = after_warmup(*REWARDS)
    algorithm.temperatures.set_first(0.5)
    train = algorithm._config.train.model_copy(update={"load": "last.pt"})
    algorithm._config = algorithm._config.model_copy(update={"train": train})
    algorithm.begin()
    np.testing.assert_allclose(algorithm.temperatures.alpha(), np.full((3, 1), 0.5))


def test_policies_and_targets_are_delayed_and_follow_slowly() -> None:
    algorithm, batch = played("matd3", policy_freq=3, polyak=0.25)
    first = [each.clone() for each in algorithm.q_trainer.target.parameters()]
    heads = [net.head_bias.clone() for net in algorithm.policy.groups]
    for k in range(3):
        assert all(map(torch.equal, first, algorithm.q_trainer.target.parameters())), k
        algorithm.learn_from(batch, reports_of(algorithm))
        moved = not torch.equal(heads[0], algorithm.policy.groups[0].head_bias)
        assert moved == (k == 2)
    nets = algorithm.q_trainer.critic.parameters()
    for old, target, net in zip(first, algorithm.q_trainer.target.parameters(), nets):
        torch.testing.assert_close(target, old + 0.25 * (net - old))
    for target, net in zip(algorithm.target_policy.groups, algorithm.policy.groups):
        assert not torch.equal(target.head_bias, net.head_bias)


def test_double_targets_choose_by_the_agents_and_value_by_the_target() -> None:
    algorithm, batch = played("had3qn")
    target = algorithm.targets(batch)
    choices = []
    for i, net in enumerate(algorithm.policy.groups):
        values = net(batch.features[i : i + 1, 32:]).outputs[0, :, :-1]
        values[:, ~torch.from_numpy(algorithm.spec.choices()[i])] = -torch.inf
        choices.append(torch.nn.functional.one_hot(values.argmax(-1), 3).float())
    critic = algorithm.q_trainer.target
    values = critic(critic.embed(batch.states[:, 32:]), torch.cat(choices, -1))[0]
    torch.testing.assert_close(target, batch.returns + batch.discounts * values.detach())


def test_values_of_all_choices_are_the_critics_one_by_one() -> None:
    algorithm, batch = played("had3qn", state_type="FP")
    critic = algorithm.q_trainer.critic
    embedded = critic.embed(batch.states[:, :32]).detach()
    found = algorithm._joint_values([1], batch.actions, embedded)
    for choice in range(3):
        joint = batch.actions.clone()
        joint[1] = torch.eye(3)[choice]
        one = critic(embedded, torch.cat(list(joint), -1))[0].mean(0)
        torch.testing.assert_close(found[0, :, choice], one.detach())


def test_duelling_values_have_their_mean_over_what_is_available() -> None:
    outputs = torch.tensor([[[1.0, 2.0, 6.0, 10.0]]])
    torch.testing.assert_close(duelling(outputs, None), torch.tensor([[[8.0, 9.0, 13.0]]]))
    available = torch.tensor([[[True, True, False]]])
    torch.testing.assert_close(duelling(outputs, available)[..., :2], torch.tensor([[[9.5, 10.5]]]))


def test_epsilon_falls_from_random_play_to_its_end() -> None:
    algorithm, _ = played("had3qn", warmup_steps=100, epsilon=0.2, epsilon_steps=100)
    chances = []
    for steps in (0, 99, 100, 150, 200, 1000):
        algorithm.experience.steps = steps
        algorithm._explore()
        chances.append(float(algorithm.policy.exploration.chances[0, 0, 0]))
    assert chances == pytest.approx([1.0, 1.0, 1.0, 0.6, 0.2, 0.2])
    # A run that starts from a checkpoint plays nothing at random first.
    algorithm.experience.random_steps = 0
    algorithm.experience.steps = 50
    algorithm._explore()
    assert float(algorithm.policy.exploration.chances[0, 0, 0]) == pytest.approx(0.6)


def test_the_best_soft_policy_of_choices_is_a_fixed_point() -> None:
    """softmax(Q / alpha) of the available choices, whatever is drawn: every gradient is 0 there."""
    alpha, values = 0.25, torch.tensor([[[0.1, 0.9, 0.4, -0.3], [0.2, 9.0, 0.8, 0.5]]])
    available = torch.tensor([[[True] * 4, [True, False, True, True]]])
    logits = (values / alpha).requires_grad_()
    for seed in range(5):
        drawn = Categoricals(logits, (4,), available).draw(torch.Generator().manual_seed(seed))
        objective = (drawn.actions * values).sum() + alpha * drawn.surprise.sum()
        (gradient,) = torch.autograd.grad(objective, logits)
        torch.testing.assert_close(gradient, torch.zeros_like(gradient), atol=1e-6, rtol=0)
    best = (values / alpha).masked_fill(~available, -torch.inf).softmax(-1)
    torch.testing.assert_close(drawn.surprise, torch.special.entr(best).sum(-1).detach())


def test_an_entropy_weighs_in_a_row_what_q_does() -> None:
    """As in the target of Q: a group ascends Q plus the sum of alpha H over those who are alive."""
    algorithm, batch = played("hasac", False, groups=((0, 1), (2,)), alpha=0.3, auto_alpha=False)
    active = batch.active.clone()
    active[1, ::2] = 0.0
    active[:2, 1::8] = 0.0
    batch = batch._replace(active=active)
    net = algorithm.policy.groups[0]
    outputs = batch.forward(net, batch.now).outputs.detach()
    embedded = algorithm.q_trainer.critic.embed(batch.states[:, batch.now])
    loss, report = algorithm.group_loss(net, outputs, batch, batch.actions, embedded)
    choices = batch.choices([0, 1], batch.now)
    entropies = Categoricals(outputs, algorithm.spec.branches, choices).entropy()
    own = active[:2, batch.now]
    of_row = (own / own.sum(-1, keepdim=True)).mean(0)
    wanted = -report["q"] - 0.3 * (of_row * (own * entropies).sum(0)).sum()
    torch.testing.assert_close(loss, wanted)


@pytest.mark.parametrize("name", ["hasac", "hatd3"])
def test_only_latents_that_are_encoded_anew_teach_the_local_nets(name: str) -> None:
    for replay in ("observations", "symbols"):
        algorithm, batch = played(name, replay=replay)
        before = [net.local_weights[0].clone() for net in algorithm.policy.groups]
        trunks = [net.trunk_weights[0].clone() for net in algorithm.policy.groups]
        algorithm.update_groups(batch, reports_of(algorithm))
        nets = algorithm.policy.groups
        moved = [not torch.equal(old, net.local_weights[0]) for old, net in zip(before, nets)]
        assert moved == [replay == "observations"] * 3
        assert not any(map(torch.equal, trunks, (net.trunk_weights[0] for net in nets)))


@pytest.mark.parametrize("state_type", ["EP", "FP"])
def test_values_are_in_the_units_of_the_rewards(state_type: str) -> None:
    """The normaliser moves; what targets and policies compare with alpha H must not."""
    algorithm, batch = played("hasac", valuenorm=True, state_type=state_type)
    targets = algorithm.targets(batch) * 10 + 100
    for _ in range(300):
        algorithm.q_trainer.learn(batch.states[:, :32], torch.cat(list(batch.actions), -1), targets)
    embedded = algorithm.q_trainer.critic.embed(batch.states[:, :32])
    values = algorithm.q_trainer.values(embedded, torch.cat(list(batch.actions), -1))
    error = (values - targets).abs().mean()
    assert error < 0.3 * targets.std()


def test_nothing_is_learnt_before_the_warm_up_is_over() -> None:
    algorithm, rollout = play_penalty("hasac", 1, warmup_steps=64 * 4)
    assert (algorithm.policy.exploration.chances[..., 0] == 1).all()
    scalars = algorithm.update(rollout, 0.0)
    assert np.isnan(scalars["value_loss"])
    algorithm.update(rollout, 0.0)
    learnt = algorithm.update(rollout, 0.0)
    assert np.isfinite(learnt["value_loss"])
    assert set(learnt) == set(scalars)
    assert (algorithm.policy.exploration.chances[..., 0] == 0).all()
