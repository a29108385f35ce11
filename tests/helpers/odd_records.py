"""Records that no run writes: each function changes a good one, open for writing."""

from __future__ import annotations

import os
from collections.abc import Callable
from pathlib import Path

import h5py
import numpy as np

from sde_harl.record.schema import TABLES

COLUMNS = [f"{table}/{name}" for table, columns in TABLES.items() for name in columns]
COLUMNS += ["training/step", "training/return_mean"]
PIPE = "pipe"
"""A FIFO beside the record, in which nobody writes: a reader that opens it hangs."""


def _replace(file: h5py.File, name: str, **made: object) -> None:
    del file[name]
    file.create_dataset(name, **made)


def scalar(file: h5py.File, name: str) -> None:
    _replace(file, name, data=1.0)


def text(file: h5py.File, name: str) -> None:
    _replace(file, name, data=["a", "b"], dtype=h5py.string_dtype())


def long_text(file: h5py.File, name: str) -> None:
    _replace(file, name, shape=(4,), dtype=f"S{1 << 30}", chunks=(1,))


def two_dimensions(file: h5py.File, name: str) -> None:
    _replace(file, name, data=np.zeros((200, 2)))


def missing(file: h5py.File, name: str) -> None:
    del file[name]


def other_type(file: h5py.File, name: str) -> None:
    kind = "f8" if file[name].dtype.kind in "iu" else "i8"
    _replace(file, name, data=np.full(200, -5), dtype=kind)


def external_storage(file: h5py.File, name: str) -> None:
    dtype = file[name].dtype
    pipe = str(Path(file.filename).with_name(PIPE))
    _replace(file, name, shape=(200,), dtype=dtype, external=[(pipe, 0, 200 * dtype.itemsize)])


def soft_link(file: h5py.File, name: str) -> None:
    del file[name]
    file[name] = h5py.SoftLink("/decisions/step")


def link_in_a_circle(file: h5py.File, name: str) -> None:
    del file[name]
    file[name] = h5py.SoftLink(f"/{name}")


def external_link(file: h5py.File, name: str) -> None:
    del file[name]
    file[name] = h5py.ExternalLink(str(Path(file.filename).with_name(PIPE)), "/x")


def virtual(file: h5py.File, name: str) -> None:
    dtype = file[name].dtype
    del file[name]
    layout = h5py.VirtualLayout((200,), dtype)
    layout[:] = h5py.VirtualSource(str(Path(file.filename).with_name(PIPE)), "x", (200,))
    file.create_virtual_dataset(name, layout)


def endless(file: h5py.File, name: str) -> None:
    _replace(file, name, shape=(1 << 40,), dtype=file[name].dtype, chunks=(1024,), maxshape=(None,))


def endless_in_one_piece(file: h5py.File, name: str) -> None:
    _replace(file, name, shape=(1 << 40,), dtype=file[name].dtype)


def one_large_chunk(file: h5py.File, name: str) -> None:
    _replace(file, name, shape=(1 << 26,), dtype=file[name].dtype, chunks=(1 << 26,))


def packed(file: h5py.File, name: str) -> None:
    _replace(file, name, shape=(1 << 20,), dtype="f8", compression="gzip", chunks=(1 << 16,))
    file[name][:] = 0


def group(file: h5py.File, name: str) -> None:
    del file[name]
    file.create_group(name)


def table_as_column(file: h5py.File, name: str) -> None:
    table = name.partition("/")[0]
    del file[table]
    file[table] = np.zeros(200)


def empty_space(file: h5py.File, name: str) -> None:
    _replace(file, name, data=h5py.Empty("f8"))


def reference(file: h5py.File, name: str) -> None:
    _replace(file, name, data=[file["meta"].ref] * 200, dtype=h5py.ref_dtype)


def compound(file: h5py.File, name: str) -> None:
    _replace(file, name, data=np.zeros(200, [("a", "f8"), ("b", "i4")]))


def extremes(file: h5py.File, name: str) -> None:
    dtype = file[name].dtype
    if dtype.kind in "iu":
        file[name][:] = np.iinfo(dtype).max
    elif dtype.kind == "f":
        file[name][:] = np.finfo(dtype).max


def zeros(file: h5py.File, name: str) -> None:
    file[name][:] = np.zeros(len(file[name]), file[name].dtype)


def not_numbers(file: h5py.File, name: str) -> None:
    if file[name].dtype.kind == "f":
        file[name][:] = np.resize([np.nan, np.inf, -np.inf], len(file[name]))


def no_meta(file: h5py.File, name: str) -> None:
    del file["meta"]


def meta_is_a_column(file: h5py.File, name: str) -> None:
    del file["meta"]
    file["meta"] = 1.0


OF_COLUMNS: tuple[Callable[[h5py.File, str], None], ...] = (
    *(scalar, text, long_text, two_dimensions, missing, other_type, external_storage, soft_link),
    *(link_in_a_circle, external_link, virtual, endless, endless_in_one_piece, one_large_chunk),
    *(packed, group, table_as_column, empty_space, reference, compound, extremes, zeros),
    *(not_numbers, no_meta, meta_is_a_column),
)

BOMB = "\n".join(
    ["a0: &a0 [0, 0, 0, 0, 0, 0, 0, 0, 0]"]
    + [f"a{k}: &a{k} [{', '.join([f'*a{k - 1}'] * 9)}]" for k in range(1, 30)]
    + ["policy: *a29", "codec: *a29", "train: *a29"]
)
ATTRIBUTES: tuple[object, ...] = (
    *("", "[", "[[", "{}", "null", "3", "[null]", "[1.5]", "[-1]", "[{}]", "[[[]]]", "[true]"),
    *('["a", "a"]', '{"a": 1, "a": 2}', "NaN", "[NaN]", "[1e999]", "[" * 90_000, BOMB),
    *("policy: 3", "policy: {blocks: x, local_blocks: []}", "codec: {rate_coef: .nan}", "%%"),
    *("x" * 60_000, "[99999999999999999999999]", b"\xff\xfe", 5, -1, 1 << 62, 1.5, float("nan")),
    *(True, np.zeros(4000), np.zeros((2, 2)), ["a", "b"], h5py.Empty("f8"), "[/x]\x1b]0;t\x07"),
)


def make_pipe(folder: Path) -> None:
    """Makes PIPE in a folder."""
    if not (folder / PIPE).exists():
        os.mkfifo(folder / PIPE)


def set_attribute(file: h5py.File, name: str, value: object) -> None:
    del file["meta"].attrs[name]
    file["meta"].attrs[name] = value
