"""A rollout that has everything: dead and idle agents, late latents, cut and void episodes."""

from __future__ import annotations

from typing import Any

import numpy as np
from games import act, view_of

from sde_harl.buffers.rollout import Rollout
from sde_harl.policy.critic_input import make_critic_input
from sde_harl.policy.split_policy import SplitPolicy


def mixed_rollout(policy: SplitPolicy, game: Any, name: str, *, recurrent: bool) -> Rollout:
    """Returns a rollout of dead and idle agents, late latents, cut and void episodes."""
    rng = np.random.default_rng(5)
    rollout = Rollout(
        game,
        steps=8,
        envs=7,
        latent_size=4,
        critic_input=make_critic_input(view_of(name), game),
        chunk=4 if recurrent else 1,
        memory_size=16 if recurrent else 0,
    )
    rollout.obs[:] = rng.normal(size=rollout.obs.shape)
    rollout.critic_inputs[:] = rng.normal(size=rollout.critic_inputs.shape)
    rollout.final_critic_inputs[:] = rng.normal(size=rollout.final_critic_inputs.shape)
    rollout.available_actions[:] = game.choices()[:, None, None]
    rollout.active_masks[:] = rng.random(rollout.active_masks.shape) < 0.8
    rollout.rewards[:] = rng.normal(size=rollout.rewards.shape)
    rollout.terminated[:] = rng.random(rollout.terminated.shape) < 0.1
    rollout.truncated[:] = (rng.random(rollout.terminated.shape) < 0.1) & ~rollout.terminated
    rollout.stale[:] = rng.random(rollout.stale.shape) < 0.1
    rollout.latents[:] = rng.normal(size=rollout.latents.shape)
    rollout.decided[:] = rng.random(rollout.decided.shape) < 0.9
    rollout.void[:4, 0] = True
    if recurrent:
        rollout.actions[:] = rng.normal(size=rollout.actions.shape) > 0
        rollout.log_probs[:] = -1.0
    else:
        act(policy, rollout, rng)
    return rollout
