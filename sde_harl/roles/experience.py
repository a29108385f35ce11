"""Random play: the transitions that role groups are learnt from.

T time, E environments of all vectors, N agents, O observation, D numbers of an action, A numbers
that describe an action to a net.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Any, NamedTuple

import numpy as np
from numpy.typing import NDArray

from sde_harl.draws.counters import Draw, Purpose
from sde_harl.envs.base import EnvSpec, EnvStep, VectorEnv
from sde_harl.meters.memory import check_fits
from sde_harl.record.progress import progress_range


class Experience(NamedTuple):
    """Transitions of all agents in all environments. One step of one vector has no T."""

    obs: NDArray[np.float32]
    """(T, E, N, O), zero-padded."""
    actions: NDArray[np.float32]
    """(T, E, N, A), one-hot in each branch, or the numbers if continuous."""
    next_obs: NDArray[np.float32]
    """(T, E, N, O), the episode's last observation where it ended."""
    rewards: NDArray[np.float32]
    """(T, E), the team's."""
    active: NDArray[np.bool_]
    """(T, E, N), alive when it decided."""


def play_at_random(envs: Sequence[VectorEnv], steps: int, seed: int) -> Experience:
    """Returns the experience of at least `steps` environment steps, equally many of each vector.

    The vectors are reset at the start. Discrete choices are uniform over the available ones.
    Continuous numbers are drawn from N(0, 1), whatever their bounds: environments clip them, and
    don't say where.
    """
    spec = envs[0].spec
    sizes = [env.num_envs for env in envs]
    firsts = [sum(sizes[:k]) for k in range(len(sizes))]
    agents = np.arange(len(spec.agents), dtype=np.int32)
    draw = Draw(seed=seed, purpose=Purpose.RANDOM_PLAY, step=0, first_environment=0, agents=agents)
    now = [env.reset() for env in envs]
    moments: list[Experience] = []  # (E, ...) each
    count = -(-steps // sum(sizes))
    for at in progress_range(count, "roles: random play"):
        # By the environment's number in the run, so that the vectors' sizes change no action.
        draws = [draw._replace(step=at, first_environment=first) for first in firsts]
        moments.append(_step_all(envs, now, draws))
        if at == 0:
            each_bytes = sum(array.nbytes for array in moments[0])
            check_fits("roles.steps", each_bytes * count, f"{steps:,} steps of random play")
    return _joined(moments, np.stack)


def random_actions(spec: EnvSpec, available: NDArray[np.bool_], draw: Draw) -> NDArray[Any]:
    """Returns actions (E, N, D), int32 or float32, drawn from the `available` ones (E, N, A)."""
    environments, _, numbers = available.shape
    if spec.continuous:
        normal = draw.standard_normal(environments, numbers).swapaxes(0, 1)  # (E, N, D)
        actions: NDArray[np.float32] = normal * available
        return actions
    # Each of K independent uniform numbers is the largest with probability 1/K. Numbers are above
    # 0, and those of what isn't available are made 0.
    numbers_drawn = draw.uniform(environments, numbers).swapaxes(0, 1) * available  # (E, N, A)
    branches = np.split(numbers_drawn, np.cumsum(spec.branches)[:-1], -1)
    chosen: list[NDArray[np.int64]] = [branch.argmax(-1) for branch in branches]
    return np.stack(chosen, -1).astype(np.int32)


def _step_all(envs: Sequence[VectorEnv], now: list[EnvStep], draws: list[Draw]) -> Experience:
    """Plays one step of every vector; updates `now`, and returns the transitions (E, ...)."""
    spec = envs[0].spec
    actions = [random_actions(spec, step.available_actions, draw) for step, draw in zip(now, draws)]
    # Copies, since a vector may write over the arrays that it returned. As floats, since the
    # difference of two unsigned bytes is no change.
    obs = [step.obs.astype(np.float32) for step in now]
    active = [step.active.copy() for step in now]
    # All vectors are stepped before any is waited for, so that they step side by side.
    for env, chosen in zip(envs, actions):
        env.send(chosen)
    now[:] = [env.recv() for env in envs]
    transitions = [
        Experience(
            obs=obs[k],
            actions=_described(spec, actions[k]),
            next_obs=_next_obs(after),
            rewards=after.rewards.copy(),
            # A void episode's last step led to nothing.
            active=active[k] & ~after.void[:, None],
        )
        for k, after in enumerate(now)
    ]
    return _joined(transitions, np.concatenate)


def _next_obs(after: EnvStep) -> NDArray[np.float32]:
    """Returns (E, N, O), what a step led to; `after.obs` is of the next episode where one ended."""
    ended = (after.terminated | after.truncated)[:, None, None]
    next_obs: NDArray[np.float32] = np.where(ended, after.final_obs, after.obs).astype(np.float32)
    return next_obs


def _described(spec: EnvSpec, actions: NDArray[Any]) -> NDArray[np.float32]:
    """Returns actions (E, N, D) as a net sees them, (E, N, A)."""
    if spec.continuous:
        return actions.astype(np.float32)
    one_hot = [
        np.eye(size, dtype=np.float32)[actions[..., d]] for d, size in enumerate(spec.branches)
    ]
    return np.concatenate(one_hot, axis=-1)


def _joined(parts: Sequence[Experience], join: Callable[..., NDArray[Any]]) -> Experience:
    """Returns the experience whose every field is `join` of the parts' fields."""
    return Experience(
        obs=join([part.obs for part in parts]),
        actions=join([part.actions for part in parts]),
        next_obs=join([part.next_obs for part in parts]),
        rewards=join([part.rewards for part in parts]),
        active=join([part.active for part in parts]),
    )
