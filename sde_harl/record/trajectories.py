"""Recorded episodes: checked when they are given, and written as groups in Minari's layout."""

from __future__ import annotations

from collections.abc import Iterator

import h5py
import numpy as np

from sde_harl.record.schema import Array, Trajectory


def checked_copy(trajectory: Trajectory) -> Trajectory:
    """Returns a copy that the caller's later writes don't change.

    Raises ValueError for uneven lengths, and for an agent whose name has a slash.
    """
    _check(trajectory)
    return trajectory._replace(
        observations={agent: np.array(each) for agent, each in trajectory.observations.items()},
        actions={agent: np.array(each) for agent, each in trajectory.actions.items()},
        rewards=np.array(trajectory.rewards),
        terminations=np.array(trajectory.terminations),
        truncations=np.array(trajectory.truncations),
    )


def _check(trajectory: Trajectory) -> None:
    # HDF5 would make a group `a` that holds `b` from the name a/b.
    if any("/" in agent for agent in (*trajectory.observations, *trajectory.actions)):
        raise ValueError("a slash in an agent's name")
    steps = len(trajectory.rewards)
    lengths = {len(each) for each in _arrays_over_steps(trajectory)}
    # One observation more than actions: the one that the episode ended with.
    observation_lengths = {len(each) for each in trajectory.observations.values()}
    if not lengths <= {steps} or not observation_lengths <= {steps + 1}:
        raise ValueError(
            f"a trajectory of {steps} rewards needs as many actions and one observation more"
        )


def _arrays_over_steps(trajectory: Trajectory) -> Iterator[Array]:
    yield from trajectory.actions.values()
    yield trajectory.terminations
    yield trajectory.truncations


def write_unlinked(file: h5py.File, number: int, trajectory: Trajectory) -> h5py.Group:
    """Writes an episode into a group that no other group names yet, and returns it."""
    group = file.create_group(None)  # None: HDF5 makes it without a name
    group.attrs["id"] = number
    group.attrs["seed"] = trajectory.seed
    group.attrs["total_steps"] = len(trajectory.rewards)
    for name in ("observations", "actions"):
        agents = group.create_group(name)
        for agent, values in getattr(trajectory, name).items():
            agents.create_dataset(agent, data=values)
    for name in ("rewards", "terminations", "truncations"):
        group.create_dataset(name, data=getattr(trajectory, name))
    group.create_group("infos")  # Minari expects it, even if it is empty
    return group
