"""Codecs without an entropy model, the baselines: float32, float16 and int8.

They follow the protocol `Codec` (registry.py): latents z (R, Z), R rows of one agent, to bytes and
back. All values are little-endian. A value that is not finite raises ValueError in both directions.
"""

from __future__ import annotations

from typing import Any

import numpy as np
from numpy.typing import NDArray

FLOAT16_MAX = np.float32(65504)
UNKNOWN_BITS = -1.0
"""Returned as the ideal size of a payload by codecs that have no probability model."""


class Float32:
    """Sends R * Z float32, unchanged."""

    def __init__(self, latent: int) -> None:
        self.latent = latent

    def encode(self, z: NDArray[np.float32]) -> bytes:
        return _checked(z, self.latent).astype("<f4").tobytes()

    def decode(self, payload: bytes | memoryview, out: NDArray[np.float32]) -> float:
        _check_size(payload, 4 * out.size)
        out[:] = _finite(np.frombuffer(payload, "<f4")).reshape(out.shape)
        return UNKNOWN_BITS


class Float16:
    """Sends R * Z float16, rounded to nearest even, clipped to float16's range."""

    def __init__(self, latent: int) -> None:
        self.latent = latent

    def encode(self, z: NDArray[np.float32]) -> bytes:
        return np.clip(_checked(z, self.latent), -FLOAT16_MAX, FLOAT16_MAX).astype("<f2").tobytes()

    def decode(self, payload: bytes | memoryview, out: NDArray[np.float32]) -> float:
        _check_size(payload, 2 * out.size)
        out[:] = _finite(np.frombuffer(payload, "<f2")).reshape(out.shape)
        return UNKNOWN_BITS


class Int8:
    """Sends R float32 scales, then R * Z int8.

    A row's scale is its largest magnitude / 127, or 1 where that is zero.
    """

    def __init__(self, latent: int) -> None:
        self.latent = latent

    def encode(self, z: NDArray[np.float32]) -> bytes:
        z = _checked(z, self.latent)
        scale: NDArray[np.float32] = np.abs(z).max(axis=1, keepdims=True) / np.float32(127)
        scale[scale == 0] = 1
        # Where the scale is a denormal number, its rounding can leave quotients above 127.
        steps: NDArray[np.int8] = np.clip(np.rint(z / scale), -127, 127).astype(np.int8)
        return scale.astype("<f4").tobytes() + steps.tobytes()

    def decode(self, payload: bytes | memoryview, out: NDArray[np.float32]) -> float:
        rows = len(out)
        _check_size(payload, rows * (4 + self.latent))
        scale = np.frombuffer(payload, "<f4", rows).astype(np.float32)[:, None]
        steps = np.frombuffer(payload, np.int8, -1, 4 * rows).reshape(rows, self.latent)
        # A forged scale may overflow here; `_finite` reports it, without numpy's warning.
        with np.errstate(over="ignore", invalid="ignore"):
            out[:] = _finite(steps.astype(np.float32) * scale)
        return UNKNOWN_BITS


def _checked(z: NDArray[np.float32], latent: int) -> NDArray[Any]:
    """Returns z as float32; raises ValueError where it isn't finite latents (R, latent)."""
    if z.ndim != 2 or z.shape[1] != latent or len(z) == 0:
        raise ValueError(f"latents of shape {z.shape} where (rows, {latent}) is expected")
    return _finite(np.asarray(z, np.float32))


def _check_size(payload: bytes | memoryview, expected: int) -> None:
    if len(payload) != expected or expected == 0:
        raise ValueError(f"payload of {len(payload)} bytes where {expected} are expected")


def _finite(z: NDArray[Any]) -> NDArray[Any]:
    if not np.isfinite(z).all():
        raise ValueError("a latent is not finite")
    return z
