"""Trust-region steps: the Fisher product, the solver, the bound and the improvement."""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest
import torch
from games import act, learner, new_rollout, see, spec
from torch.nn.utils import parameters_to_vector, vector_to_parameters

from sde_harl.algorithms.on_policy.group_batch import GroupBatch, gather_group
from sde_harl.algorithms.on_policy.hatrpo import mean_kl
from sde_harl.algorithms.on_policy.trust_region import conjugate_gradient, fisher_product
from sde_harl.envs.base import EnvSpec
from sde_harl.policy.distributions import Distribution, Gaussians
from sde_harl.policy.group_net import GroupNet

GAMES: dict[str, EnvSpec] = {
    "discrete": spec(((3,), (2,)), 4),
    "multi-discrete": spec(((3, 2), (2,)), 4),
    "continuous": spec(((2,), (1,)), 4, continuous=True),
}


def played(game: EnvSpec, codec: str = "entropy", **algo: Any) -> tuple[Any, Any]:
    rng = np.random.default_rng(0)
    algorithm, rollout = learner(game, "hatrpo", codec, **algo), new_rollout(game, 64)
    with torch.no_grad():
        for net in algorithm.policy.groups:  # away from the nearly uniform start
            net.head_weight.mul_(50.0)
    see(rollout, rng.normal(size=(2, 64, 4)).astype(np.float32))
    act(algorithm.policy, rollout, rng)
    rollout.rewards[:] = rng.normal(size=rollout.rewards.shape)
    return algorithm, rollout


def rows_of(algorithm: Any, rollout: Any, index: int = 0) -> tuple[GroupNet, GroupBatch]:
    net = algorithm.policy.groups[index]
    return net, gather_group(
        rollout, net, torch.from_numpy(rollout.rewards).reshape(1, -1), mask_dead=True
    )


@torch.no_grad()
def frozen(net: GroupNet, rows: GroupBatch) -> Distribution:
    """Returns the outputs of the policy as it is now, kept apart from its parameters."""
    outputs = net(rows.obs).outputs.clone()
    if net.log_std is not None:
        return Gaussians(outputs, net.std().clone(), rows.available_actions)
    return net.distribution(outputs, rows.available_actions)


def test_conjugate_gradients_solve() -> None:
    generator = torch.Generator().manual_seed(0)
    root, target = torch.randn(8, 8, generator=generator), torch.randn(8, generator=generator)
    matrix = root @ root.T + torch.eye(8)
    solution = conjugate_gradient(lambda vector: matrix @ vector, target, 20)
    torch.testing.assert_close(solution, torch.linalg.solve(matrix, target), rtol=1e-3, atol=1e-4)


@pytest.mark.parametrize("actions", GAMES)
def test_the_fisher_product_is_that_of_the_kls_hessian(actions: str) -> None:
    """It equals second differences of the KL. Latents are plain: rounding has no derivative."""
    algorithm, rollout = played(GAMES[actions], "float32")
    net, rows = rows_of(algorithm, rollout)
    net = net.double()
    doubled = {
        name: each.double()
        for name, each in rows._asdict().items()
        if torch.is_tensor(each) and each.is_floating_point()
    }
    rows = rows._replace(**doubled)
    parameters = net.policy_parameters()
    old = net.distribution(net(rows.obs).outputs, rows.available_actions)
    product = fisher_product(mean_kl(old, old, rows), parameters, 0.1)
    start, h = parameters_to_vector(parameters).detach(), 1e-3
    fixed = frozen(net, rows)

    def kl(shift: torch.Tensor) -> torch.Tensor:
        vector_to_parameters(start + shift, parameters)
        return mean_kl(frozen(net, rows), fixed, rows)

    vectors = torch.randn(
        4, len(start), generator=torch.Generator().manual_seed(1), dtype=torch.float64
    )
    for vector in vectors / vectors.norm(dim=-1, keepdim=True):
        curvature = (kl(h * vector) + kl(-h * vector)) / h**2  # KL(old || old) = 0
        vector_to_parameters(start, parameters)
        torch.testing.assert_close(vector @ product(vector), curvature + 0.1, rtol=1e-4, atol=1e-6)


def test_the_fisher_product_equals_the_explicit_hessian() -> None:
    """Every column of it, on the head's bias of one agent: mean over rows of diag(p) - p p^T."""
    algorithm, rollout = played(GAMES["discrete"])
    net, rows = rows_of(algorithm, rollout)
    old = net.distribution(net(rows.obs).outputs, rows.available_actions)
    product = fisher_product(mean_kl(old, old, rows), [net.head_bias], 0.0)
    with torch.no_grad():
        p = net(rows.obs).outputs[0].softmax(-1)
    expected = (torch.diag_embed(p) - p[:, :, None] * p[:, None]).mean(0)
    torch.testing.assert_close(
        torch.stack([product(unit) for unit in torch.eye(3)]), expected, rtol=1e-4, atol=1e-6
    )


@pytest.mark.parametrize("actions", GAMES)
@pytest.mark.parametrize("bound", [3e-3, 1e-2])
@pytest.mark.parametrize("codec", ["entropy", "float32"])
def test_a_step_keeps_the_bound_and_improves(actions: str, bound: float, codec: str) -> None:
    algorithm, rollout = played(GAMES[actions], codec, kl_threshold=bound)
    net, rows = rows_of(algorithm, rollout)
    fixed = frozen(net, rows)
    report = algorithm.update_group(0, rows)
    assert report["accepted"] == 1.0
    assert report["improvement"] > 0
    kl = float(mean_kl(frozen(net, rows), fixed, rows))
    assert 0.1 * bound < kl < bound
    assert kl == pytest.approx(report["kl"], rel=1e-2, abs=1e-6)
    assert report["improvement"] >= 0.5 * report["expected_improvement"] > 0


def test_a_step_that_cant_improve_changes_nothing() -> None:
    algorithm, rollout = played(GAMES["discrete"], "float32", accept_ratio=1e6)
    net, rows = rows_of(algorithm, rollout)
    before = parameters_to_vector(net.policy_parameters()).detach().clone()
    report = algorithm.update_group(0, rows)
    assert report["accepted"] == 0.0
    assert report["kl"] == 0.0
    assert torch.equal(before, parameters_to_vector(net.policy_parameters()))
    rollout.active_masks[1] = False
    net, rows = rows_of(algorithm, rollout, 1)
    assert algorithm.update_group(1, rows)["accepted"] == 0.0, "a step for the dead"


def test_every_accepted_step_raises_the_exact_return_of_a_tabular_game() -> None:
    """All 9 joint actions, weighed by their old probabilities, make the surrogate the return."""
    payoff = torch.tensor([[11.0, -30.0, 0.0], [-30.0, 7.0, 6.0], [0.0, 0.0, 5.0]])
    algorithm = learner(
        spec(((3,), (3,)), 2), "hatrpo", "float32", kl_threshold=0.02, entropy_coef=0.0
    )
    nets, chosen = (
        algorithm.policy.groups,
        torch.cartesian_prod(torch.arange(3), torch.arange(3)).T[..., None],
    )
    features = nets[0].normalise(torch.tensor([[[1.0, -1.0]]]).expand(1, 9, -1))

    def policy(net: GroupNet) -> torch.Tensor:
        with torch.no_grad():
            return net(features).outputs[0, 0].softmax(-1)

    returns = []
    for _ in range(40):
        for k, net in enumerate(nets):
            mine, other = policy(net), policy(nets[1 - k])
            joint = mine[:, None] * other if k == 0 else other[:, None] * mine
            before = float((joint * payoff).sum())
            m = (9 * joint * (payoff - before)).reshape(1, 9)
            log_probs = mine.log()[chosen[k : k + 1]]
            report = algorithm.update_group(
                k,
                GroupBatch(
                    obs=features,
                    available_actions=None,
                    actions=chosen[k : k + 1],
                    log_probs=log_probs,
                    active_masks=torch.ones(1, 9),
                    advantages=m,
                ),
            )
            new = policy(net)
            after = float(
                ((new[:, None] * other if k == 0 else other[:, None] * new) * payoff).sum()
            )
            assert after > before if report["accepted"] else after == before
            if report["accepted"]:
                assert after - before == pytest.approx(report["improvement"], rel=1e-2, abs=1e-4)
            returns.append(after)
    assert returns[-1] > returns[0] + 3.0


def test_the_entropy_model_follows_by_its_own_optimiser() -> None:
    algorithm, rollout = played(GAMES["discrete"])
    model = algorithm.policy.groups[0].latent_model
    before = [each.detach().clone() for each in model.density_parameters()]
    algorithm.update(rollout, 0.0)
    assert not any(map(torch.equal, before, model.density_parameters()))
