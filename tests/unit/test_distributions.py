"""Distributions of actions: ours in torch equal torch.distributions, those in numpy equal ours.

Masks and padding, too.
"""

from __future__ import annotations

import numpy as np
import pytest
import torch
from games import draw_by
from torch import distributions as reference

from sde_harl.policy.distributions import Categoricals, Gaussians
from sde_harl.policy.inference.acting import ActingPolicy

ROWS = 50_000


def generator(seed: int = 0) -> torch.Generator:
    return torch.Generator().manual_seed(seed)


def test_gaussians_equal_torchs_own() -> None:
    means, other = (
        torch.randn(2, 7, 3, generator=generator()),
        torch.randn(2, 7, 3, generator=generator(1)),
    )
    std, wide = torch.rand(2, 1, 3, generator=generator(2)) + 0.1, torch.full((2, 1, 3), 0.7)
    actions = torch.randn(2, 7, 3, generator=generator(3))
    mine, theirs = Gaussians(means, std, None), reference.Normal(means, std.expand_as(means))
    torch.testing.assert_close(mine.log_probs(actions), theirs.log_prob(actions))
    torch.testing.assert_close(mine.entropy(), theirs.entropy().sum(-1))
    old = reference.Normal(other, wide.expand_as(means))
    torch.testing.assert_close(
        mine.kl(Gaussians(other, wide, None)),
        reference.kl_divergence(old, theirs).sum(-1),
        rtol=1e-4,
        atol=1e-5,
    )


def test_branches_equal_torchs_categoricals_side_by_side() -> None:
    branches = (2, 4, 3)
    logits, other = (
        torch.randn(2, 7, 9, generator=generator()),
        torch.randn(2, 7, 9, generator=generator(1)),
    )
    actions = torch.stack(
        [torch.randint(size, (2, 7), generator=generator(2)) for size in branches], -1
    )
    mine, old = Categoricals(logits, branches, None), Categoricals(other, branches, None)
    theirs = [reference.Categorical(logits=part) for part in logits.split(branches, -1)]
    olds = [reference.Categorical(logits=part) for part in other.split(branches, -1)]
    expected = torch.stack([each.log_prob(actions[..., d]) for d, each in enumerate(theirs)], -1)
    torch.testing.assert_close(mine.log_probs(actions), expected)
    torch.testing.assert_close(mine.entropy(), sum(each.entropy() for each in theirs))
    torch.testing.assert_close(mine.kl(old), sum(map(reference.kl_divergence, olds, theirs)))


def test_what_an_agent_lacks_contributes_nothing_and_gets_no_gradient() -> None:
    available = torch.tensor([[True, True, True, True, True], [True, True, False, True, False]])[
        :, None
    ]
    logits = torch.randn(2, 6, 5, generator=generator(), requires_grad=True)
    discrete = Categoricals(
        logits, (3, 2), available
    )  # agent 1 has two choices, and no second branch
    log_probs = discrete.log_probs(torch.zeros(2, 6, 2, dtype=torch.int64))
    assert (log_probs[1, :, 1] == 0).all()
    assert (log_probs[1, :, 0] < 0).all()
    torch.testing.assert_close(
        discrete.entropy()[1], reference.Categorical(logits=logits[1, :, :2]).entropy()
    )
    kl = discrete.kl(Categoricals(-logits, (3, 2), available))
    (log_probs.sum() + discrete.entropy().sum() + kl.sum()).backward()
    assert logits.grad is not None
    assert torch.isfinite(logits.grad).all()
    assert not logits.grad[1, :, [2, 3, 4]].any()
    assert logits.grad[1, :, :2].abs().min() > 0
    means = torch.randn(2, 6, 2, generator=generator(), requires_grad=True)
    own = torch.tensor([[True, True], [True, False]])[:, None]
    gaussian = Gaussians(means, torch.full((2, 1, 2), 0.5), own)
    assert (gaussian.log_probs(torch.ones(2, 6, 2))[1, :, 1] == 0).all()
    torch.testing.assert_close(gaussian.entropy()[0], 2 * gaussian.entropy()[1])
    assert gaussian.kl(Gaussians(means + 1.0, torch.ones(2, 1, 2), own))[1].allclose(
        reference.kl_divergence(reference.Normal(1.0, 1.0), reference.Normal(0.0, 0.5))
    )


def acting(
    outputs: np.ndarray, branches: tuple[int, ...], std: np.ndarray | None = None
) -> ActingPolicy:
    """A policy that answers `outputs` (N, A) to everything."""
    n, size = outputs.shape
    trunk = (np.zeros((n, 2, 2), np.float32), np.zeros((n, 1, 2), np.float32))
    return ActingPolicy(
        trunk=[trunk],
        head_weight=np.zeros((n, 2, size), np.float32),
        head_bias=outputs[:, None],
        branches=branches,
        std=std,
    )


def test_branches_are_sampled_by_their_probabilities_and_never_what_is_masked() -> None:
    chances = np.array([[0.5, 0.2, 0.3, 0.6, 0.4], [0.1, 0.9, 0.7, 0.8, 0.5]], np.float32)
    mask = np.array([[True, True, True, True, True], [True, True, False, True, False]])
    available = np.broadcast_to(mask[:, None], (2, ROWS, 5))
    policy, latents = acting(np.log(chances), (3, 2)), np.zeros((2, ROWS, 2), np.float32)
    decision = policy.act(latents, available, draw_by(np.random.default_rng(0), 2))
    assert decision.actions.dtype == np.int32
    assert decision.actions.shape == (2, ROWS, 2)
    shares = [
        np.bincount(decision.actions[i, :, d], minlength=3) / ROWS for i in (0, 1) for d in (0, 1)
    ]
    expected = [[0.5, 0.2, 0.3], [0.6, 0.4, 0.0], [0.1, 0.9, 0.0], [1.0, 0.0, 0.0]]
    np.testing.assert_allclose(shares, expected, atol=0.01)
    logits = torch.from_numpy(np.log(chances))[:, None].expand(-1, ROWS, -1)
    twin, taken = (
        Categoricals(logits, (3, 2), torch.tensor(available)),
        torch.from_numpy(decision.actions).long(),
    )
    torch.testing.assert_close(twin.log_probs(taken), torch.tensor(decision.log_probs))
    greedy = policy.act(latents[:, :3], available[:, :3], None)
    assert greedy.actions.tolist() == [[[0, 0]] * 3, [[1, 0]] * 3]


def test_gaussians_are_sampled_with_their_deviation_and_padding_stays_zero() -> None:
    means, std = (
        np.array([[1.0, -2.0], [0.5, 9.0]], np.float32),
        np.array([[[0.3, 0.1]], [[0.2, 0.4]]], np.float32),
    )
    available = np.broadcast_to(np.array([[True, True], [True, False]])[:, None], (2, ROWS, 2))
    policy, latents = acting(means, (1, 1), std), np.zeros((2, ROWS, 2), np.float32)
    decision = policy.act(latents, available, draw_by(np.random.default_rng(0), 2))
    assert decision.actions.dtype == decision.log_probs.dtype == np.float32
    np.testing.assert_allclose(decision.actions.mean(1), [[1.0, -2.0], [0.5, 0.0]], atol=0.01)
    np.testing.assert_allclose(decision.actions.std(1), [[0.3, 0.1], [0.2, 0.0]], atol=0.01)
    twin = Gaussians(
        torch.from_numpy(means)[:, None], torch.from_numpy(std), torch.tensor(available)
    )
    torch.testing.assert_close(
        twin.log_probs(torch.from_numpy(decision.actions)),
        torch.tensor(decision.log_probs),
        rtol=1e-3,
        atol=1e-4,
    )
    greedy = policy.act(latents[:, :1], available[:, :1], None)
    assert greedy.actions.tolist() == [[[1.0, -2.0]], [[0.5, 0.0]]]


@pytest.mark.parametrize("rows", [1, 32])
def test_any_number_of_rows_acts(rows: int) -> None:
    decision = acting(np.zeros((2, 4), np.float32), (4,)).act(
        np.zeros((2, rows, 2), np.float32),
        np.ones((2, rows, 4), bool),
        draw_by(np.random.default_rng(0), 2),
    )
    assert decision.actions.shape == decision.log_probs.shape == (2, rows, 1)
    np.testing.assert_allclose(decision.log_probs, np.log(0.25), rtol=1e-6)
