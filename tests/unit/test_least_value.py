"""The critics of states and joint actions; their least value, against the same by autograd."""

from __future__ import annotations

import pytest
import torch
from games import spec

from sde_harl.config.schema import PolicyConfig
from sde_harl.envs.base import EnvSpec
from sde_harl.policy.critic_input import make_critic_input
from sde_harl.policy.q_critic import QCritic

SPEC = spec(((4,), (4,), (4,)), obs=9)
JOINT = 12


def critic_of(critics: int, game: EnvSpec = SPEC) -> QCritic:
    policy = PolicyConfig(critic_blocks=3, critic_width=33)
    return QCritic(
        critic_input=make_critic_input("EP", game),
        joint=JOINT,
        critics=critics,
        policy=policy,
        generator=torch.Generator().manual_seed(1),
    ).requires_grad_(False)


def rows_of(critic: QCritic, views: int, rows: int) -> tuple[torch.Tensor, torch.Tensor]:
    """Returns embedded states and actions of random rows."""
    generator = torch.Generator().manual_seed(2)
    size = critic.weights[0].shape[1] - JOINT
    number = critic.weights[0].dtype
    states = torch.randn(views, rows, size, generator=generator, dtype=number)
    actions = torch.randn(rows, JOINT, generator=generator, dtype=number)
    return critic.embed(states), actions.requires_grad_(True)


@pytest.mark.parametrize("critics", [1, 2])
def test_first_weights_are_drawn_as_torchs_layers_draw_them(critics: int) -> None:
    critic = critic_of(critics)
    for weight, bias in zip(critic.weights, critic.biases):
        bound = weight.shape[1] ** -0.5
        for each in (weight, bias):
            assert each.abs().max() <= bound
            if each.numel() > 100:
                assert float(each.std()) == pytest.approx(bound / 3**0.5, rel=0.1)


def test_states_of_bytes_come_as_numbers_up_to_1() -> None:
    given = SPEC._replace(state_dtype="uint8")
    critics = [critic_of(2), critic_of(2, game=given)]
    states = torch.randint(256, (1, 7, SPEC.state_size), dtype=torch.uint8)
    torch.testing.assert_close(critics[1].embed(states), critics[0].embed(states / 255))


@pytest.mark.parametrize("views", [1, 3])
@pytest.mark.parametrize("critics", [1, 2, 3])
def test_value_and_gradient_are_those_of_autograd(critics: int, views: int) -> None:
    critic = critic_of(critics)
    embedded, actions = rows_of(critic, views, rows=50)
    # Each critic is to have the least value somewhere, so that every part is tried.
    critic.biases[-1][:, 0, 0] -= critic(embedded, actions).mean((1, 2)).detach()
    every = critic(embedded, actions)
    weights = torch.randn(views, 50, generator=torch.Generator().manual_seed(3))
    [wanted] = torch.autograd.grad((every.amin(0) * weights).sum(), actions)

    least = critic.least(embedded, actions)
    [found] = torch.autograd.grad((least * weights).sum(), actions)

    assert len(every.argmin(0).unique()) == critics
    torch.testing.assert_close(least, every.amin(0))
    torch.testing.assert_close(found, wanted, rtol=1e-4, atol=1e-6)


def test_one_critic_may_have_the_least_value_of_every_row() -> None:
    critic = critic_of(2)
    critic.biases[-1][1] += 1000.0
    embedded, actions = rows_of(critic, views=1, rows=8)
    [found] = torch.autograd.grad(critic.least(embedded, actions).sum(), actions)
    [wanted] = torch.autograd.grad(critic(embedded, actions)[0].sum(), actions)
    torch.testing.assert_close(found, wanted, rtol=1e-4, atol=1e-6)


@pytest.mark.parametrize("number", [torch.float32, torch.float64])
def test_the_critics_get_no_gradient(number: torch.dtype) -> None:
    critic = critic_of(2).to(number).requires_grad_(True)
    embedded, actions = rows_of(critic, views=1, rows=8)
    critic.least(embedded, actions).sum().backward()
    assert actions.grad is not None
    assert all(each.grad is None for each in critic.parameters())


def test_blocks_in_bfloat16() -> None:
    critic = critic_of(2)
    critic.computes_in = torch.bfloat16
    embedded, actions = rows_of(critic, views=1, rows=200)
    every = critic(embedded, actions).amin(0)
    [wanted] = torch.autograd.grad(every.sum(), actions)

    least = critic.least(embedded, actions)
    [found] = torch.autograd.grad(least.sum(), actions)

    torch.testing.assert_close(least, every)
    # Autograd rounds the gradient of each product to bfloat16 too, of which this takes half.
    assert (found - wanted).norm() < 0.01 * wanted.norm()


@pytest.mark.parametrize("number", [torch.float32, torch.float64])
def test_the_first_critic_alone(number: torch.dtype) -> None:
    critic = critic_of(2).to(number)
    embedded, actions = rows_of(critic, views=3, rows=20)
    first, every = critic.first(embedded, actions), critic(embedded, actions)[0]
    torch.testing.assert_close(first, every)
    [found] = torch.autograd.grad(first.sum(), actions)
    [wanted] = torch.autograd.grad(every.sum(), actions)
    torch.testing.assert_close(found, wanted)
