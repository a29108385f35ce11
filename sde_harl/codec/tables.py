"""The integer tables of one agent's entropy code: built once at the server, sent to the device as integers.

A device never rebuilds them: float differences between machines would change a few entries, and one changed entry makes
every later symbol of a string wrong, silently.
"""

from __future__ import annotations

import hashlib
import struct
from typing import NamedTuple

import numpy as np

PRECISION = 16
TOTAL = 1 << PRECISION
"""The frequencies of a row add up to this."""
MAX_SPAN = 512
"""A table reaches at most this many integers to each side of the median; the escape code carries the rest."""
MAX_LENGTH = 2 * MAX_SPAN + 3
MIN_LENGTH = 3
"""One symbol, the escape symbol, and the end. A shorter row has a frequency of 65536, too large for the C++ coder."""

_HEAD = struct.Struct("<II8s")  # version, channels, digest
_PER_CHANNEL = 12


class Tables(NamedTuple):
    """Tables of one agent: C channels (its latent's elements), rows of at most L entries.

    Row c holds `lengths[c]` entries, rising from 0 to 65536; what follows is zero. Entry pair k, k+1 bounds the
    integer `offsets[c] + k`; the last pair is the escape symbol, for integers outside the table.
    """

    version: int
    cdf: np.ndarray  # int32 (C, L)
    lengths: np.ndarray  # int32 (C,)
    offsets: np.ndarray  # int32 (C,), zero or negative
    medians: np.ndarray  # float32 (C,), in latent units

    def first_channels(self, count: int) -> Tables:
        """Returns the tables of the first `count` latent elements."""
        return self._replace(
            cdf=self.cdf[:count],
            lengths=self.lengths[:count],
            offsets=self.offsets[:count],
            medians=self.medians[:count],
        )

    @property
    def digest(self) -> bytes:
        """8 bytes that name the integers and medians (not the version): equal on two hosts that hold the same code."""
        return _digest(_body(self))


def to_bytes(tables: Tables) -> bytes:
    """Little-endian bytes of the tables: the inner entries as uint16, for the two ends of a row are known."""
    body = _body(tables)
    return _HEAD.pack(tables.version, len(tables.lengths), _digest(body)) + body


def largest_bytes(channels: int) -> int:
    """What `to_bytes` gives at most for so many channels."""
    return _HEAD.size + channels * (_PER_CHANNEL + 2 * (MAX_LENGTH - 2))


def from_bytes(buf: bytes | bytearray | memoryview) -> Tables:
    """The inverse of `to_bytes`; raises ValueError on anything that is not exactly what `to_bytes` writes."""
    data = memoryview(buf).cast("B")
    if len(data) < _HEAD.size:
        raise ValueError(f"tables: {len(data)} bytes are less than a header")
    version, channels, digest = _HEAD.unpack_from(data)
    body = data[_HEAD.size :]
    if channels < 1 or channels * _PER_CHANNEL > len(body):
        raise ValueError(f"tables: {channels} channels do not fit {len(data)} bytes")
    lengths = np.frombuffer(body, "<i4", channels).astype(np.int32)
    _check_lengths(lengths)
    expected = channels * _PER_CHANNEL + 2 * int((lengths - 2).sum())
    if len(body) != expected:
        raise ValueError(f"tables: {len(body)} bytes where the lengths ask for {expected}")
    if _digest(body) != digest:
        raise ValueError("tables: the digest does not match")
    offsets = np.frombuffer(body, "<i4", channels, 4 * channels).astype(np.int32)
    medians = np.frombuffer(body, "<f4", channels, 8 * channels).astype(np.float32)
    inner = np.frombuffer(body, "<u2", -1, _PER_CHANNEL * channels)
    tables = Tables(version, _dense(inner, lengths), lengths, offsets, medians)
    check(tables)
    return tables


def check(tables: Tables) -> None:
    """Raise ValueError unless the C++ coder may be handed these tables: it reads where they point, unchecked."""
    version, cdf, lengths, offsets, medians = tables
    channels = len(lengths)
    if not 0 <= version < 1 << 32:
        raise ValueError(f"tables: version {version} is no 32-bit number")
    if (
        channels < 1
        or cdf.ndim != 2
        or len(cdf) != channels
        or not offsets.shape == medians.shape == (channels,)
    ):
        raise ValueError(
            f"tables: shapes {cdf.shape}, {lengths.shape}, {offsets.shape}, {medians.shape} disagree"
        )
    if [a.dtype for a in (cdf, lengths, offsets, medians)] != [
        np.int32,
        np.int32,
        np.int32,
        np.float32,
    ]:
        raise ValueError("tables: wrong element types")
    _check_lengths(lengths)
    if lengths.max() > cdf.shape[1]:
        raise ValueError(f"tables: a row of {lengths.max()} entries where {cdf.shape[1]} are held")
    used = np.arange(1, cdf.shape[1]) < lengths[:, None]
    ends = cdf[np.arange(channels), lengths - 1]
    if cdf[:, 0].any() or (ends != TOTAL).any() or (np.diff(cdf, axis=1)[used] <= 0).any():
        raise ValueError("tables: a row does not rise from 0 to 65536")
    if ((offsets < -MAX_SPAN) | (offsets > 0)).any():
        raise ValueError(f"tables: an offset is outside -{MAX_SPAN}..0")
    if not np.isfinite(medians).all():
        raise ValueError("tables: a median is not finite")


def _check_lengths(lengths: np.ndarray) -> None:
    if lengths.min() < MIN_LENGTH or lengths.max() > MAX_LENGTH:
        raise ValueError(f"tables: row lengths {lengths.min()}..{lengths.max()} are impossible")


def _inner(lengths: np.ndarray, longest: int) -> np.ndarray:
    """Which entries are neither end of their row nor behind it: bool (C, L)."""
    column = np.arange(longest)
    return (column > 0) & (column < lengths[:, None] - 1)


def _dense(inner: np.ndarray, lengths: np.ndarray) -> np.ndarray:
    longest = int(lengths.max())
    cdf = np.zeros((len(lengths), longest), np.int32)
    cdf[_inner(lengths, longest)] = inner
    cdf[np.arange(len(lengths)), lengths - 1] = TOTAL
    return cdf


def _body(tables: Tables) -> bytes:
    inner = tables.cdf[_inner(tables.lengths, tables.cdf.shape[1])]
    parts = (
        (tables.lengths, "<i4"),
        (tables.offsets, "<i4"),
        (tables.medians, "<f4"),
        (inner, "<u2"),
    )
    return b"".join(array.astype(kind).tobytes() for array, kind in parts)


def _digest(body: bytes | memoryview) -> bytes:
    return hashlib.blake2b(body, digest_size=8).digest()
