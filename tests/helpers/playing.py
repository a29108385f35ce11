"""Playing vectors of environments: what the tests of environments share."""

from __future__ import annotations

from collections.abc import Callable

import numpy as np
from numpy.typing import NDArray

from sde_harl.envs.base import EnvStep, VectorEnv

STOP = 4  # SMAX's action "stop"; 0 to 3 move, the rest attack
Actions = NDArray[np.generic]
Policy = Callable[[VectorEnv, EnvStep, np.random.Generator], Actions]


def at_random(env: VectorEnv, step: EnvStep, rng: np.random.Generator) -> Actions:
    """(E, N, D) actions, each environment's drawn alike whatever the others do."""
    spec = env.spec
    if spec.continuous:
        draws = rng.uniform(-1.5, 1.5, (len(spec.agents), len(spec.branches))).astype(np.float32)
        return np.broadcast_to(draws, (env.num_envs, *draws.shape))
    draws = rng.random(step.available_actions.shape[1:]) * step.available_actions  # (E, N, A)
    ends = np.cumsum(spec.branches)[:-1]
    branches = [part.argmax(-1) for part in np.split(draws, ends, -1)]
    return np.stack(branches, -1).astype(np.int32)


def shoot_first(env: VectorEnv, step: EnvStep, rng: np.random.Generator) -> Actions:
    """(E, N, 1) actions that attack the first enemy in range, else wait."""
    shots = step.available_actions[:, :, STOP + 1 :]
    return np.where(shots.any(-1), STOP + 1 + shots.argmax(-1), STOP).astype(np.int32)[..., None]


def kept(step: EnvStep) -> EnvStep:
    """A copy, since a vector may write over a Step two steps later."""
    return EnvStep(*(array.copy() for array in step))


def play(env: VectorEnv, count: int, policy: Policy = at_random) -> list[EnvStep]:
    """`count` steps from a reset; the first Step is the reset's."""
    rng = np.random.default_rng(0)
    steps = [kept(env.reset())]
    for _ in range(count):
        env.send(policy(env, steps[-1], rng))
        steps.append(kept(env.recv()))
    return steps


def assert_equal(one: EnvStep, other: EnvStep) -> None:
    for name, left, right in zip(EnvStep._fields, one, other, strict=True):
        np.testing.assert_array_equal(left, right, err_msg=name)
