"""Writes recorded episodes as a data set of Minari (minari.farama.org), for offline learning.

The layout is that of Minari 0.5: data/main_data.hdf5 with a group for each episode, and
data/metadata.json. It is written with h5py alone, because Minari needs numpy 2, and compressai a
numpy below 2. Observations and actions are Dict spaces with a key for each agent; the reward is the
team's.
"""

from __future__ import annotations

import json
import math
import re
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import h5py
import numpy as np

from sde_harl.envs.base import EnvSpec
from sde_harl.envs.specs import MOST_BYTES, from_json
from sde_harl.errors import UserError
from sde_harl.outside.text import read_text
from sde_harl.record.reader import Run
from sde_harl.record.schema import Trajectory
from sde_harl.record.trajectories import checked_copy, write_unlinked

MINARI_VERSION = "0.5.3"
"""The version whose layout is written; later ones read it, too."""
DISCRETE = "int64"
"""Minari knows no other type of choices."""

Space = dict[str, Any]


def write_minari(run: Run, folder: Path) -> int:
    """Writes all recorded episodes into the folder and returns how many there are.

    Raises OSError, and UserError where nothing was recorded, or where an episode isn't what the
    run's spec.json says.
    """
    episodes = run.recorded_episodes()
    if not episodes:
        raise UserError(
            "--minari: expected recorded episodes, got a run without: set"
            f" record.trajectories=eval for the next one ({run.path})"
        )
    spec = _spec_of(run)
    data = folder / "data"
    data.mkdir()
    steps = 0
    # In the order of their making: Minari, too, writes and reads its episodes so.
    with h5py.File(data / "main_data.hdf5", "w", track_order=True) as file:
        for number in range(episodes):
            trajectory = _fitting(run, number, spec)
            file[f"episode_{number}"] = write_unlinked(file, number, trajectory)
            steps += len(trajectory.rewards)
    about = _metadata(run, spec, episodes=episodes, steps=steps)
    (data / "metadata.json").write_text(json.dumps(about, indent=1), encoding="utf-8")
    return episodes


def _spec_of(run: Run) -> EnvSpec:
    path = run.path.with_name("spec.json")
    try:
        return from_json(read_text(path, MOST_BYTES))
    except OSError as error:
        raise UserError(f"--minari: {path}: can't be read: {error.strerror}") from error
    except ValueError as error:
        raise UserError(f"--minari: {path}: not a run's spec.json: {error}") from error


def _fitting(run: Run, number: int, spec: EnvSpec) -> Trajectory:
    """Returns an episode whose arrays have the types and shapes of the data set's spaces."""
    trajectory = run.trajectory(number)
    where = f"--minari: {run.path}: /trajectories/episode_{number}"
    if not set(spec.agents) == set(trajectory.observations) == set(trajectory.actions):
        raise UserError(f"{where}: its agents aren't those of spec.json")
    discrete = trajectory.actions
    if not spec.continuous:
        discrete = {agent: each.astype(DISCRETE) for agent, each in trajectory.actions.items()}
    for i, agent in enumerate(spec.agents):
        seen = trajectory.observations[agent]
        shape = () if _is_one_choice(spec, i) else (_numbers(spec, i),)
        is_right = seen.shape[1:] == (spec.obs_sizes[i],) and seen.dtype == spec.obs_dtype
        if not is_right or discrete[agent].shape[1:] != shape:
            raise UserError(f"{where}: {agent}'s arrays aren't of the sizes of spec.json")
    try:
        return checked_copy(trajectory._replace(actions=discrete))
    except ValueError as error:
        raise UserError(f"{where}: {error}") from error


def _is_one_choice(spec: EnvSpec, agent: int) -> bool:
    return not spec.continuous and len(spec.action_sizes[agent]) == 1


def _numbers(spec: EnvSpec, agent: int) -> int:
    """Returns how many numbers an agent's action has."""
    if spec.continuous:
        return spec.action_sizes[agent][0]
    return len(spec.action_sizes[agent])


def _metadata(run: Run, spec: EnvSpec, *, episodes: int, steps: int) -> dict[str, Any]:
    agents = range(len(spec.agents))
    # A name of Minari's may have letters, digits, - and _ alone.
    names = [re.sub(r"[^\w-]", "-", each) for each in (*spec.name.split("/"), run.algo)]
    return {
        "dataset_id": f"sde_harl/{'/'.join(names)}-v0",
        "minari_version": MINARI_VERSION,
        "data_format": "hdf5",
        "total_episodes": episodes,
        "total_steps": steps,
        "observation_space": _dict_space(spec, [_observation_space(spec, i) for i in agents]),
        "action_space": _dict_space(spec, [_action_space(spec, i) for i in agents]),
        "algorithm_name": run.algo,
        "description": f"Greedy episodes of {run.algo} in {spec.name}, seed {run.seed}, sde_harl.",
    }


def _dict_space(spec: EnvSpec, spaces: Sequence[Space]) -> str:
    # Minari reads a space from a text within the JSON, where its bounds may be Infinity.
    return json.dumps({"type": "Dict", "subspaces": dict(zip(spec.agents, spaces, strict=True))})


def _observation_space(spec: EnvSpec, agent: int) -> Space:
    size = spec.obs_sizes[agent]
    # Images lie flat, as everywhere in a record: as images, Minari would take them for JPEG.
    low = [-math.inf] * size
    high = [math.inf] * size
    if spec.obs_dtype == "uint8":
        low = [0] * size
        high = [255] * size
    return _box(spec.obs_dtype, low, high)


def _action_space(spec: EnvSpec, agent: int) -> Space:
    sizes = spec.action_sizes[agent]
    if _is_one_choice(spec, agent):
        return {"type": "Discrete", "dtype": DISCRETE, "start": 0, "n": sizes[0]}
    if not spec.continuous:
        start = [0] * len(sizes)
        return {"type": "MultiDiscrete", "dtype": DISCRETE, "nvec": list(sizes), "start": start}
    bounds = np.full((sizes[0], 2), (-math.inf, math.inf))
    if spec.action_bounds:
        bounds = np.array(spec.action_bounds[agent])
    return _box("float32", bounds[:, 0].tolist(), bounds[:, 1].tolist())


def _box(dtype: str, low: Sequence[float], high: Sequence[float]) -> Space:
    return {
        "type": "Box",
        "dtype": dtype,
        "shape": [len(low)],
        "low": low,
        "high": high,
    }
