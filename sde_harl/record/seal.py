"""A digest of a whole file, written in front of it once the file is complete.

HDF5 has no checksum of its own for a column that grows row by row, so a byte that a disk changes is
a number like any other. HDF5 leaves room for others at a file's beginning, the user block. There a
record that was closed has the SHA-256 of all that follows. A record without it, because its run was
killed or is still going, is read as it is.
"""

from __future__ import annotations

import hashlib
import os
import re
from pathlib import Path

SEAL_BYTES = 512
"""Size of the room, the smallest that HDF5 knows. What a reader of HDF5 sees begins behind it."""
HDF5 = b"\x89HDF\r\n\x1a\n"
"""How HDF5's own part of a file begins."""
SEAL = re.compile(rb"sha256 ([0-9a-f]{64}) of the bytes from 512\n")


def seal(path: Path) -> None:
    """Writes the digest of a complete file into its room. Raises OSError."""
    text = f"sha256 {_digest(path)} of the bytes from {SEAL_BYTES}\n"
    fd = os.open(path, os.O_WRONLY | os.O_CLOEXEC)
    try:
        os.pwrite(fd, text.encode(), 0)
    finally:
        os.close(fd)


def check_seal(path: Path) -> None:
    """Raises ValueError for a file that was changed after it had been sealed."""
    with path.open("rb") as file:
        room = file.read(SEAL_BYTES)
    # Earlier records have no room for a seal.
    if room.startswith(HDF5) or not any(room):
        return
    found = SEAL.fullmatch(room.rstrip(b"\0"))
    if not found or found[1].decode() != _digest(path):
        raise ValueError("it was changed after its run had ended: its SHA-256 is another one")


def _digest(path: Path) -> str:
    with path.open("rb") as file:
        file.seek(SEAL_BYTES)
        return hashlib.file_digest(file, "sha256").hexdigest()
