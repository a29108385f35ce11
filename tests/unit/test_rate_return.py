"""analysis/rate_return.py, run as a user runs it, on files that RunFile wrote."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from analysis_runs import META, opened_to_change, run

from sde_harl.record.schema import TABLES
from sde_harl.record.writer import RunFile


def rows(table: str, count: int, **known: float) -> dict[str, Any]:
    """Returns `count` equal rows of a table, 0 where nothing is known."""
    return {
        name: np.full(count, known.get(name, 0)).astype(each.dtype)
        for name, each in TABLES[table].items()
    }


def rated(
    folder: Path,
    win_rate: float,
    codec: str = "entropy",
    size: int = 40,
    seed: int = 1,
    **keys: object,
) -> Path:
    """Writes a run whose last evaluation sent messages of 4 decisions and `size` bytes.

    By the entropy model, if it has one, they have 300 bits.
    """
    folder = folder / f"{codec}-{size}-{seed}-{'-'.join(keys)}"
    folder.mkdir(parents=True)
    config = json.dumps({"codec": {"name": codec, "rate_coef": 0.01, **keys}})
    file = RunFile(
        folder / "run.h5", {**META, "config": config, "codec": codec, "seed": seed}, "stop"
    )
    sent = {"environments": 4, "ideal_bits": 300.0 if codec == "entropy" else -1.0}
    file.add("decisions", **rows("decisions", 10, train=True, payload_bytes=9, step=50, **sent))
    for step, more in ((100, 99), (200, 0)):
        file.add(
            "decisions", **rows("decisions", 10, step=step // 2, payload_bytes=size + more, **sent)
        )
        file.add("evaluations", **rows("evaluations", 1, step=step, win_rate=win_rate * step / 200))
    file.close()
    return folder / "run.h5"


def test_rate_and_return_of_codecs_and_settings(tmp_path: Path) -> None:
    paths = [
        rated(tmp_path, 0.5),
        rated(tmp_path, 1.0, size=80, seed=2),
        rated(tmp_path, 0.75, size=48, target_bytes=12.0, rate_warmup=0.25, share_tables=True),
        rated(tmp_path, 0.8, codec="float32", size=256),
    ]
    text = run("rate_return.py", *paths, "--plot", tmp_path / "p.png").stdout
    assert (tmp_path / "p.png").read_bytes().startswith(b"\x89PNG")
    assert "smax/3m, win rate" in text
    assert max(map(len, text.splitlines())) <= 150
    steered, fixed, plain = json.loads(run("rate_return.py", *paths, "--json").stdout)
    assert (fixed["codec"], fixed["seeds"], fixed["latent"]) == (
        "entropy, lambda 0.01, scale 4",
        ["1", "2"],
        16,
    )
    assert fixed["score"] == {"mean": 0.75, "low": 0.5, "high": 1.0}
    assert fixed["bytes"] == {"mean": 15.0, "low": 10.0, "high": 20.0}
    assert fixed["bits"]["mean"] == 120.0
    assert fixed["per_element"]["mean"] == 300 / 4 / 16
    assert fixed["sent_to_model"]["low"] == pytest.approx(320 / 300)
    assert steered["codec"] == "entropy, 12 bytes, scale 4, warm-up 0.25, shared tables"
    assert steered["bytes"]["mean"] == 12.0
    assert (plain["codec"], plain["bytes"]["mean"], plain["per_element"]["mean"]) == (
        "float32",
        64.0,
        None,
    )


def test_algorithms_are_points_of_their_own(tmp_path: Path) -> None:
    paths = [rated(tmp_path, 0.5), rated(tmp_path, 1.0, seed=2)]
    with opened_to_change(paths[1]) as file:
        file["meta"].attrs["algo"] = "mappo"
    happo, mappo = json.loads(run("rate_return.py", *paths, "--json").stdout)
    assert happo["codec"] == "entropy, lambda 0.01, scale 4, algo happo"
    assert mappo["codec"] == "entropy, lambda 0.01, scale 4, algo mappo"
    assert (happo["seeds"], mappo["seeds"]) == (["1"], ["2"])
    # No other run has this lambda; still it is no point of HAPPO's curve.
    paths[1] = rated(tmp_path, 1.0, seed=3, rate_coef=0.02)
    with opened_to_change(paths[1]) as file:
        file["meta"].attrs["algo"] = "mappo"
    rows_of_both = json.loads(run("rate_return.py", *paths, "--json").stdout)
    assert {(row["codec"], row["unlike"]) for row in rows_of_both} == {
        ("entropy, lambda 0.01, scale 4, algo happo", "algo happo"),
        ("entropy, lambda 0.02, scale 4, algo mappo", "algo mappo"),
    }


def test_runs_whose_latents_are_not_known_are_no_points(tmp_path: Path) -> None:
    path = rated(tmp_path, 0.5, codec="none")
    text = run("rate_return.py", path).stdout
    assert text == f"{path}: its last evaluation's latents weren't recorded: left out\n"
    broken = rated(tmp_path, 0.5, rate_coef="much")
    assert "doesn't tell codec.rate_coef" in run("rate_return.py", broken, code=2).stderr
