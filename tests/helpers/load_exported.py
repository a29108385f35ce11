"""Loads what test_export.py has exported, in an environment of Minari and marl-eval.

python load_exported.py FOLDER
"""

from __future__ import annotations

import json
import sys
from pathlib import Path

import minari
import numpy as np
from marl_eval.utils.data_processing_utils import (
    create_matrices_for_rliable,
    data_process_pipeline,
)
from marl_eval.utils.diagnose_data_errors import DiagnoseData


def load_minari(folder: Path) -> None:
    data = minari.MinariDataset(str(folder / "data"))
    episodes = list(data.iterate_episodes())
    assert len(episodes) == data.total_episodes > 0
    assert sum(len(each) for each in episodes) == data.total_steps
    for episode in episodes:
        for kind, space in (
            (episode.observations, data.observation_space),
            (episode.actions, data.action_space),
        ):
            steps = len(next(iter(kind.values())))
            for k in range(steps):
                row = {name: values[k] for name, values in kind.items()}
                row = {name: np.asarray(value) for name, value in row.items()}
                assert space.contains(row), (row, space)
        assert len(next(iter(episode.observations.values()))) == len(episode.rewards) + 1
    assert len(data.sample_episodes(1)) == 1


def load_marl_eval(path: Path) -> None:
    raw = json.loads(path.read_text())
    (env,) = raw
    assert DiagnoseData(raw).check_data()
    processed = data_process_pipeline(raw_data=raw, metrics_to_normalize=["return"])
    scores, _ = create_matrices_for_rliable(
        data_dictionary=processed, environment_name=env, metrics_to_normalize=["return"]
    )
    (algorithms,) = [list(each) for name, each in scores.items() if name == "mean_norm_return"]
    assert len(algorithms) == 1


if __name__ == "__main__":
    base = Path(sys.argv[1])
    for name in ("trained", "odd"):
        load_minari(base / name)
    load_marl_eval(base / "all.json")
    print("all loaded")
