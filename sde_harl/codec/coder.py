"""Latents of one agent <-> bytes, with CompressAI's rANS coder and integer tables.

CompressAI's C++ coder converts every list it is given, on every call, from Python integers; that conversion is most of
its time (about 10 ns an integer). So only what a call needs is handed over:

* encoding a few rows: one table of the (start, end) pairs of the very symbols, gathered by numpy;
* encoding many rows: all rows of the tables joined in one list, made once, with the symbols moved to their places;
* decoding a few rows: a loop in Python, faster there than handing the tables over;
* decoding many rows: the C++ decoder, told never to read an escape code; a string that holds one goes to the loop.

The bytes are the ones that `EntropyBottleneck.compress` gives. Both joined tables lack what CompressAI asserts of a
table in its own debug build (DEBUG_BUILD), so that build can't be used.

Safety: the C++ decoder reads on past the end of a damaged string, and an escape code names its own length, so a forged
one could lead it arbitrarily far. Without escape codes a symbol takes at most one 32-bit word, after two words at the
start: the string is decoded from a copy padded to 2 + symbols + checks words, past which no string can lead. The loop
checks each word it takes.
"""

from __future__ import annotations

import importlib.util
import sys
from bisect import bisect_right
from functools import lru_cache
from importlib.machinery import EXTENSION_SUFFIXES
from pathlib import Path
from types import ModuleType

import numpy as np

from sde_harl.codec.tables import PRECISION, TOTAL, Tables, check
from sde_harl.errors import UserError

LIMIT = 1 << 15
"""Symbols are clamped to +-LIMIT: exact in float32 beside any sane median, and at most 5 nibbles of escape code."""

_LOWER = 1 << 31  # the coder's state stays at or above this; it is also the state after the last symbol
_MAX_NIBBLES = 5  # of an escape code: symbols up to LIMIT outside a table of MAX_SPAN need 17 bits
_MAX_SYMBOL_BITS = PRECISION + 4 * (1 + _MAX_NIBBLES)
# After the last symbol the state is _LOWER and the string is used up. Two more symbols test it: the first is 0 only if
# the low 16 bits of the state are 0, and makes the decoder take the next word; the second is 1 only if that is the mark
# put there.
_MARK = 0x5EA15EA1
_CHECKS = [[0, 1, TOTAL, TOTAL + 1], [0, _MARK & 0xFFFF, (_MARK & 0xFFFF) + 1, TOTAL, TOTAL + 1]]
_PASSED = [0, 1]
_ZERO = [0]


@lru_cache(maxsize=1)
def load_rans() -> ModuleType:
    """CompressAI's extension module `ans` alone, without its package, which would import torch (5 s; 2 ms this way)."""
    if "compressai.ans" in sys.modules:
        return sys.modules["compressai.ans"]
    package = importlib.util.find_spec("compressai")
    folders = [Path(p) for p in package.submodule_search_locations or ()] if package else []
    found = [path for folder in folders for suffix in EXTENSION_SUFFIXES if (path := folder / f"ans{suffix}").is_file()]
    if not found:
        raise UserError("codec entropy: CompressAI's rANS extension (compressai/ans*.so) is not installed")
    spec = importlib.util.spec_from_file_location("compressai.ans", found[0])
    if spec is None or spec.loader is None:
        raise UserError(f"codec entropy: {found[0]} is not an extension module of this Python")
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    # The training side imports the same extension through the package: one copy serves both.
    sys.modules["compressai.ans"] = module
    return module


class EntropyCoder:
    """Codes latents (R, Z) of one agent. `pack` rows share one string (0: all rows of a call).

    A payload is one string, or, if the rows need k > 1 strings, k uint32 lengths and then the strings.
    """

    def __init__(self, tables: Tables, pack: int = 0) -> None:
        """Raises ValueError on invalid tables, UserError on a latent that the C++ encoder can't hold."""
        check(tables)
        self.latent = len(tables.lengths)
        if self.latent < 3:
            # The C++ encoder's buffer holds a word a symbol, and two words of state may join one word of data.
            raise UserError(f"codec entropy: a latent needs at least 3 elements, got {self.latent}; use int8")
        if pack < 0:
            raise ValueError(f"pack {pack} is negative")
        self.tables = tables
        self.pack = pack
        self._tops = (tables.lengths - 2).astype(np.uint32)  # the escape symbol's place in its row
        rows = [row[:length].tolist() for row, length in zip(tables.cdf, tables.lengths)]
        self._rows = rows
        self._joined = [entry for row in rows for entry in row]
        self._flat = np.array(self._joined, np.int32)
        self._base = (np.cumsum(tables.lengths) - tables.lengths).astype(np.int32)
        # (start, end) of every entry, as one number that numpy takes in one piece
        self._pairs = np.stack((self._flat, np.roll(self._flat, -1)), axis=1).view(np.int64).ravel()
        self._bits = (PRECISION - np.log2(np.maximum(np.diff(self._flat, append=0), 1))).astype(np.float32)
        self._escapes = [row[-2:] for row in rows]
        # One entry more than the row has: no symbol of it is then the last, which C++ reads an escape code after.
        self._open_rows = [[*row, TOTAL + 1] for row in rows] + _CHECKS
        self._open_lengths = [len(row) for row in self._open_rows]
        self._no_offsets = [0] * len(self._open_rows)
        # Of the steps that a row holds; float32 is exact for all of these.
        self._lowest = tables.offsets.astype(np.float32)
        self._highest = (tables.offsets + tables.lengths - 3).astype(np.float32)
        self._to_place = (self._base - tables.offsets).astype(np.float32)
        self._narrow = max(self._open_lengths) <= 256
        self._first = tables.offsets.tolist()
        self._channels = list(range(self.latent))
        self._evens = list(range(0, len(self._joined), 2))
        rans = load_rans()
        self._encoder = rans.RansEncoder()
        self._decoder = rans.RansDecoder()

    def symbols(self, z: np.ndarray) -> np.ndarray:
        """z float32 (R, Z) -> int32 (R, Z), the nearest integers to z - medians within +-LIMIT."""
        steps = self._steps(z)
        if not np.abs(steps).max() <= LIMIT:  # true of NaN too
            if not np.isfinite(steps).all():
                raise ValueError("a latent is not finite")
            np.clip(steps, -LIMIT, LIMIT, steps)
        return steps.astype(np.int32)

    def _steps(self, z: np.ndarray) -> np.ndarray:
        """z float32 (R, Z) -> float32 (R, Z), the nearest integers to z - medians, whatever their size."""
        if z.ndim != 2 or z.shape[1] != self.latent or len(z) == 0:
            raise ValueError(f"latents of shape {z.shape} where (rows, {self.latent}) is expected")
        steps = np.subtract(z, self.tables.medians, dtype=np.float32)
        return np.rint(steps, steps)

    def latents(self, symbols: np.ndarray) -> np.ndarray:
        """symbols int32 (..., Z) -> float32 (..., Z), what the policy sees."""
        return symbols.astype(np.float32) + self.tables.medians

    def ideal_bits(self, symbols: np.ndarray) -> np.ndarray:
        """symbols int32 (..., Z) -> float32 (...): bits by the integer tables, escape codes included."""
        values = np.asarray(symbols, np.int32) - self.tables.offsets
        escaped = values.view(np.uint32) >= self._tops
        bits = self._bits[np.where(escaped, self._tops, values) + self._base]
        if escaped.any():
            raw = np.where(values < 0, -2 * values - 1, 2 * (values - self._tops.astype(np.int32)))
            nibbles = np.ceil(np.log2(np.maximum(raw, 0) + 1) / 4)
            bits = bits + escaped * (4 + 4 * nibbles)
        return bits.sum(axis=-1, dtype=np.float32)

    def encode(self, z: np.ndarray) -> bytes:
        """z float32 (R, Z) -> payload; ValueError on a wrong shape or a value that is not finite."""
        if not self.pack or len(z) <= self.pack:
            return self._encode_string(z)
        strings = [self._encode_string(z[at : at + self.pack]) for at in range(0, len(z), self.pack)]
        return np.array([len(s) for s in strings], "<u4").tobytes() + b"".join(strings)

    def decode(self, payload: bytes | memoryview, rows: int) -> np.ndarray:
        """payload of `rows` rows -> latents float32 (R, Z); ValueError on a damaged payload."""
        return self.latents(self.decode_symbols(payload, rows))

    def decode_symbols(self, payload: bytes | memoryview, rows: int) -> np.ndarray:
        """payload of `rows` rows -> symbols int32 (R, Z), each within +-LIMIT; ValueError on a damaged payload."""
        if rows < 1:
            raise ValueError(f"{rows} rows can't be decoded")
        data = bytes(payload)
        pack = self.pack or rows
        if rows <= pack:
            return self._decode_string(data, rows)
        counts = [min(pack, rows - at) for at in range(0, rows, pack)]
        parts = [self._decode_string(s, n) for s, n in zip(_split(data, len(counts)), counts)]
        return np.concatenate(parts)

    def _encode_string(self, z: np.ndarray) -> bytes:
        """z float32 (rows, Z) -> one string."""
        steps = self._steps(z)
        inside = np.fmin(np.fmax(steps, self._lowest), self._highest)  # these two never give NaN
        if inside.tobytes() != steps.tobytes():  # a symbol that no table holds, or NaN
            return self._encode_escaped(self.symbols(z) - self.tables.offsets)
        inside += self._to_place
        table, symbols = self._gather(inside.astype(np.int32).ravel())
        lengths = [len(table) + 2]
        return bytes(self._encoder.encode_with_indexes(symbols, [0] * len(symbols), [table], lengths, _ZERO))

    def _encode_escaped(self, values: np.ndarray) -> bytes:
        """values int32 (rows, Z), counted from the start of their table rows, some outside -> one string."""
        escaped = values.view(np.uint32) >= self._tops  # negative ones are huge as unsigned
        table, symbols = self._gather((np.where(escaped, 0, values) + self._base).ravel())
        # Each escape symbol is a row of its own, and always the last of it: C++ appends the escape code.
        excess = np.where(values < 0, values, values - self._tops.astype(np.int32))
        merged = np.where(escaped.ravel(), excess.ravel(), symbols).tolist()
        indexes = np.where(escaped, np.arange(1, self.latent + 1), 0).ravel().tolist()
        lengths = [len(table) + 2] + [2] * self.latent
        tables = [table, *self._escapes]
        return bytes(self._encoder.encode_with_indexes(merged, indexes, tables, lengths, [0] * len(tables)))

    def _gather(self, places: np.ndarray) -> tuple[list[int], list[int]]:
        """The one table that C++ gets for entries at `places` (n,) of the joined rows, and their symbols in it."""
        if 2 * len(places) > len(self._joined):
            return self._joined, places.tolist()
        return self._pairs.take(places).view(np.int32).tolist(), self._evens[: len(places)]

    def _decode_string(self, string: bytes, rows: int) -> np.ndarray:
        """One string of `rows` rows -> symbols int32 (rows, Z)."""
        count = rows * self.latent
        longest = 8 + 4 * -(-count * _MAX_SYMBOL_BITS // 32)
        if len(string) % 4 or not 8 <= len(string) <= longest:
            raise ValueError(f"a string of {len(string)} bytes can't hold {count} symbols")
        # Measured: the loop takes 0.2 us a symbol, the C++ decoder 10 ns for each entry of the tables.
        values = self._decode_many(string, rows) if 20 * count > len(self._joined) else None
        if values is None:
            values = np.array(_decode_loop(string, self._rows * rows, self._first), np.int32)
        return values.reshape(rows, self.latent) + self.tables.offsets

    def _decode_many(self, string: bytes, rows: int) -> np.ndarray | None:
        """The values (rows * Z,) of a string without escape codes, by C++; None if it holds one."""
        count = rows * self.latent
        padded = string + _MARK.to_bytes(4, "little") + bytes(4 * (2 + count + len(_CHECKS)))
        indexes = self._channels * rows + [self.latent, self.latent + 1]
        decoded = self._decoder.decode_with_indexes(
            padded, indexes, self._open_rows, self._open_lengths, self._no_offsets
        )
        # numpy reads bytes three times as fast as a list of integers
        values = np.frombuffer(bytes(decoded), np.uint8) if self._narrow else np.array(decoded, np.int32)
        if (values[:count].reshape(rows, self.latent) == self._tops).any():
            return None
        if decoded[count:] != _PASSED:
            raise ValueError("a string does not end where its symbols do")
        return values[:count]


def _split(data: bytes, count: int) -> list[bytes]:
    """The strings of a payload; ValueError if their lengths don't add up to it."""
    if count == 1:
        return [data]
    head = 4 * count
    lengths = np.frombuffer(data, "<u4", count).tolist() if len(data) >= head else []
    if head + sum(lengths) != len(data) or not lengths:
        raise ValueError(f"a payload of {len(data)} bytes does not hold {count} strings")
    ends = np.cumsum(lengths) + head
    return [data[end - length : end] for end, length in zip(ends.tolist(), lengths)]


def _decode_loop(string: bytes, rows: list[list[int]], first: list[int]) -> list[int]:
    """Decode one value with each of `rows` (tables, in order), escape codes included, checking every step.

    `first` holds the symbol that each channel's values are counted from.
    """
    words = np.frombuffer(string, "<u4").tolist()
    state = words[0] | words[1] << 32
    at = 2
    values: list[int] = []
    try:
        for row in rows:
            low = state & 0xFFFF
            value = bisect_right(row, low) - 1
            start = row[value]
            state = (row[value + 1] - start) * (state >> 16) + low - start
            if state < _LOWER:
                state = state << 32 | words[at]
                at += 1
            if value == len(row) - 2:
                value, state, at = _decode_escape(value, state, at, words)
                if abs(value + first[len(values) % len(first)]) > LIMIT:
                    raise ValueError(f"a symbol is outside +-{LIMIT}")
            values.append(value)
    except IndexError:
        raise ValueError("a string ends before its symbols do") from None
    if state != _LOWER or at != len(words):
        raise ValueError("a string does not end where its symbols do")
    return values


def _decode_escape(top: int, state: int, at: int, words: list[int]) -> tuple[int, int, int]:
    """Read the escape code (count of nibbles, then the nibbles, lowest first) -> value, state, next word."""
    nibbles: list[int] = []
    while not nibbles or len(nibbles) <= nibbles[0]:
        nibbles.append(state & 15)
        state >>= 4
        if state < _LOWER:
            state = state << 32 | words[at]
            at += 1
        if nibbles[0] > _MAX_NIBBLES:
            raise ValueError(f"an escape code of {nibbles[0]} nibbles or more")
    raw = sum(nibble << 4 * k for k, nibble in enumerate(nibbles[1:]))
    return (-(raw >> 1) - 1 if raw & 1 else (raw >> 1) + top), state, at
