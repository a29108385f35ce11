"""A file for HDF5 to write to, which stays readable when its writer is killed.

HDF5 flushes its metadata by ascending address, so a parent comes before the child it now points at, and a process
killed between the two leaves groups that can't be listed: with a group an episode, one kill in ten, measured by
replaying every prefix of the writes. Here, what is new goes to the disk at once, where nothing points at it yet; what
changes is kept back until the flush ends and then written in one go: first the superblock, which knows the file's new
end, then the rest by descending address, children (made later, lying higher) before their parents. By the same measure
no prefix damages a table. Linking a recorded episode changes its parent's list in two places; the few microseconds
between them remain.
"""

from __future__ import annotations

import os
from pathlib import Path


class OrderedFile:
    """The file-like object h5py asks for (see h5py's "Python file-like objects").

    Errors of the disk don't reach HDF5, whose clean-up would then fail half-way: the first is kept in `error`, and
    nothing is written after it.
    """

    def __init__(self, path: Path) -> None:
        """Make the file, empty. Raises OSError."""
        self._fd = os.open(path, os.O_RDWR | os.O_CREAT | os.O_TRUNC | os.O_CLOEXEC, 0o644)
        self._position = 0
        self._size = 0  # as HDF5 sees it
        self._reachable = 0  # bytes that the file's last flushed state may point into
        self._changes: dict[int, bytes] = {}  # address -> bytes; they don't overlap
        self.error: OSError | None = None

    def seek(self, offset: int, whence: int = os.SEEK_SET) -> int:
        self._position = offset + (self._size if whence == os.SEEK_END else 0)
        return self._position

    def tell(self) -> int:
        return self._position

    def readinto(self, buffer: memoryview) -> int:
        start, view = self._position, memoryview(buffer).cast("B")
        found = os.pread(self._fd, len(view), start)
        view[: len(found)] = found
        view[len(found) :] = bytes(len(view) - len(found))
        for address, data in self._changes.items():
            low, high = max(start, address), min(start + len(view), address + len(data))
            if low < high:
                view[low - start : high - start] = data[low - address : high - address]
        self._position += len(view)
        return len(view)

    def read(self, size: int) -> bytes:
        data = bytearray(size)
        self.readinto(memoryview(data))
        return bytes(data)

    def write(self, data: memoryview) -> int:
        start, new = self._position, bytes(data)
        self._position += len(new)
        self._size = max(self._size, self._position)
        if start >= self._reachable:
            self._put(start, new)
        else:
            self._keep(start, new)
        return len(new)

    def _keep(self, start: int, new: bytes) -> None:
        """Note a change; where it overlaps others, they become one."""
        if len(self._changes.get(start, b"")) != len(new):
            stop = start + len(new)
            for address in [
                a for a, old in self._changes.items() if a < stop and start < a + len(old)
            ]:
                old = self._changes.pop(address)
                new = old[: max(0, start - address)] + new + old[max(0, stop - address) :]
                start, stop = min(start, address), max(stop, address + len(old))
        self._changes[start] = new

    def truncate(self, size: int) -> None:
        self._size = size

    def flush(self) -> None:
        """HDF5 calls this at the end of its own flush: the file's state is whole now."""
        self._resize(
            max(self._size, self._reachable)
        )  # never shorter than a superblock on the disk says
        changes, self._changes = self._changes, {}
        for address in sorted(changes, key=lambda a: (_turn(a, changes[a]), -a)):
            self._put(address, changes[address])
        if self._size < self._reachable:
            self._resize(self._size)
        self._reachable = self._size

    def _resize(self, size: int) -> None:
        if self.error is None:
            try:
                os.ftruncate(self._fd, size)
            except OSError as error:
                self.error = error

    def _put(self, address: int, data: bytes) -> None:
        view = memoryview(data)
        while view and self.error is None:
            try:
                count = os.pwrite(self._fd, view, address)
            except OSError as error:
                self.error = error
                return
            address, view = address + count, view[count:]

    def close(self) -> None:
        """Write what is kept back and close."""
        self.flush()
        os.close(self._fd)


def _turn(address: int, data: bytes) -> int:
    """When a change is written: superblock, then everything else, then a group's tree, then its leaves.

    A leaf (SNOD) names places in the group's heap, so the heap precedes it. A leaf that was split is halved last: until
    then the moved entries are listed twice, not lost.
    """
    if address == 0:
        return 0
    return {b"TREE\0": 2, b"SNOD\1": 3}.get(data[:5], 1)
