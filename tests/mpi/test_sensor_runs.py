"""Runs on several ranks whose executors sense for themselves."""

from __future__ import annotations

from pathlib import Path

import h5py
import numpy as np
import pytest
from launch import launch, needs_mpirun
from small_runs import acting

from sde_harl.examples import replay

split = pytest.mark.parametrize("trained", [[]], ids=["split"], indirect=True)


@needs_mpirun
@split
def test_a_replay_on_other_ranks(
    trained: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    file, sensor = tmp_path / "episode.npz", "sde_harl.examples.replay:Replay"
    replay.main(str(trained / "run.h5"), "0", str(file))
    monkeypatch.setenv(replay.FILE, str(file))
    words = acting(trained, tmp_path, sensor, "placement.mode=agents")
    ended = launch(3, "-m", "sde_harl.run", *words)
    assert ended.code == 0, ended.err
    assert sum("25 of 25 decisions as recorded" in line for line in ended.out.splitlines()) == 3, (
        ended.out
    )


@needs_mpirun
@split
def test_a_run_ends_without_a_worn_sensor(
    trained: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The sensor of agent 1, on rank 2, gives ten readings.

    The last latents stand for eight more decisions.
    """
    file, sensor = tmp_path / "episode.npz", "sde_harl.examples.replay:Replay"
    replay.main(str(trained / "run.h5"), "0", str(file))
    with np.load(file) as arrays:
        np.savez(
            file,
            **{name: array[:10] if name == "seen_1" else array for name, array in arrays.items()},
        )
    monkeypatch.setenv(replay.FILE, str(file))
    fault = [
        "link.on_fault=fallback",
        "link.deadline_ms=3600000",
        "link.max_age=8",
        "placement.mode=agents",
    ]
    ended = launch(3, "-m", "sde_harl.run", *acting(trained, tmp_path, sensor, *fault))
    assert ended.code == 3, ended.err
    assert "without executors 2" in ended.err, ended.err
    assert "executor 2 (" in ended.err
    assert "lost: executor.sensor: sde_harl.examples.replay:Replay: read() of agent 1" in ended.err
    assert {"agent 0: 25 of 25", "agent 1: 10 of 10"} <= {
        line[:17] for line in ended.out.splitlines()
    }, ended.out
    with h5py.File(max(tmp_path.rglob("run.h5"))) as written:
        assert written["faults"]["kind"][:].tolist() == [b"lost"]
        assert written["decisions"]["idle"][:].reshape(-1, 3).sum(0).tolist() == [0, 26 - 10 - 8, 0]


@needs_mpirun
@split
def test_a_configuration_file_alone_makes_no_executor_import(trained: Path, tmp_path: Path) -> None:
    config = tmp_path / "devices.yaml"
    written = (trained / "config.yaml").read_text()
    config.write_text(written.replace("sensor: none", 'sensor: "sde_harl.examples.replay:Replay"'))
    words = acting(trained, tmp_path, "")[1:]
    words = [word for word in words if not word.startswith("executor.sensor")]
    # Even where rank 0 may run the file's code, executors take none but their own command line's.
    words = [str(config), "--trust", *words, "placement.mode=agents"]
    ended = launch(2, "-m", "sde_harl.run", *words)
    lines = [line for line in ended.err.splitlines() if line.startswith("error: ")]
    assert ended.code == 2, ended.err
    assert len(lines) == 1, ended.err
    assert "Traceback" not in ended.err, ended.err
    assert "executor 1 (" in lines[0]
    assert "executor.sensor: expected one" in lines[0]
