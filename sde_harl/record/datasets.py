"""Takes groups, columns and attributes out of an HDF5 file that a stranger may have written.

HDF5 lets a file say much that a record never says: that a column lies in another file (or in a
pipe, whose reader waits for ever), that it is computed by filters, or that it has 2^40 rows. All of
that is refused here, before anything is read or allocated. Every function raises ValueError that
names what is wrong.
"""

from __future__ import annotations

import mmap
import os
import struct
from pathlib import Path

import h5py
import numpy as np

from sde_harl.record.schema import Array, Column

HEAP = b"GCOL\1\0\0\0"
"""How a heap begins; its size follows."""
OBJECT = struct.Struct("<H6xQ")
"""An object in a heap: its index, 0 for a free one, and its size."""
MOST_TEXT_BYTES = 1 << 24
"""Of an attribute. The longest is the configuration."""
MOST_CHUNK_BYTES = 1 << 24
"""Of a column's chunk. Ours are of 16384 rows at most (store.py)."""


def check_texts(path: Path) -> None:
    """Raises ValueError for a file whose texts HDF5 would read for ever.

    It keeps texts in heaps, and walks a heap by the sizes of its objects: from a free one of size 0
    it never gets on (seen with HDF5 2.0.0).
    """
    with path.open("rb") as file, mmap.mmap(file.fileno(), 0, access=mmap.ACCESS_READ) as content:
        at = content.find(HEAP)
        while at >= 0:
            if _has_no_end(content, at):
                raise ValueError("a heap of texts has no end")
            at = content.find(HEAP, at + 1)


def _has_no_end(content: mmap.mmap, at: int) -> bool:
    """Returns whether the walk through the heap at an address would stand still."""
    (size,) = struct.unpack_from("<Q", content[at : at + 16].ljust(16, b"\0"), 8)
    end = min(at + size, len(content))
    place = at + OBJECT.size
    while end - place >= OBJECT.size:
        index, object_bytes = OBJECT.unpack_from(content, place)
        if index:
            object_bytes = OBJECT.size + -(-object_bytes // 8) * 8
        elif object_bytes == 0:
            return True
        place += object_bytes
    return False


def member(group: h5py.Group, name: str) -> h5py.Group | h5py.Dataset | None:
    """Returns a group or dataset by its name in a group; None where the group has no such name."""
    link = group.get(name, getlink=True)
    if link is None:
        return None
    # Before it is followed: it may lead to any file of this host.
    if not isinstance(link, h5py.HardLink):
        raise ValueError(f"{name} is a link to elsewhere")
    found = group[name]
    if not isinstance(found, (h5py.Group, h5py.Dataset)):
        raise ValueError(f"{name} is neither a group nor a column")
    return found


def subgroup(group: h5py.Group, name: str) -> h5py.Group:
    """Returns a group in a group."""
    found = member(group, name)
    if not isinstance(found, h5py.Group):
        raise ValueError(f"there is no group {name}")
    return found


def column(group: h5py.Group, name: str, expected: Column) -> h5py.Dataset:
    """Returns a column that has the type of `expected`; `values_of` reads it."""
    data = dataset(group, name)
    if data.dtype != np.dtype(expected.dtype):
        raise ValueError(f"column {name} is {data.dtype}, not {np.dtype(expected.dtype)}")
    if data.ndim != 1:
        raise ValueError(f"column {name} has {data.ndim} dimensions, not 1")
    return data


def values_of(name: str, data: h5py.Dataset, expected: Column, first: int, rows: int) -> Array:
    """Returns a column's values (rows - first,), which are in the range of `expected`.

    rows: as `readable_rows` returns them. Where a kill has left the column without its last chunk,
    the values before that are returned.
    """
    values = _read(data, first, rows)
    if expected.least is not None and len(values) and values.min() < expected.least:
        raise ValueError(f"column {name} holds {values.min()}, below {expected.least}")
    return values


def array(group: h5py.Group, name: str) -> Array:
    """Returns an array of numbers of any shape but a scalar's."""
    data = dataset(group, name)
    if data.dtype.kind not in "biuf" or not data.ndim:
        raise ValueError(f"{name} is no array of numbers")
    if data.nbytes > data.id.get_storage_size():
        raise ValueError(f"{name} is larger than its place in the file")
    return np.asarray(data[:])


def dataset(group: h5py.Group, name: str) -> h5py.Dataset:
    """Returns a dataset whose values lie in this file as they are."""
    data = member(group, name)
    if not isinstance(data, h5py.Dataset):
        raise ValueError(f"there is no column {name}")
    # Before its shape is asked for: that of a virtual one is looked up in other files.
    made = data.id.get_create_plist()
    if made.get_layout() == h5py.h5d.VIRTUAL or made.get_external_count():
        raise ValueError(f"column {name} lies in other files")
    # Ours have none. A filter's few bytes may unpack to any number.
    if made.get_nfilters():
        raise ValueError(f"column {name} is packed: unpack it with h5repack -f NONE")
    return data


def readable_rows(data: h5py.Dataset) -> int:
    """Returns how many rows have a place in the file."""
    rows = int(data.shape[0])
    size = data.dtype.itemsize
    chunk = data.chunks[0] if data.chunks else 0
    if chunk * size > MOST_CHUNK_BYTES:
        raise ValueError(f"{data.name} comes in chunks of {chunk:,} rows")
    stored = data.id.get_storage_size() // size
    place = min(stored, os.stat(data.file.filename).st_size // size)
    # A kill can leave a column whose length already counts a chunk that isn't on the disk.
    if rows > place + chunk:
        raise ValueError(f"{data.name} has {rows:,} rows, and a place for {place:,}")
    return int(min(rows, stored))


def _read(data: h5py.Dataset, first: int, rows: int) -> Array:
    """Returns rows `first` to `rows`; where the last chunk can't be read, those before it."""
    try:
        return np.asarray(data[first:rows])
    except OSError:
        # As above: here the file's index names a place that the file doesn't reach.
        chunk = data.chunks[0] if data.chunks else rows
        readable = max(0, rows - 1) // chunk * chunk
        return np.asarray(data[first:readable])


def attribute(group: h5py.Group, name: str, kind: type) -> str | int | None:
    """Returns an attribute of Python's type `kind`, int or str; None where there is none."""
    if name not in group.attrs:
        return None
    about = h5py.h5a.open(group.id, name.encode())
    is_text = h5py.check_string_dtype(about.dtype) is not None
    if about.shape != () or is_text != (kind is str) or about.get_storage_size() > MOST_TEXT_BYTES:
        raise ValueError(f"{name} is no {'text' if kind is str else 'number'}")
    value = group.attrs[name]
    if kind is int and not isinstance(value, np.integer):
        raise ValueError(f"{name} is {about.dtype}, not a whole number")
    if kind is int:
        return int(value)
    if isinstance(value, bytes):
        return value.decode(errors="replace")
    return str(value)
