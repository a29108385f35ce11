"""How policies of a replay act, and that what is trained is what acts."""

from __future__ import annotations

import numpy as np
import pytest
import torch
from scipy import stats

from sde_harl.draws.counters import Draw, Purpose
from sde_harl.policy.distributions import Categoricals, SquashedGaussians
from sde_harl.policy.inference.exploring import Exploration
from sde_harl.policy.shapes import BOUNDED, CHOICES, SQUASHED, VALUES

DRAW = Draw(
    seed=1,
    purpose=Purpose.ACTING,
    step=3,
    first_environment=0,
    agents=np.arange(2, dtype=np.int32),
)
E = 4000


def exploration(kind: str, epsilon: float = 0.0, noise: float = 0.0) -> Exploration:
    """Two agents, of two numbers and of one; ranges are not symmetric."""
    chances = np.zeros((2, 1, 2), np.float32)
    chances[..., 0] = epsilon
    chances[..., 1] = noise
    low = np.array([[[-1.0, 2.0]], [[0.0, 0.0]]], np.float32)
    high = np.array([[[3.0, 4.0]], [[1.0, 0.0]]], np.float32)
    return Exploration(kind=kind, chances=chances, low=low, high=high)


NUMBERS = np.array([[[True, True]], [[True, False]]]).repeat(E, 1)
EDGES = np.array([0, 1, 2], np.int32)


@pytest.mark.parametrize("kind", [SQUASHED, BOUNDED])
def test_greedy_numbers_lie_in_the_ranges_of_their_dimensions(kind: str) -> None:
    outputs = np.zeros((2, E, 4 if kind == SQUASHED else 2), np.float32)
    outputs[0, :, 0] = np.linspace(-90, 90, E)
    actions, _ = exploration(kind, 0.5, 0.5).choose(outputs, NUMBERS, None, EDGES)
    assert (actions[0, 0, 0], actions[0, -1, 0]) == (-1.0, 3.0)
    assert (actions[0, :, 1] == 3.0).all()
    assert (actions[1] == [0.5, 0.0]).all()


@pytest.mark.parametrize("kind", [SQUASHED, BOUNDED])
def test_random_numbers_are_uniform_and_drawn_for_each_environment(kind: str) -> None:
    outputs = np.zeros((2, E, 4 if kind == SQUASHED else 2), np.float32)
    outputs[..., :2] = 90.0
    outputs[..., 2:] = -90.0
    actions, log_probs = exploration(kind, epsilon=0.25).choose(outputs, NUMBERS, DRAW, EDGES)
    low, high = np.array([-1.0, 2.0]), np.array([3.0, 4.0])
    units = (actions[0] - low) / (high - low)
    random = units[:, 0] < 1.0
    assert random.mean() == pytest.approx(0.25, abs=0.03)
    # An agent that acts at random does so with all of its action, and by itself.
    assert (random == (units[:, 1] < 1.0)).all()
    assert (random != (actions[1, :, 0] < 1.0)).any()
    assert stats.kstest(units[random, 0], "uniform").pvalue > 1e-3
    assert abs(np.corrcoef(units[random].T)[0, 1]) < 0.1
    assert (actions[1, :, 1] == 0).all()
    if kind == SQUASHED:
        np.testing.assert_allclose(log_probs[0, random], -np.log(2), rtol=1e-6)
        assert (log_probs[1, :, 1] == 0).all()
    else:
        assert (log_probs == 0).all()


def test_bounded_numbers_explore_by_noise_within_their_range() -> None:
    outputs = np.zeros((2, E, 2), np.float32)
    actions, _ = exploration(BOUNDED, noise=0.2).choose(outputs, NUMBERS, DRAW, EDGES)
    units = (actions[0, :, 0] + 1) / 2 - 1
    assert units.std() == pytest.approx(0.2, abs=0.01)
    actions, _ = exploration(BOUNDED, noise=9.0).choose(outputs, NUMBERS, DRAW, EDGES)
    assert (actions[0].min(0) == [-1, 2]).all()
    assert (actions[0].max(0) == [3, 4]).all()


def test_the_density_that_acts_is_the_one_that_is_trained() -> None:
    """Both of tanh of a normal number; the numerical derivative of the distribution agrees."""
    outputs = np.array([0.3, -0.7, -0.5, 0.2], np.float32) * np.ones((2, E, 1), np.float32)
    actions, log_probs = exploration(SQUASHED).choose(outputs, NUMBERS, DRAW, EDGES)
    units = np.clip((actions[0, :, 0] + 1) / 2 - 1, -0.999, 0.999)
    std = np.exp(-0.5)
    density = stats.norm.pdf(np.arctanh(units), 0.3, std) / (1 - units**2)
    near = np.abs(units) < 0.99
    np.testing.assert_allclose(np.exp(log_probs[0, near, 0]), density[near], rtol=2e-3)
    drawn = SquashedGaussians(torch.from_numpy(outputs), torch.from_numpy(NUMBERS)).draw(
        torch.Generator().manual_seed(0)
    )
    assert float(drawn.surprise[0].mean()) == pytest.approx(-log_probs[0].sum(-1).mean(), abs=0.05)
    assert float(drawn.surprise[1].mean()) == pytest.approx(-log_probs[1].sum(-1).mean(), abs=0.05)
    assert stats.ks_2samp(drawn.actions[0, :, 0].numpy(), units).pvalue > 1e-3
    assert (drawn.actions[1, :, 1] == 0).all()


def test_extreme_densities_stay_finite() -> None:
    outputs = np.array([80.0, -80.0, -90.0, 90.0], np.float32) * np.ones((2, E, 1), np.float32)
    _, log_probs = exploration(SQUASHED).choose(outputs, NUMBERS, DRAW, EDGES)
    assert np.isfinite(log_probs).all()
    assert np.abs(log_probs).max() <= 30
    leaf = torch.from_numpy(outputs).requires_grad_()
    drawn = SquashedGaussians(leaf, None).draw(torch.Generator())
    (drawn.surprise.sum() + drawn.actions.sum()).backward()
    assert torch.isfinite(leaf.grad).all()


@pytest.mark.parametrize("kind", [CHOICES, VALUES])
def test_choices_at_random_are_among_the_available(kind: str) -> None:
    outputs = np.array([1.0, 9.0, 5.0], np.float32) * np.ones((2, E, 1), np.float32)
    available = np.array([True, False, True]) & np.ones((2, E, 1), bool)
    edges = np.array([0, 3], np.int32)
    greedy, _ = exploration(kind, epsilon=1.0).choose(outputs, available, None, edges)
    assert (greedy == 2).all()
    actions, log_probs = exploration(kind, epsilon=1.0).choose(outputs, available, DRAW, edges)
    assert (actions == 0).mean() == pytest.approx(0.5, abs=0.03)
    assert (actions != 1).all()
    if kind == CHOICES:
        np.testing.assert_allclose(log_probs, -np.log(2), rtol=1e-5)
    actions, _ = exploration(kind, epsilon=0.3).choose(outputs, available, DRAW, edges)
    assert (actions == 0).mean() == pytest.approx(0.15, abs=0.03 if kind == VALUES else 0.05)


def test_straight_through_choices_have_the_softmaxs_gradient() -> None:
    """The gradient of f . onehot is that of f . softmax(logits + gumbel): p (f - p . f)."""
    logits = torch.tensor([[[0.5, -1.0, 2.0, 0.1, 0.7]]]).repeat(1, 6, 1).requires_grad_()
    available = torch.ones(1, 6, 5, dtype=torch.bool)
    available[..., 2] = False
    f = torch.tensor([1.0, -2.0, 5.0, 3.0, 0.5])
    drawn = Categoricals(logits, (3, 2), available).draw(torch.Generator().manual_seed(3))
    for branch in drawn.actions.detach().split((3, 2), -1):
        assert ((branch == 0) | (branch == 1)).all()
        assert (branch.sum(-1) == 1).all()
    assert (drawn.actions[..., 2] == 0).all()
    (drawn.actions * f).sum().backward()
    generator = torch.Generator().manual_seed(3)
    masked = logits.detach().masked_fill(~available, -1e30)
    for part, weights, gradient in zip(
        masked.split((3, 2), -1), f.split((3, 2)), logits.grad.split((3, 2), -1)
    ):
        uniform = torch.rand(part.shape, generator=generator)
        p = (part.log_softmax(-1) - torch.log(-torch.log(uniform))).softmax(-1)
        expected = p * (weights - (p * weights).sum(-1, keepdim=True))
        torch.testing.assert_close(gradient, expected, rtol=1e-4, atol=1e-6)


def test_gumbel_choices_have_the_softmaxs_frequencies() -> None:
    logits = torch.tensor([1.0, 0.0, -1.0]).expand(1, 20_000, 3)
    drawn = Categoricals(logits, (3,), None).draw(torch.Generator().manual_seed(0))
    torch.testing.assert_close(
        drawn.actions.mean((0, 1)), logits[0, 0].softmax(-1), rtol=0, atol=0.015
    )
    entropy = stats.entropy(logits[0, 0].softmax(-1))
    assert float(drawn.surprise.mean()) == pytest.approx(entropy, rel=1e-5)


@pytest.mark.parametrize("branches", [(5,), (3, 2)])
def test_samples_are_those_that_are_drawn_with_their_surprise(branches: tuple[int, ...]) -> None:
    outputs = torch.randn(2, 7, 10, generator=torch.Generator().manual_seed(1), requires_grad=True)
    for policy in (
        Categoricals(outputs[..., :5], branches, None),
        SquashedGaussians(outputs, torch.arange(5).expand(2, 7, 5) > 0),
    ):
        drawn = policy.draw(torch.Generator().manual_seed(2)).actions
        sampled = policy.sample(torch.Generator().manual_seed(2))
        with torch.no_grad():
            acted = policy.sample(torch.Generator().manual_seed(2))
        assert sampled.requires_grad
        assert not acted.requires_grad
        torch.testing.assert_close(sampled, drawn, rtol=0, atol=0)
        torch.testing.assert_close(acted, drawn.detach(), rtol=0, atol=0)
