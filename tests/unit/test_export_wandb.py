"""sde-harl export --wandb: an offline run that holds the scalars and sends nothing."""

from __future__ import annotations

import json
import socket
import struct
from collections.abc import Iterator
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
import pytest
from analysis_runs import opened_to_change, record
from filled import add_evaluation

from sde_harl.cli.main import main
from sde_harl.record.writer import RunFile

pytest.importorskip("wandb")

CONFIG = """
seed: 3
train: {steps: 200, share: .nan}
codec: {name: entropy, "\\e[31m": "\\e[0m", layers: [1, true, null, 9007199254740993]}
"""
HEADER_BYTES = 7
BLOCK_BYTES = 1 << 15
FIRST = 2
"""The part of a record that begins one that goes on in the next block."""


class Offline(NamedTuple):
    """What an offline run holds."""

    about: Any
    """Its RunRecord."""
    points: list[dict[str, Any]]
    metrics: dict[str, str]
    """The step of each kind of metric."""


def records(content: bytes) -> Iterator[bytes]:
    """Gives the records of a .wandb file, a log of LevelDB's format behind a header."""
    assert content[:4] == b":W&B"
    at = HEADER_BYTES
    whole = b""
    while at < len(content):
        left = BLOCK_BYTES - at % BLOCK_BYTES
        if left < HEADER_BYTES:
            at += left
            continue
        _, length, kind = struct.unpack_from("<IHB", content, at)
        part = content[at + HEADER_BYTES :][:length]
        whole = part if kind <= FIRST else whole + part
        at += HEADER_BYTES + length
        if kind in (1, 4):
            yield whole


def read(folder: Path) -> Offline:
    """Returns the one offline run in a folder."""
    from wandb.proto import wandb_internal_pb2

    (file,) = folder.glob("offline-run-*/run-*.wandb")
    points = []
    metrics = {}
    about = None
    for content in records(file.read_bytes()):
        entry = wandb_internal_pb2.Record.FromString(content)
        kind = entry.WhichOneof("record_type")
        if kind == "run":
            about = entry.run
        elif kind == "history":
            items = [(each.nested_key, each.key, each.value_json) for each in entry.history.item]
            point = {key or "/".join(nested): json.loads(value) for nested, key, value in items}
            points.append({name: each for name, each in point.items() if name[0] != "_"})
        elif kind == "metric":
            metrics[entry.metric.glob_name or entry.metric.name] = entry.metric.step_metric
    return Offline(about=about, points=points, metrics=metrics)


@pytest.fixture
def run(tmp_path: Path) -> Path:
    """Gives the folder of a run with two updates and two evaluations."""
    folder = tmp_path / "3m" / "seed-3"
    folder.mkdir(parents=True)
    meta: dict[str, str | int | float] = {"config": CONFIG, "env": "smax/3m", "algo": "happo"}
    file = RunFile(folder / "run.h5", {**meta, "seed": 3}, "stop")
    file.add("training", step=100, **{"value_loss": 0.5, "share/learn": 0.25, "win_rate": np.nan})
    file.add("training", step=200, value_loss=np.inf, win_rate=0.125)
    for step in (100, 200):
        add_evaluation(file, step, return_mean=step / 10)
    file.close()
    return folder


def test_scalars_and_configuration_are_written_offline(
    run: Path,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
) -> None:
    # What a user has set for training elsewhere.
    monkeypatch.setenv("WANDB_MODE", "online")
    monkeypatch.setenv("WANDB_DIR", str(tmp_path / "elsewhere"))
    out = tmp_path / "offline"
    assert main(["export", str(run), "--wandb", str(out)]) == 0
    (written,) = out.iterdir()
    assert f"wandb sync {written}" in capsys.readouterr().out
    assert not (tmp_path / "elsewhere").exists()
    found = read(out)
    evaluated = {
        "evaluations/bits_per_element": 1.0,
        "evaluations/bytes_per_decision": 5.0,
        "evaluations/episodes": 8.0,
        "evaluations/length_mean": 20.0,
        "evaluations/return_std": 1.0,
        "evaluations/win_rate": 0.5,
    }
    assert found.points == [
        {"step": 100, "training/value_loss": 0.5, "training/share/learn": 0.25},
        {"step": 100, "evaluations/return_mean": 10.0, **evaluated},
        {"step": 200, "training/win_rate": 0.125},
        {"step": 200, "evaluations/return_mean": 20.0, **evaluated},
    ]
    assert found.metrics["training/*"] == found.metrics["evaluations/*"] == "step"
    assert found.about.run_group == "smax/3m/happo/3m"
    assert found.about.display_name == "happo/3m, seed 3"
    told = {each.key: json.loads(each.value_json) for each in found.about.config.update}
    assert told["train"] == {"steps": 200, "share": "nan"}
    assert told["codec"]["layers"] == [1, True, None, "9007199254740993"]
    assert told["codec"]["\\x1b[31m"] == "\\x1b[0m"
    assert told["meta"]["env"] == "smax/3m"


def test_nothing_tells_of_this_machine(run: Path, tmp_path: Path) -> None:
    assert main(["export", str(run), "--wandb", str(tmp_path / "offline")]) == 0
    files = [path for path in (tmp_path / "offline").rglob("*") if path.is_file()]
    # Its address where it lies is no business of whoever it is sent to.
    for secret in (socket.gethostname(), str(tmp_path), "requirements"):
        if len(secret) > 3:
            assert not [path for path in files if secret.encode() in path.read_bytes()], secret


def test_values_that_no_run_has_are_written_as_they_are(run: Path, tmp_path: Path) -> None:
    largest = (1 << 63) - 1
    with opened_to_change(run / "run.h5") as file:
        file["training/step"][:] = largest
        file["training/value_loss"][:] = [1.7e308, -1.7e308]
        file.move("training/win_rate", "training/..\x1b[31m_step")
    assert main(["export", str(run), "--wandb", str(tmp_path / "offline")]) == 0
    first, second = read(tmp_path / "offline").points[-2:]
    assert (first["step"], first["training/value_loss"]) == (largest, 1.7e308)
    assert second["training///\\x1b[31m_step"] == 0.125


@pytest.mark.parametrize(
    ("config", "message"),
    [("[1, 2]", "isn't a configuration"), ("{a: [", "/meta config"), ("", "isn't a configuration")],
)
def test_a_configuration_that_is_none_is_refused(
    run: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str], config: str, message: str
) -> None:
    with opened_to_change(run / "run.h5") as file:
        file["meta"].attrs["config"] = config
    assert main(["export", str(run), "--wandb", str(tmp_path / "offline")]) == 2
    assert message in capsys.readouterr().err
    assert not list(tmp_path.glob("offline*"))


def test_a_run_without_scalars_is_refused(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    path = record(tmp_path / "a" / "b", rows=False)
    assert main(["export", str(path), "--wandb", str(tmp_path / "offline")]) == 2
    assert "--wandb: expected scalars" in capsys.readouterr().err
