"""Latents of one agent <-> bytes, with integer tables and our rANS (rans.c).

The bytes are the ones that CompressAI's `EntropyBottleneck.compress` gives for a row; only its entropy model is used,
to train and to make the tables. A damaged payload is refused: a string must end where its symbols do.
"""

from __future__ import annotations

import numpy as np

from sde_harl.codec._rans import LIMIT, Coder
from sde_harl.codec.tables import Tables, check

__all__ = ["LIMIT", "EntropyCoder"]

STATE_BYTES, LENGTH_BYTES = 8, 4
"""Of the rANS state that ends every string, and of a string's length where a payload has several."""


def least_bytes(rows: int, pack: int) -> float:
    """Payload bytes for each of `rows` rows whose symbols cost nothing: no rate can bring a payload below it."""
    strings = -(-rows // pack) if pack else 1
    return strings * (STATE_BYTES + (LENGTH_BYTES if strings > 1 else 0)) / rows


class EntropyCoder:
    """Codes latents (R, Z) of one agent. `pack` rows share one string (0: all rows of a call).

    A payload is one string, or, if the rows need k > 1 strings, k uint32 lengths and then the strings.
    """

    def __init__(self, tables: Tables, pack: int = 0) -> None:
        """Raises ValueError on invalid tables."""
        check(tables)
        if pack < 0:
            raise ValueError(f"pack {pack} is negative")
        self._pack = pack
        cdf, lengths, offsets, medians = map(np.ascontiguousarray, tables[1:])
        self._coder = Coder(cdf, lengths, offsets, medians)

    def encode(self, z: np.ndarray) -> bytes:
        """z float32 (R, Z) -> payload; ValueError on a wrong shape or a value that is not finite."""
        pack = self._pack
        if not pack or len(z) <= pack:
            return self._coder.encode(z)
        strings = [self._coder.encode(z[at : at + pack]) for at in range(0, len(z), pack)]
        return np.array([len(s) for s in strings], "<u4").tobytes() + b"".join(strings)

    def decode(self, payload: bytes | memoryview, out: np.ndarray) -> float:
        """Fill `out` float32 (R, Z) with the latents of a payload of R rows, integers + medians.

        Returns the payload's ideal size in bits by the tables, escape codes included. Raises ValueError on a damaged
        payload; `out` is then as it was (but for the rows of strings before the damaged one).
        """
        rows, pack = len(out), self._pack
        if not pack or rows <= pack:
            return self._coder.decode(payload, out)
        starts = range(0, rows, pack)
        strings = _split(memoryview(payload), len(starts))
        return sum(
            self._coder.decode(string, out[at : at + pack]) for at, string in zip(starts, strings)
        )


def _split(data: memoryview, count: int) -> list[memoryview]:
    """The strings of a payload; ValueError if their lengths don't add up to it."""
    head = 4 * count
    lengths = np.frombuffer(data, "<u4", count).tolist() if len(data) >= head else []
    if head + sum(lengths) != len(data) or not lengths:
        raise ValueError(f"a payload of {len(data)} bytes does not hold {count} strings")
    ends = np.cumsum([head, *lengths]).tolist()
    return [data[start:end] for start, end in zip(ends[:-1], ends[1:])]
