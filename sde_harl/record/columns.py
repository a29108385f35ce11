"""Turns what a caller gives for a table into arrays of the columns' types."""

from __future__ import annotations

from collections.abc import Mapping

import numpy as np
import numpy.typing as npt

from sde_harl.record.schema import TABLES, Array

Dtypes = dict[str, str]


class ColumnTypes:
    """Knows the columns of every table; those of `training` from the first row on."""

    def __init__(self) -> None:
        self._of_table: dict[str, Dtypes] = {
            name: {key: column.dtype for key, column in columns.items()}
            for name, columns in TABLES.items()
        }

    def arrays(self, table: str, columns: Mapping[str, npt.ArrayLike]) -> dict[str, Array]:
        """Returns copies of the columns as arrays (K,) of the types that the file stores.

        Raises ValueError for an unknown table, unknown or missing columns, uneven lengths, or a
        type that would lose its meaning (a fraction in a column of integers).
        """
        if table not in TABLES:
            raise ValueError(f"no table {table!r}: one of {', '.join(TABLES)}")
        # HDF5 would make a group `a` that holds `b` from the name a/b.
        columns = {name.replace("/", "."): value for name, value in columns.items()}
        dtypes = self._of_table[table] or _dtypes_of_scalars(columns)
        if table == "training" and "step" in columns:
            # A scalar that this row lacks, for instance because no episode ended, is unknown.
            columns = {**dict.fromkeys(dtypes, np.nan), **columns}
        if columns.keys() != dtypes.keys():
            raise ValueError(f"{table}: columns {sorted(columns)} are not {sorted(dtypes)}")
        arrays = {
            key: _stored(f"{table}.{key}", value, dtypes[key]) for key, value in columns.items()
        }
        lengths = {len(values) for values in arrays.values()}
        if len(lengths) != 1:
            raise ValueError(f"{table}: columns of {sorted(lengths)} rows in one call")
        # Only a row that passed every check may name the columns of `training`.
        self._of_table[table] = dtypes
        return arrays


def _dtypes_of_scalars(columns: Mapping[str, npt.ArrayLike]) -> Dtypes:
    dtypes = dict.fromkeys(columns, "f8")
    if "step" in dtypes:
        dtypes["step"] = "i8"
    return dtypes


def _stored(name: str, value: npt.ArrayLike, dtype: str) -> Array:
    """Returns a copy of `value` as a 1-d array of `dtype`; raises ValueError if it doesn't fit."""
    array = np.atleast_1d(np.asarray(value))
    if array.ndim != 1:
        raise ValueError(f"{name}: {array.ndim} dimensions where one is stored")
    if dtype.startswith("S"):
        return np.array([str(text).encode() for text in array], dtype=dtype)
    # "same_kind" lets float64 become float32, but no float an integer and no integer a bool.
    if not np.can_cast(array.dtype, dtype, casting="same_kind"):
        raise ValueError(f"{name}: {array.dtype} can't be stored as {dtype}")
    stored: Array = array.astype(dtype)  # astype copies, even where the type is the same
    return stored
