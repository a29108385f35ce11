"""Plays vectors of environments, for the tests of environments."""

from __future__ import annotations

from collections.abc import Callable

import numpy as np
from numpy.typing import NDArray

from sde_harl.envs.base import EnvStep, VectorEnv

STOP = 4  # SMAX's action "stop"; 0 to 3 move, the rest attack
Actions = NDArray[np.generic]
Policy = Callable[[VectorEnv, EnvStep, np.random.Generator], Actions]


def at_random(env: VectorEnv, step: EnvStep, rng: np.random.Generator) -> Actions:
    """Returns random actions (E, N, D).

    All environments get the same draws, so that an environment's actions don't depend on how many
    others there are.
    """
    spec = env.spec
    if spec.continuous:
        draws = rng.uniform(-1.5, 1.5, (len(spec.agents), len(spec.branches))).astype(np.float32)
        return np.broadcast_to(draws, (env.num_envs, *draws.shape))
    draws = rng.random(step.available_actions.shape[1:]) * step.available_actions  # (E, N, A)
    ends = np.cumsum(spec.branches)[:-1]
    branches = [part.argmax(-1) for part in np.split(draws, ends, -1)]
    return np.stack(branches, -1).astype(np.int32)


def shoot_first(env: VectorEnv, step: EnvStep, rng: np.random.Generator) -> Actions:
    """Returns actions (E, N, 1) that attack the first enemy in range, else wait."""
    shots = step.available_actions[:, :, STOP + 1 :]
    return np.where(shots.any(-1), STOP + 1 + shots.argmax(-1), STOP).astype(np.int32)[..., None]


def kept(step: EnvStep) -> EnvStep:
    """Returns a copy, since a vector writes over a step two steps later."""
    return EnvStep(**{name: array.copy() for name, array in step._asdict().items()})


def play(env: VectorEnv, count: int, policy: Policy = at_random) -> list[EnvStep]:
    """Plays `count` steps from a reset; the first of the results is the reset's."""
    rng = np.random.default_rng(0)
    steps = [kept(env.reset())]
    for _ in range(count):
        env.send(policy(env, steps[-1], rng))
        steps.append(kept(env.recv()))
    return steps


def assert_equal(one: EnvStep, other: EnvStep) -> None:
    for name, left, right in zip(EnvStep._fields, one, other, strict=True):
        np.testing.assert_array_equal(left, right, err_msg=name)
