"""Learners that share the rows of an update learn what one learns with all of them."""

from __future__ import annotations

import threading
from typing import Any

import pytest
import torch
from games import learner, spec
from mixed_rollout import mixed_rollout
from teams import learn_together

from sde_harl.algorithms.registry import ON_POLICY
from sde_harl.auxiliary.peers import ALONE, Peers

GAME = spec(((3,), (4,), (2,)), 5)
CONTINUOUS = spec(((2,), (1,), (2,)), 5, continuous=True)
GROUPS = ((0, 2), (1,))
MAKING = threading.Lock()
"""Densities are drawn from torch's one global generator."""

CASES: dict[str, dict[str, Any]] = {
    **{name: {"name": name} for name in ON_POLICY},
    "minibatches": {"name": "happo", "minibatches": 3},
    "hatrpo with a codec": {"name": "hatrpo", "codec": "entropy"},
    "happo without": {"name": "happo", "codec": "float32", "minibatches": 2},
    "recurrent": {"name": "happo", "recurrent": True, "minibatches": 2},
    "recurrent hatrpo": {"name": "hatrpo", "recurrent": True, "codec": "int8"},
    "continuous": {"name": "happo", "game": CONTINUOUS},
}


def update_thrice(
    peers: Peers, name: str, *, game: Any = GAME, recurrent: bool = False, **settings: Any
) -> tuple[list[dict[str, float]], torch.Tensor]:
    """Returns the scalars of three updates and the policies' weights after them."""
    with MAKING:
        algorithm = learner(
            game, name, groups=GROUPS, recurrent=recurrent, peers=peers, epochs=2, **settings
        )
    rollout = mixed_rollout(algorithm.policy, game, name, recurrent=recurrent)
    scalars = [algorithm.update(rollout, progress) for progress in (0.0, 0.3, 0.6)]
    weights = [each.detach().flatten() for each in algorithm.policy.parameters()]
    return scalars, torch.cat(weights)


@pytest.mark.parametrize("case", CASES)
def test_learners_together_learn_what_one_learns_alone(case: str) -> None:
    # Conjugate gradients make more of a rounding error than a step of Adam does.
    error = 1e-4 if "hatrpo" in CASES[case]["name"] else 1e-5
    wanted, weights = update_thrice(ALONE, **CASES[case])
    together = learn_together(3, lambda team: update_thrice(team, **CASES[case]))
    for scalars, found in together:
        for ours, theirs in zip(wanted, scalars):
            assert ours.keys() == theirs.keys()
            for name, value in ours.items():
                assert theirs[name] == pytest.approx(value, rel=error, abs=error), name
        torch.testing.assert_close(found, weights, rtol=0, atol=1e-4)
        assert torch.equal(found, together[0][1]), "all of them step alike, bit for bit"
