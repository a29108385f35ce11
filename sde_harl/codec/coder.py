"""The entropy coder: latents of one agent to bytes and back, with integer tables and rANS (rans.c).

Of CompressAI only the entropy model is used, to train and to make the tables. The bytes are the
ones that its `EntropyBottleneck.compress` gives for a row, but CompressAI's coder works on Python
lists and reads past the end of a damaged string. This one works on arrays and refuses such a
payload: a string has to end where its symbols do.
"""

from __future__ import annotations

from typing import Any

import numpy as np
from numpy.typing import NDArray

from sde_harl.codec._rans import LIMIT, Coder
from sde_harl.codec.tables import Tables, check

__all__ = ["LIMIT", "EntropyCoder"]

STATE_BYTES = 8
"""Size of the rANS state that every string holds."""
LENGTH_BYTES = 4
"""Size of a string's length, where a payload has several strings."""


def least_bytes(rows: int, pack: int) -> float:
    """Returns the payload bytes for each of `rows` rows if all symbols cost nothing.

    No weight of the rate can bring a payload below it.
    """
    if not pack or rows <= pack:
        return STATE_BYTES / rows
    strings = -(-rows // pack)
    return strings * (STATE_BYTES + LENGTH_BYTES) / rows


class EntropyCoder:
    """Codes latents (R, Z) of one agent. `pack` rows share one string (0: all rows of a call).

    Rows that share a string share its 8 bytes of state. A payload is one string, or, if the rows
    need k > 1 strings, k uint32 lengths and then the strings.
    """

    def __init__(self, tables: Tables, pack: int = 0) -> None:
        """Raises ValueError on invalid tables."""
        check(tables)
        if pack < 0:
            raise ValueError(f"pack {pack} is negative")
        self._pack = pack
        arrays: list[NDArray[Any]] = [
            np.ascontiguousarray(each)
            for each in (tables.cdf, tables.lengths, tables.offsets, tables.medians)
        ]
        self._coder = Coder(*arrays)  # C takes no keywords

    def encode(self, z: NDArray[np.float32]) -> bytes:
        """Returns the payload of latents z, float32 (R, Z).

        Raises ValueError on a wrong shape or a value that is not finite.
        """
        pack = self._pack
        if not pack or len(z) <= pack:
            return self._coder.encode(z)
        strings = [self._coder.encode(z[at : at + pack]) for at in range(0, len(z), pack)]
        return np.array([len(s) for s in strings], "<u4").tobytes() + b"".join(strings)

    def decode(self, payload: bytes | memoryview, out: NDArray[np.float32]) -> float:
        """Fills `out`, float32 (R, Z), with a payload's latents: symbols plus medians.

        Returns the payload's ideal size in bits by the tables, escape codes included. Raises
        ValueError on a damaged payload; `out` is then as it was (but for the rows of strings before
        the damaged one).
        """
        rows = len(out)
        pack = self._pack
        if not pack or rows <= pack:
            return self._coder.decode(payload, out)
        starts = range(0, rows, pack)
        strings = _split(memoryview(payload), len(starts))
        return sum(
            self._coder.decode(string, out[at : at + pack]) for at, string in zip(starts, strings)
        )


def _split(data: memoryview, count: int) -> list[memoryview]:
    """Returns the strings of a payload; raises ValueError if their lengths don't add up to it."""
    head = LENGTH_BYTES * count
    lengths: list[int] = []
    if len(data) >= head:
        lengths = np.frombuffer(data, "<u4", count).tolist()
    if head + sum(lengths) != len(data) or not lengths:
        raise ValueError(f"a payload of {len(data)} bytes does not hold {count} strings")
    ends = np.cumsum([head, *lengths]).tolist()
    return [data[start:end] for start, end in zip(ends[:-1], ends[1:])]
