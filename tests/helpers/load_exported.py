"""Loads what was exported, in an environment that has the format's own library and not ours.

python load_exported.py KIND PATH
"""

from __future__ import annotations

import importlib.util
import json
import sys
from pathlib import Path

import numpy as np


def load_minari(folder: Path) -> None:
    import minari

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
    from marl_eval.utils.data_processing_utils import (
        create_matrices_for_rliable,
        data_process_pipeline,
    )
    from marl_eval.utils.diagnose_data_errors import DiagnoseData

    raw = json.loads(path.read_text())
    (env,) = raw
    assert DiagnoseData(raw).check_data()
    processed = data_process_pipeline(raw_data=raw, metrics_to_normalize=["return"])
    scores, _ = create_matrices_for_rliable(
        data_dictionary=processed, environment_name=env, metrics_to_normalize=["return"]
    )
    (algorithms,) = [list(each) for name, each in scores.items() if name == "mean_norm_return"]
    assert len(algorithms) == 1


def load_onnx(folder: Path) -> None:
    """Computes expected.npz's outputs from its inputs, by the networks beside it."""
    import onnxruntime

    about = json.loads((folder / "networks.json").read_text())
    expected = np.load(folder / "expected.npz")

    def run(file: str, given: dict[str, np.ndarray]) -> list[np.ndarray]:
        session = onnxruntime.InferenceSession(
            str(folder / file), providers=["CPUExecutionProvider"]
        )
        outputs: list[np.ndarray] = session.run(None, given)
        return outputs

    sizes = zip(about["local"], about["observation_sizes"], about["latent_sizes"], strict=True)
    for agent, (file, seen, latent) in enumerate(sizes):
        (got,) = run(file, {"observation": expected["obs"][agent, :, :seen]})
        wanted = expected["latents"][agent, :, :latent]
        np.testing.assert_allclose(got, wanted, rtol=1e-4, atol=1e-5)
    given = {"latents": expected["received"], "memory": expected["memory"]}
    outputs, memory_after = run(about["server"], given)
    np.testing.assert_allclose(outputs, expected["outputs"], rtol=1e-4, atol=1e-4)
    np.testing.assert_allclose(memory_after, expected["memory_after"], rtol=1e-4, atol=1e-5)


def load_h5py(path: Path) -> None:
    """Reads all of a record as docs/record.md says it can be."""
    import h5py

    with h5py.File(path) as file:
        assert file["meta"].attrs["schema"] == 1
        assert file["meta"].attrs["env"].startswith("pettingzoo/")
        filled = []
        for name, table in file.items():
            if name in ("meta", "trajectories") or not len(table):
                continue
            lengths = {len(column[:]) for column in table.values()}
            assert len(lengths) == 1, name
            if lengths != {0}:
                filled.append(name)
            for column in table.values():
                assert column.attrs["unit"]
                assert column.attrs["description"]
        assert {"decisions", "episodes", "evaluations", "resources", "training"} <= set(filled)
        episode = file["trajectories/episode_0"]
        steps = len(episode["rewards"])
        assert all(len(seen) == steps + 1 for seen in episode["observations"].values())


KINDS = {"minari": load_minari, "marl_eval": load_marl_eval, "onnx": load_onnx, "h5py": load_h5py}

if __name__ == "__main__":
    assert importlib.util.find_spec("sde_harl") is None
    kind, what = sys.argv[1:]
    KINDS[kind](Path(what))
    print(f"{kind}: loaded")
