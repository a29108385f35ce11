"""Codecs without an entropy model, the baselines: float32, float16 and int8.

They follow the protocol `Codec` (registry.py): latents z (R, Z), R rows of one agent, to bytes and
back. All values are little-endian. A value that is not finite raises ValueError in both directions.
Encoding clips the others to +-LARGEST_LATENT; decoding refuses what encoding can't have sent.
"""

from __future__ import annotations

from typing import Any

import numpy as np
from numpy.typing import NDArray

# One device's latents enter products and sums that other agents learn from, so they are bounded as
# those of the entropy codec are. That sends 2^15 steps from a median; this is twice as much.
LARGEST_LATENT = np.float32(65504)
"""The largest magnitude of a latent: the largest number of float16."""
LARGEST_SCALE = LARGEST_LATENT / np.float32(127)
"""The largest scale of a row of int8."""
UNKNOWN_BITS = -1.0
"""Returned as the ideal size of a payload by codecs that have no probability model."""


class Float32:
    """Sends R * Z float32, unchanged but for the bound."""

    def __init__(self, latent: int) -> None:
        self.latent = latent

    def encode(self, z: NDArray[np.float32]) -> bytes:
        return _bounded(z, self.latent).astype("<f4").tobytes()

    def decode(self, payload: bytes | memoryview, out: NDArray[np.float32]) -> float:
        _check_size(payload, 4 * out.size)
        values = np.frombuffer(payload, "<f4")
        _check_range(values, LARGEST_LATENT)
        out[:] = values.reshape(out.shape)
        return UNKNOWN_BITS


class Float16:
    """Sends R * Z float16, rounded to nearest even."""

    def __init__(self, latent: int) -> None:
        self.latent = latent

    def encode(self, z: NDArray[np.float32]) -> bytes:
        return _bounded(z, self.latent).astype("<f2").tobytes()

    def decode(self, payload: bytes | memoryview, out: NDArray[np.float32]) -> float:
        _check_size(payload, 2 * out.size)
        # As float32, of which numpy finds the largest three times as fast.
        values = np.frombuffer(payload, "<f2").astype(np.float32)
        _check_range(values, LARGEST_LATENT)
        out[:] = values.reshape(out.shape)
        return UNKNOWN_BITS


class Int8:
    """Sends R float32 scales, then R * Z int8.

    A row's scale is its largest magnitude / 127, or 1 where that is zero.
    """

    def __init__(self, latent: int) -> None:
        self.latent = latent

    def encode(self, z: NDArray[np.float32]) -> bytes:
        z = _bounded(z, self.latent)
        scale: NDArray[np.float32] = np.abs(z).max(axis=1, keepdims=True) / np.float32(127)
        scale[scale == 0] = 1
        # Where the scale is a denormal number, its rounding can leave quotients above 127.
        steps: NDArray[np.int8] = np.clip(np.rint(z / scale), -127, 127).astype(np.int8)
        return scale.astype("<f4").tobytes() + steps.tobytes()

    def decode(self, payload: bytes | memoryview, out: NDArray[np.float32]) -> float:
        rows = len(out)
        _check_size(payload, rows * (4 + self.latent))
        scale = np.frombuffer(payload, "<f4", rows).astype(np.float32)[:, None]
        # A step is 128 at most, so bounded scales bound the latents.
        _check_range(scale, LARGEST_SCALE)
        steps = np.frombuffer(payload, np.int8, -1, 4 * rows).reshape(rows, self.latent)
        out[:] = steps.astype(np.float32) * scale
        return UNKNOWN_BITS


def _bounded(z: NDArray[np.float32], latent: int) -> NDArray[Any]:
    """Returns z as float32 within +-LARGEST_LATENT.

    Raises ValueError where z isn't finite latents (R, latent).
    """
    if z.ndim != 2 or z.shape[1] != latent or len(z) == 0:
        raise ValueError(f"latents of shape {z.shape} where (rows, {latent}) is expected")
    z = np.asarray(z, np.float32)
    largest = np.abs(z).max()
    if largest <= LARGEST_LATENT:
        return z
    # One number that is NaN or infinite makes the largest so.
    if not np.isfinite(largest):
        raise ValueError("a latent is not finite")
    return np.clip(z, -LARGEST_LATENT, LARGEST_LATENT)


def _check_size(payload: bytes | memoryview, expected: int) -> None:
    if len(payload) != expected or expected == 0:
        raise ValueError(f"payload of {len(payload)} bytes where {expected} are expected")


def _check_range(values: NDArray[np.float32], largest: np.float32) -> None:
    # Written so that NaN, which max passes on, fails too.
    if not np.abs(values).max() <= largest:
        raise ValueError("a latent is not finite, or out of bounds")
