"""Writes the record of a run of millions of steps, with figures that follow simple rules.

python tests/helpers/long_run.py FOLDER [STEPS]
"""

from __future__ import annotations

import json
import sys
from pathlib import Path

import numpy as np
from filled import add, add_symbols

from sde_harl.config.layers import to_yaml
from sde_harl.config.schema import Config
from sde_harl.record.writer import RunFile

AGENTS = 8
ROWS = 32
"""Decisions of a message."""


def long_run(folder: Path, steps: int = 5_000_000, **meta: str | int) -> Path:
    """Writes run.h5 of `steps` environment steps on nine ranks, and returns its path."""
    folder.mkdir(parents=True, exist_ok=True)
    hosts = [{"host": "server", "arch": "x86_64", "energy": "not measurable here: no sensor"}]
    hosts += [{"host": f"edge{k}", "arch": "aarch64", "energy": "none"} for k in range(AGENTS)]
    about = {
        "config": to_yaml(Config()),
        "env": "smax/3s5z",
        "algo": "happo",
        "seed": 1,
        "placement": "agents",
        "executors": AGENTS,
        "hosts": json.dumps(hosts),
        "latent": 32,
        "codec": "entropy",
        "obs_sizes": json.dumps([205] * AGENTS),
        "agents": json.dumps([f"ally_{k}" for k in range(AGENTS)]),
        "unit_types": json.dumps(["stalker"] * 3 + ["zealot"] * 5),
        "groups": "[[0, 1, 2], [3, 4, 5, 6, 7]]",
        "roles_source": "learnt",
        "versions": json.dumps({"python": "3.11", "numpy": "1.26"}),
        "git_revision": "0123456789ab",
        "started": "2026-01-01T00:00:00.000+00:00",
    }
    file = RunFile(folder / "run.h5", {**about, **meta}, "stop")
    random = np.random.default_rng(int(meta.get("seed", 1)))
    updates = np.arange(0, steps, 8192)
    for start in np.array_split(updates, min(50, len(updates))):
        _add_decisions(file, random, first=int(start[0]), count=len(start) * 8192 // ROWS)
    for step in updates:
        share = step / steps
        file.add("training", step=step, win_rate=share, steps_per_s=3000.0)
        add(
            file,
            "resources",
            rank=np.arange(AGENTS + 1),
            step=step,
            time_s=step / 3000,
            cpu_s=step / 3000 * np.r_[0.9, np.full(AGENTS, 0.1)],
            rss_bytes=10**8,
            peak_rss_bytes=10**8,
        )
    for step in range(steps // 20, steps + 1, steps // 20):
        won = 1 - np.exp(-3 * step / steps) + random.normal(0, 0.01)
        add(file, "evaluations", step=step, episodes=128, win_rate=won, return_mean=10 * won)
        add_symbols(file, step, AGENTS)
    add(file, "faults", step=100, rank=[1, 1, 2], agent=[0, 0, -1], kind=["size", "size", "absent"])
    file.close()
    assert file.failed is None
    return folder / "run.h5"


def _add_decisions(file: RunFile, random: np.random.Generator, *, first: int, count: int) -> None:
    rows = count * AGENTS
    bits = random.gamma(60, 1.0, rows) * ROWS
    times = {
        name: random.gamma(4, scale * 250, rows).astype(np.int64)
        for name, scale in (
            ("t_local", 80),
            ("t_encode", 10),
            ("t_round_trip", 2200),
            ("t_decode", 11),
            ("t_policy", 300),
        )
    }
    add(
        file,
        "decisions",
        step=np.repeat(first + ROWS * np.arange(count), AGENTS),
        agent=np.tile(np.arange(AGENTS), count),
        rank=np.tile(1 + np.arange(AGENTS), count),
        environments=ROWS,
        payload_bytes=np.ceil(bits / 8).astype(np.int64) + 4,
        wire_bytes=np.ceil(bits / 8).astype(np.int64) + 36,
        ideal_bits=bits,
        train=True,
        latent_age=0.0,
        **times,
    )


if __name__ == "__main__":
    long_run(Path(sys.argv[1]), *map(int, sys.argv[2:]))
