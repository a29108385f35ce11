"""Sessions and settings of executor pools. What a test doesn't name has a small value."""

from __future__ import annotations

from typing import Any

import numpy as np

from sde_harl.link.transport import Transport
from sde_harl.link.wire import Header, Kind
from sde_harl.policy.shapes import (
    LocalShape,
    local_parameter_shapes,
)
from sde_harl.protocol.session import SessionSpec
from sde_harl.server.settings import PoolSettings

SHAPE = LocalShape((5, 5), 5, 8, 4, 1, True)
ROWS = 3


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
    """Returns the settings of two slots of three environments, without a deadline."""
    small: dict[str, Any] = {
        "rows": 3,
        "slots": 2,
        "action_size": 1,
        "continuous": False,
        "assign": {},
        "failure_timeout_s": 5.0,
    }
    return PoolSettings(**{**small, **fields})


def weights() -> list[list[np.ndarray]]:
    rng = np.random.default_rng(0)
    return [
        [rng.normal(size=each[1:]).astype(np.float32) for each in local_parameter_shapes(SHAPE)]
        for _ in range(2)
    ]


def send_latents(far: Transport, **wrong: int) -> None:
    """Sends a LATENTS frame of agent 0 for the decision of slot 0, with some `wrong` fields."""
    right = {"agent": 0, "step": 0, "slot": 0, "environments": ROWS, "version": 1}
    header = Header(kind=Kind.LATENTS, **{**right, **wrong})
    far.send(0, header, np.full((ROWS, 4), 99.0, np.float32).tobytes())
