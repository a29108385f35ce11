"""Records of known figures, and the programs of analysis/ that read them."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import h5py
import numpy as np
from filled import add

from sde_harl.record.seal import SEAL_BYTES
from sde_harl.record.writer import RunFile

ANALYSIS = Path(__file__).parents[2] / "analysis"
META: dict[str, str | int | float] = {
    "config": "{seed: 3, codec: {rate_coef: 0.001}}",
    "env": "smax/3m",
    "algo": "happo",
    "seed": 3,
    "placement": "agents",
    "executors": 2,
    "hosts": json.dumps([{"host": "server"}, {"host": "edge1"}, {"host": "edge2"}]),
    "latent": 16,
    "obs_sizes": "[10, 30]",
    "agents": '["a", "b"]',
    "codec": "entropy",
    "started": "2026-01-01T00:00:00.000+00:00",
}


@contextmanager
def opened_to_change(path: Path) -> Iterator[h5py.File]:
    """Opens a record to change it, and takes its seal off, as if the run had been killed."""
    with h5py.File(path, "r+") as file:
        yield file
    with path.open("r+b") as unsealed:
        unsealed.write(bytes(SEAL_BYTES))


def record(
    folder: Path, rows: bool = True, win_rate: float = 0.5, **meta: str | int | float
) -> Path:
    """Writes a run of 100 messages of 4 decisions from each of two ranks, with known figures."""
    folder.mkdir(parents=True, exist_ok=True)
    file = RunFile(folder / "run.h5", {**META, **meta}, "stop")
    if rows:
        add_decisions(file)
        for rank, cpu in ((0, 5.0), (1, 1.0), (1, 2.0), (2, 3.0)):
            add(
                file,
                "resources",
                rank=rank,
                step=1,
                time_s=1.0,
                cpu_s=cpu,
                rss_bytes=10**6,
                peak_rss_bytes=10**7 * (rank + 1),
                alone=7 * (rank == 2),
            )
        for step in (100, 200):
            add(
                file,
                "evaluations",
                step=step,
                episodes=8,
                win_rate=win_rate * step / 200,
                return_mean=step / 10,
                return_std=1.0,
                length_mean=20.0,
                bits_per_element=1.0,
                bytes_per_decision=5.0,
            )
    file.close()
    assert file.failed is None
    return folder / "run.h5"


def add_decisions(file: RunFile) -> None:
    """Adds 100 messages of each agent: local net 1..100 us (rank 2's first is unknown), encode 10,
    round trip 500, decode 20, policy 80.
    """
    local = np.arange(1, 101) * 1000
    for agent in (0, 1):
        unknown = local.copy()
        unknown[0] = -1 if agent else 1000
        same = dict.fromkeys(
            ("t_encode", "t_round_trip", "t_decode", "t_policy"), np.zeros(100, np.int64)
        )
        times = {
            name: same[name] + us * 1000 for name, us in zip(same, (10, 500, 20, 80), strict=True)
        }
        full = {
            "agent": agent,
            "rank": agent + 1,
            "environments": 4,
            "payload_bytes": 20 + 20 * agent,
            "wire_bytes": 52 + 20 * agent,
            "version": 1,
            "train": True,
        }
        columns = {name: np.full(100, value) for name, value in full.items()}
        add(
            file,
            "decisions",
            step=np.arange(100),
            ideal_bits=np.full(100, 128.0),
            t_local=unknown,
            **columns,
            **times,
        )


def run(program: str, *arguments: object, code: int = 0) -> subprocess.CompletedProcess[str]:
    """Runs a program of analysis/ from another folder, as a user may."""
    result = subprocess.run(
        [sys.executable, str(ANALYSIS / program), *map(str, arguments)],
        capture_output=True,
        text=True,
        cwd="/",
        env={**os.environ, "COLUMNS": "80"},
    )
    assert result.returncode == code, result.stdout + result.stderr
    return result
