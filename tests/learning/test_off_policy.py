"""The off-policy family: its steps by hand, and problems small enough to know the answer."""

from __future__ import annotations

import numpy as np
import pytest
import torch
from games import act, new_rollout, replay_learner, see_all, spec
from test_algorithms import IDENTITY, PENALTY, named

from sde_harl.algorithms.registry import ALGORITHMS, OFF_POLICY

ACTIONS = {
    name: [
        actions
        for actions, (game, _) in IDENTITY.items()
        if (kind.continuous if game.continuous else kind.discrete)
        and (game.continuous or len(game.branches) <= kind.most_choices)
    ]
    for name, kind in OFF_POLICY.items()
}
QUICK = {"lr": 5e-3, "critic_lr": 5e-3, "updates": 8.0, "gamma": 0.0, "alpha": 0.05}
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
