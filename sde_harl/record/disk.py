"""A file for HDF5 to write to that stays readable when its writer is killed.

HDF5 flushes changed metadata in the order of ascending address. A parent lies below its children,
so a parent reaches the disk before the child that it now points at. A process killed between the
two leaves a group that can't be listed. With one group for each episode, one kill in ten did that
(measured by replaying every prefix of the writes).

The order here is another one:

1. New data, which nothing on the disk points at yet, is written at once.
2. Changes to old data are kept in memory until the flush ends, then written without a pause: first
   the superblock, which holds the file's new end; then the rest by descending address, so that
   children, made later and lying higher, come before their parents.

By the same measure no prefix of these writes damages a table. Linking a recorded episode changes
the list of its parent in two places, and a kill in the few microseconds between them can still
damage the list of episodes, but no table.
"""

from __future__ import annotations

import os
from pathlib import Path


class OrderedFile:
    """Implements the file object that h5py asks for (see "Python file-like objects" in its manual).

    An error of the disk must not reach HDF5: its clean-up would fail half-way and could crash the
    process. The first error is kept in `error`, and nothing is written after it.
    """

    def __init__(self, path: Path, *, superblock: int) -> None:
        """Makes the file, empty. Raises OSError. `superblock` is the address where HDF5 begins."""
        self._superblock = superblock
        self._fd = os.open(path, os.O_RDWR | os.O_CREAT | os.O_TRUNC | os.O_CLOEXEC, 0o644)
        self._position = 0
        self._size = 0  # as HDF5 sees it
        self._reachable = 0  # bytes that the state last flushed may point into
        self._changes: dict[int, bytes] = {}  # address -> bytes; they don't overlap
        self.error: OSError | None = None

    def seek(self, offset: int, whence: int = os.SEEK_SET) -> int:
        # HDF5 seeks from the start, or from the end to learn the size; never from the position.
        self._position = offset
        if whence == os.SEEK_END:
            self._position += self._size
        return self._position

    def tell(self) -> int:
        return self._position

    def readinto(self, buffer: memoryview) -> int:
        start = self._position
        view = memoryview(buffer).cast("B")
        found = os.pread(self._fd, len(view), start)
        view[: len(found)] = found
        # Space that HDF5 has allocated but not written reads as zeros.
        view[len(found) :] = bytes(len(view) - len(found))
        self._lay_changes_over(view, start)
        self._position += len(view)
        return len(view)

    def _lay_changes_over(self, view: memoryview, start: int) -> None:
        """Replaces what was read from the disk by the changes that aren't written yet."""
        for address, data in self._changes.items():
            low = max(start, address)
            high = min(start + len(view), address + len(data))
            if low < high:
                view[low - start : high - start] = data[low - address : high - address]

    def read(self, size: int) -> bytes:
        data = bytearray(size)
        self.readinto(memoryview(data))
        return bytes(data)

    def write(self, data: memoryview) -> int:
        start = self._position
        new = bytes(data)  # a copy: HDF5 uses its buffer again
        self._position += len(new)
        self._size = max(self._size, self._position)
        if start >= self._reachable:
            self._put(start, new)
        else:
            self._keep(start, new)
        return len(new)

    def _keep(self, start: int, new: bytes) -> None:
        """Keeps a change until the flush; a change that overlaps others is merged with them."""
        # The usual case, the same block once more, needs no search.
        if len(self._changes.get(start, b"")) == len(new):
            self._changes[start] = new
            return
        stop = start + len(new)
        for address in self._overlapping(start, stop):
            old = self._changes.pop(address)
            before = old[: max(0, start - address)]
            behind = old[max(0, stop - address) :]
            new = before + new + behind
            start = min(start, address)
            stop = max(stop, address + len(old))
        self._changes[start] = new

    def _overlapping(self, start: int, stop: int) -> list[int]:
        """Returns the addresses of the kept changes that touch start..stop."""
        return [
            address
            for address, data in self._changes.items()
            if address < stop and start < address + len(data)
        ]

    def truncate(self, size: int) -> None:
        self._size = size

    def flush(self) -> None:
        """Writes the kept changes. HDF5 calls this at the end of its own flush."""
        # Never shorter than the superblock on the disk says, until the new one is there.
        self._resize(max(self._size, self._reachable))
        changes = self._changes
        self._changes = {}
        turns = {address: self._turn(address, data) for address, data in changes.items()}
        for address in sorted(changes, key=lambda each: (turns[each], -each)):
            self._put(address, changes[address])
        if self._size < self._reachable:
            self._resize(self._size)
        self._reachable = self._size

    def _turn(self, address: int, data: bytes) -> int:
        """Returns when a change is written: superblock, most blocks, a group's tree, its leaves.

        A leaf (SNOD) holds offsets into the group's heap of names, so the heap comes before it.
        A leaf that was split is shortened last: until then, the entries that moved are listed twice
        instead of being lost.
        """
        if address == self._superblock:
            return 0
        return {b"TREE\0": 2, b"SNOD\1": 3}.get(data[:5], 1)

    def _resize(self, size: int) -> None:
        if self.error is not None:
            return
        try:
            os.ftruncate(self._fd, size)
        except OSError as error:
            self.error = error

    def _put(self, address: int, data: bytes) -> None:
        view = memoryview(data)
        # pwrite may write less than it was given, for instance when the disk is nearly full.
        while view and self.error is None:
            try:
                count = os.pwrite(self._fd, view, address)
            except OSError as error:
                self.error = error
                return
            address += count
            view = view[count:]

    def close(self) -> None:
        """Writes the kept changes and closes the file."""
        self.flush()
        os.close(self._fd)
