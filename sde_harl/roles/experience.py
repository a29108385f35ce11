"""What agents do at random: the transitions that role groups are found from.

T time, E environments of all vectors, N agents, O observation, A numbers that describe a choice of action.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import NamedTuple

import numpy as np
from numpy.typing import NDArray

from sde_harl.draws.counters import Draw, Purpose
from sde_harl.envs.base import EnvSpec, EnvStep, VectorEnv
from sde_harl.record.progress import progress_range


class Experience(NamedTuple):
    """Transitions of all agents in all environments."""

    obs: NDArray[np.float32]  # (T, E, N, O), zero-padded
    actions: NDArray[
        np.float32
    ]  # (T, E, N, A), one-hot in each branch, or the numbers if continuous
    next_obs: NDArray[np.float32]  # (T, E, N, O), an ended episode's last where one ended
    rewards: NDArray[np.float32]  # (T, E), the team's
    active: NDArray[np.bool_]  # (T, E, N), alive when deciding


def play_at_random(envs: Sequence[VectorEnv], steps: int, seed: int) -> Experience:
    """`steps` environment steps, rounded up to whole steps of all environments. The vectors are reset at the start.

    Discrete choices are uniform over what is available. Continuous numbers are drawn from N(0, 1), whatever their
    bounds: environments clip them, and say nothing of where.
    """
    spec, now = envs[0].spec, [env.reset() for env in envs]
    sizes = [env.num_envs for env in envs]
    firsts = [sum(sizes[:k]) for k in range(len(sizes))]
    agents = np.arange(len(spec.agents), dtype=np.int32)
    times = -(-steps // sum(sizes))
    moments: list[list[Experience]] = []
    for at in progress_range(times, "roles: random play"):
        actions = [
            random_actions(
                spec,
                step.available_actions,
                Draw(seed, Purpose.RANDOM_PLAY, at, first, agents),
            )
            for step, first in zip(now, firsts)
        ]
        # copies, since a vector may write over what it has shown; of bytes no change could be told
        before = [(step.obs.astype(np.float32), step.active.copy()) for step in now]
        for env, chosen in zip(envs, actions):
            env.send(chosen)
        now = [env.recv() for env in envs]
        moments.append([_moment(spec, *parts) for parts in zip(before, actions, now)])
    columns = zip(*(Experience(*map(np.concatenate, zip(*moment))) for moment in moments))
    return Experience(*(np.stack(column) for column in columns))


def random_actions(
    spec: EnvSpec, available: NDArray[np.bool_], draw: Draw
) -> NDArray[np.int32] | NDArray[np.float32]:
    """(E, N, D) actions of `available` (E, N, A)."""
    environments, _, numbers = available.shape
    if spec.continuous:
        return draw.standard_normal(environments, numbers).swapaxes(0, 1) * available
    draws = draw.uniform(environments, numbers).swapaxes(0, 1) * available
    parts = np.split(draws, np.cumsum(spec.branches)[:-1], -1)
    return np.stack([part.argmax(-1) for part in parts], -1).astype(np.int32)


def _moment(
    spec: EnvSpec,
    before: tuple[NDArray[np.float32], NDArray[np.bool_]],
    actions: NDArray[np.int32] | NDArray[np.float32],
    after: EnvStep,
) -> Experience:
    """One step of one vector: Experience without T."""
    ended = (after.terminated | after.truncated)[:, None, None]
    next_obs = np.where(ended, after.final_obs, after.obs).astype(np.float32)
    return Experience(
        before[0], _described(spec, actions), next_obs, after.rewards.copy(), before[1]
    )


def _described(
    spec: EnvSpec, actions: NDArray[np.int32] | NDArray[np.float32]
) -> NDArray[np.float32]:
    """(E, N, A) what actions (E, N, D) are to a net."""
    if spec.continuous:
        return actions.astype(np.float32)
    return np.concatenate(
        [np.eye(size, dtype=np.float32)[actions[..., d]] for d, size in enumerate(spec.branches)],
        axis=-1,
    )
