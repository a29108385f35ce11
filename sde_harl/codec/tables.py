"""The integer tables of one agent's entropy code: built at the server, sent to the device.

Each latent element (a channel of the code) has a row of cumulative frequencies, which is its
probability of every symbol in integers. A device never computes them from the entropy model: floats
differ between machines by rounding, that would change a few entries, and one changed entry makes
every later symbol of a string wrong without any error.
"""

from __future__ import annotations

import hashlib
import struct
from typing import NamedTuple

import numpy as np
from numpy.typing import NDArray

PRECISION = 16
"""Bits of a frequency."""
TOTAL = 1 << PRECISION
"""Sum of the frequencies of a row."""
MAX_SPAN = 512
"""Largest distance of a table's ends from the median; the escape code carries integers beyond."""
MAX_LENGTH = 2 * MAX_SPAN + 3
"""Most entries of a row: the symbols, the escape symbol, and the end."""
MIN_LENGTH = 3
"""Fewest entries of a row: one symbol, the escape symbol, and the end.

With the escape symbol alone its frequency would be 65536, which doesn't fit the coder's 16 bits."""

_HEAD = struct.Struct("<II8s")  # version, channels, digest
_PER_CHANNEL = 12  # bytes of a channel's length, offset and median


class Tables(NamedTuple):
    """The tables of one agent: C channels (its latent's elements), rows of at most L entries.

    Row c holds `lengths[c]` entries, rising from 0 to 65536; the rest of the row is zero. Entries k
    and k + 1 bound the frequency of the integer `offsets[c] + k`; the last pair is that of the
    escape symbol, which is sent for all integers outside the table.
    """

    version: int
    """Number of the published model that they belong to."""
    cdf: NDArray[np.int32]
    """int32 (C, L)."""
    lengths: NDArray[np.int32]
    """int32 (C,)."""
    offsets: NDArray[np.int32]
    """int32 (C,), zero or negative."""
    medians: NDArray[np.float32]
    """float32 (C,), in steps of the quantiser; integers are distances from them."""

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
        """8 bytes that name the contents but not the version.

        They are equal on two hosts that hold the same code.
        """
        return _digest(_body(self))


def to_bytes(tables: Tables) -> bytes:
    """Returns the tables as little-endian bytes.

    Entries are uint16 without the two ends of a row, 0 and 65536: these are known, and the latter
    doesn't fit.
    """
    body = _body(tables)
    return _HEAD.pack(tables.version, len(tables.lengths), _digest(body)) + body


def largest_bytes(channels: int) -> int:
    """Returns the most bytes that `to_bytes` gives for so many channels."""
    return _HEAD.size + channels * (_PER_CHANNEL + 2 * (MAX_LENGTH - 2))


def from_bytes(buf: bytes | bytearray | memoryview) -> Tables:
    """Returns the tables that `to_bytes` has written.

    Raises ValueError on anything that is not exactly what `to_bytes` writes.
    """
    head, body = _split_header(memoryview(buf).cast("B"))
    channels = head.channels
    lengths = _read_lengths(body, channels)
    if _digest(body) != head.digest:
        raise ValueError("tables: the digest does not match")
    tables = Tables(
        version=head.version,
        cdf=_dense(np.frombuffer(body, "<u2", -1, _PER_CHANNEL * channels), lengths),
        lengths=lengths,
        offsets=np.frombuffer(body, "<i4", channels, 4 * channels).astype(np.int32),
        medians=np.frombuffer(body, "<f4", channels, 8 * channels).astype(np.float32),
    )
    check(tables)
    return tables


class _Header(NamedTuple):
    version: int
    channels: int
    digest: bytes


def _split_header(data: memoryview) -> tuple[_Header, memoryview]:
    """Returns the header and the bytes behind it; raises ValueError where they can't fit."""
    if len(data) < _HEAD.size:
        raise ValueError(f"tables: {len(data)} bytes are less than a header")
    head = _Header._make(_HEAD.unpack_from(data))
    body = data[_HEAD.size :]
    # Before any array is made: a forged number of channels must not allocate memory.
    if head.channels < 1 or head.channels * _PER_CHANNEL > len(body):
        raise ValueError(f"tables: {head.channels} channels do not fit {len(data)} bytes")
    return head, body


def _read_lengths(body: memoryview, channels: int) -> NDArray[np.int32]:
    """Returns the row lengths (C,); raises ValueError where the body isn't as long as they say."""
    lengths: NDArray[np.int32] = np.frombuffer(body, "<i4", channels).astype(np.int32)
    _check_lengths(lengths)
    expected = channels * _PER_CHANNEL + 2 * int((lengths - 2).sum())
    if len(body) != expected:
        raise ValueError(f"tables: {len(body)} bytes where the lengths ask for {expected}")
    return lengths


def check(tables: Tables) -> None:
    """Raises ValueError unless rans.c may be given these tables: it trusts what they say."""
    _check_types(tables)
    _check_lengths(tables.lengths)
    _check_frequencies(tables.cdf, tables.lengths)
    if ((tables.offsets < -MAX_SPAN) | (tables.offsets > 0)).any():
        raise ValueError(f"tables: an offset is outside -{MAX_SPAN}..0")
    if not np.isfinite(tables.medians).all():
        raise ValueError("tables: a median is not finite")


def _check_types(tables: Tables) -> None:
    """Raises ValueError where the shapes or element types are not those of `Tables`."""
    channels = len(tables.lengths)
    if not 0 <= tables.version < 1 << 32:
        raise ValueError(f"tables: version {tables.version} is no 32-bit number")
    rows_fit = tables.cdf.ndim == 2 and len(tables.cdf) == channels
    columns_fit = tables.offsets.shape == tables.medians.shape == (channels,)
    arrays = (tables.cdf, tables.lengths, tables.offsets, tables.medians)
    if channels < 1 or not rows_fit or not columns_fit:
        shapes = ", ".join(str(each.shape) for each in arrays)
        raise ValueError(f"tables: shapes {shapes} disagree")
    if [each.dtype for each in arrays] != [np.int32, np.int32, np.int32, np.float32]:
        raise ValueError("tables: wrong element types")


def _check_lengths(lengths: NDArray[np.int32]) -> None:
    if lengths.min() < MIN_LENGTH or lengths.max() > MAX_LENGTH:
        raise ValueError(f"tables: row lengths {lengths.min()}..{lengths.max()} are impossible")


def _check_frequencies(cdf: NDArray[np.int32], lengths: NDArray[np.int32]) -> None:
    """Raises ValueError where a row's used entries don't rise from 0 to TOTAL."""
    if lengths.max() > cdf.shape[1]:
        raise ValueError(f"tables: a row of {lengths.max()} entries where {cdf.shape[1]} are held")
    used = np.arange(1, cdf.shape[1]) < lengths[:, None]
    ends = cdf[np.arange(len(lengths)), lengths - 1]
    # A symbol of frequency 0 can't be encoded: every difference is 1 at least.
    if cdf[:, 0].any() or (ends != TOTAL).any() or (np.diff(cdf, axis=1)[used] <= 0).any():
        raise ValueError("tables: a row does not rise from 0 to 65536")


def _inner(lengths: NDArray[np.int32], longest: int) -> NDArray[np.bool_]:
    """Returns bool (C, L), True for entries between the two ends of their row."""
    column = np.arange(longest)
    return (column > 0) & (column < lengths[:, None] - 1)


def _dense(inner: NDArray[np.uint16], lengths: NDArray[np.int32]) -> NDArray[np.int32]:
    """Returns the rows (C, L) with these inner entries, one row's after the other's."""
    longest = int(lengths.max())
    cdf = np.zeros((len(lengths), longest), np.int32)
    cdf[_inner(lengths, longest)] = inner
    cdf[np.arange(len(lengths)), lengths - 1] = TOTAL
    return cdf


def _body(tables: Tables) -> bytes:
    """Returns the bytes behind the header: lengths, offsets, medians, inner entries."""
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
