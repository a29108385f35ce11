"""Checks the numbers of a step where they arrive from the environments.

One number that isn't finite would make all weights so in one update. All vectors call this, so it
holds for games in this process, in worker processes and in compiled steps.
"""

from __future__ import annotations

import math
from typing import Any

import numpy as np
from numpy.typing import NDArray

from sde_harl.envs.base import EnvSpec, EnvStep
from sde_harl.errors import UserError

NAMES = {
    "obs": "observation",
    "final_obs": "observation",
    "state": "state",
    "final_state": "state",
    "rewards": "reward",
}
"""Fields of an EnvStep that are looked at, and what an error line calls them."""


def check_finite(step: EnvStep, spec: EnvSpec, *, first_env: int, has_rewards: bool = True) -> None:
    """Raises UserError for a number that is not finite, naming environment and agent.

    `first_env` is the number of the vector's first environment in the run.
    """
    if not (
        is_finite(step.obs)
        and is_finite(step.final_obs)
        and is_finite(step.state)
        and is_finite(step.final_state)
        and (is_finite(step.rewards) or not has_rewards)
    ):
        raise _error(step, spec, first_env=first_env)


def is_finite(array: NDArray[Any]) -> bool:
    """Returns whether all numbers of an array are finite."""
    if array.dtype.kind != "f":
        return True
    # The sum of squares is one fast pass, of 1 us for a small step and 3 us for SMAX's 3s5z. Large
    # numbers may overflow in it although they are finite themselves.
    return math.isfinite(np.vdot(array, array)) or bool(np.isfinite(array).all())


def _error(step: EnvStep, spec: EnvSpec, *, first_env: int) -> UserError:
    name = next(name for name in NAMES if not is_finite(getattr(step, name)))
    array = getattr(step, name)
    e, *rest = np.argwhere(~np.isfinite(array))[0].tolist()
    whose = ""
    if NAMES[name] == "observation":
        whose = f" of agent {spec.agents[rest[0]]}"
    return UserError(
        f"env.name: expected finite numbers (float32) in the {NAMES[name]}{whose},"
        f" got {array[(e, *rest)]} ({spec.name}, environment {first_env + e})"
    )
