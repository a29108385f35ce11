"""What the server tells an executor to be, once, before anything else."""

from __future__ import annotations

import json
from typing import Any, NamedTuple

from sde_harl.executor.sensors import Actions
from sde_harl.link.wire import WireError, parse_json
from sde_harl.policy.shapes import ConvShape, FallbackShape, LocalShape, OnDeviceShape


class SessionSpec(NamedTuple):
    """Travels as JSON."""

    run_id: int
    agents: tuple[int, ...]
    shape: LocalShape
    """Of these agents."""
    codec: str
    pack: int
    frame_bytes: int
    """The largest frame that the server sends."""
    whole: OnDeviceShape | None
    """Of policies that run on the device from end to end; None where they are split."""
    idle_s: float
    """Pause in which the idle power is measured."""
    actions: Actions | None = None
    """Of agents that sense for themselves; None where the server sends their observations."""
    torch_device: str = ""
    """Where torch computes the local nets, cpu or cuda; "" where numpy does."""
    fallback_head: FallbackShape | None = None
    """Of what the agents do without the server; None where they do nothing."""

    def to_json(self) -> bytes:
        conv = self.shape.conv and self.shape.conv._asdict()
        nested = {name: getattr(self, name) for name in NESTED}
        optional = {name: each and each._asdict() for name, each in nested.items()}
        return json.dumps(
            {**self._asdict(), "shape": {**self.shape._asdict(), "conv": conv}, **optional}
        ).encode()

    @classmethod
    def from_json(cls, payload: memoryview) -> SessionSpec:
        fields = parse_json(payload)
        if set(fields) != set(cls._fields):
            raise WireError("welcome")
        optional = {
            name: fields[name] and _nested(kind, fields[name]) for name, kind in NESTED.items()
        }
        shape = _nested(LocalShape, fields["shape"])
        if shape.conv is not None:
            shape = shape._replace(conv=_nested(ConvShape, shape.conv))
        return cls(**{**_tuples(fields), "shape": shape, **optional})


NESTED = {"whole": OnDeviceShape, "actions": Actions, "fallback_head": FallbackShape}
"""Fields that are named tuples of their own, or None."""


def _nested(kind: Any, fields: Any) -> Any:
    """The named tuple of these fields. Raises WireError where they are not its own."""
    if not isinstance(fields, dict) or set(fields) != set(kind._fields):
        raise WireError("welcome")
    return kind(**_tuples(fields))


def _tuples(fields: dict[str, Any]) -> dict[str, Any]:
    """JSON has lists only."""
    return {
        key: tuple(value) if isinstance(value, list) else value for key, value in fields.items()
    }
