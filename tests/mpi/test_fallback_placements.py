"""Placements agree where fallback heads act."""

from __future__ import annotations

import json
from pathlib import Path

import h5py
from launch import PATIENT, launch, needs_mpirun


@needs_mpirun
def test_placements_agree_where_they_act(tmp_path: Path) -> None:
    """Only the emulated link makes latents late, because the deadline is a minute."""
    words = [
        "configs/quick.yaml",
        "env.name=mpe",
        "env.map=simple_spread",
        "policy.fallback_head=true",
        "link.max_age=0",
    ]
    words += [
        "link.deadline_ms=60000",
        "link.model={delay_ms: 60000, jitter_ms: 30000}",
        "record.tensorboard=false",
        PATIENT,
    ]
    words += ["policy.head_gain=1.0", f"record.dir={tmp_path}"]
    local, agents = (launch(ranks, "tests/helpers/agree_program.py", *words) for ranks in (1, 3))
    assert local.code == agents.code == 0, local.err + agents.err
    one, other = (json.loads(ended.out.splitlines()[-1]) for ended in (local, agents))
    assert other["executors"] == 2
    assert one["prints"] == other["prints"]
    for each in (one, other):
        with h5py.File(Path(each["folder"]) / "run.h5") as file:
            assert 0.3 < file["training/link.fallback"][-1] < 0.7
            assert not file["training/link.idle"][:].any()
