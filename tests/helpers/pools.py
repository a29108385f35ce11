"""Sessions and settings of executor pools for tests: everything that a test doesn't name has a small value."""

from __future__ import annotations

from typing import Any

from sde_harl.policy.shapes import LocalShape
from sde_harl.protocol.session import SessionSpec
from sde_harl.server.settings import PoolSettings


def session_of(shape: LocalShape, **fields: Any) -> SessionSpec:
    """Describes all agents of `shape`, whose latents travel as float32."""
    small: dict[str, Any] = {
        "run_id": 0,
        "agents": tuple(range(len(shape.obs_sizes))),
        "codec": "float32",
        "pack": 0,
        "frame_bytes": 0,
        "on_device": None,
        "idle_s": 0.0,
    }
    return SessionSpec(**{**small, "shape": shape, **fields})


def settings_of(**fields: Any) -> PoolSettings:
    """Two slots of three environments, without a deadline."""
    small: dict[str, Any] = {
        "rows": 3,
        "slots": 2,
        "action_size": 1,
        "continuous": False,
        "assign": {},
        "failure_timeout_s": 5.0,
    }
    return PoolSettings(**{**small, **fields})
