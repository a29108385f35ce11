"""Records of runs whose policies are split, of known figures."""

from __future__ import annotations

import json
import math
from pathlib import Path
from typing import Any

import numpy as np
from filled import add

from sde_harl.config.layers import to_yaml
from sde_harl.config.schema import CodecConfig, Config, PolicyConfig, TrainConfig
from sde_harl.record.writer import RunFile

US = 1000  # ns
MESSAGES = 100
ROWS = 4
EDGES = (
    {"host": "edge1", "pid": 7, "energy": "PMIC"},
    {"host": "edge2", "pid": 7, "energy": "PMIC"},
)
SAME = {"host": "server", "pid": 1}


def record(
    folder: Path,
    local_blocks: int,
    codec: str = "entropy",
    seed: int = 1,
    steps: int = 512,
    joules: float = 2.0,
    devices: tuple[dict[str, Any], ...] = EDGES,
) -> Path:
    """Writes a run of two agents on two ranks.

    Times are: local net 10 us a block, coding 5, round trip 500, decoding 20, policy 80. In the
    second half of the messages (version 2), each executor uses 0.2 s of its processor (1.5 before),
    and its host uses `joules`.
    """
    folder.mkdir(parents=True)
    whole = codec == "none"
    policy, coder = PolicyConfig(blocks=3, local_blocks=local_blocks), CodecConfig(name=codec)
    config = Config(policy=policy, codec=coder, train=TrainConfig(steps=steps), seed=seed)
    meta: dict[str, str | int | float] = {
        "config": to_yaml(config),
        "env": "smax/3m",
        "algo": "happo",
        "seed": seed,
        "codec": codec,
        "latent": 16,
        "hosts": json.dumps([SAME, *devices]),
        "obs_sizes": "[10, 30]",
        "agents": '["a", "b"]',
    }
    file = RunFile(folder / "run.h5", meta, "stop")
    times = {
        "t_local": 10 * local_blocks,
        "t_encode": 0 if whole else 5,
        "t_round_trip": 0 if whole else 500,
        "t_decode": 20,
        "t_policy": 0 if whole else 80,
    }
    for agent in (0, 1):
        for version in (1, 2):
            columns = {
                "agent": agent,
                "rank": agent + 1,
                "environments": ROWS,
                "payload_bytes": 24 + 8 * agent,
                "wire_bytes": 56 + 8 * agent,
                "ideal_bits": 100.0,
                "version": version,
                "train": True,
                "step": version,
            }
            columns |= {name: us * US for name, us in times.items()}
            add(
                file,
                "decisions",
                **{name: np.full(MESSAGES // 2, value) for name, value in columns.items()},
            )
    for rank in (0, 1, 2):
        for step, cpu, used in ((2, 1.5, 5.0), (3, 1.7, 5.0 + joules)):
            add(
                file,
                "resources",
                rank=rank,
                step=step,
                time_s=1.0,
                cpu_s=cpu * (rank > 0),
                rss_bytes=1,
                joules=used,
                peak_rss_bytes=1,
                gpu_joules=math.nan,
                idle_w=math.nan,
                gpu_idle_w=math.nan,
            )
    if steps:
        file.add("training", step=steps, loss=1.0)
    add(
        file,
        "evaluations",
        step=steps,
        episodes=8,
        win_rate=0.25 * seed,
        return_mean=float(seed),
        return_std=1.0,
        length_mean=20.0,
        bits_per_element=1.0,
        bytes_per_decision=5.0,
    )
    file.close()
    return folder / "run.h5"
