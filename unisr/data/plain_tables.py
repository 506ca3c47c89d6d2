"""Published pickles as tables: columns of numbers, texts and lists of numbers, fit for parquet."""

from __future__ import annotations

import logging
from collections.abc import Collection, Iterable
from pathlib import Path
from typing import Any

import numpy as np
import polars as pl

from unisr.data.plain_arrays import Array, Table
from unisr.data.plain_pickle import load_plain
from unisr.data.raw_lines import parse_literal
from unisr.errors import DataError
from unisr.paths import whole_file

MAX_VALUES = 1 << 30
"""Numbers in the lists of a column: a small file can name one long list in every row."""
log = logging.getLogger(__name__)


def plain_table(path: Path, only: Collection[str] = ()) -> pl.DataFrame:
    """The table that a pickle holds; a column of anything but numbers, texts or lists of numbers is left out and told.

    only: the columns that are wanted, where they are there; all if none is named.

    The pickle may hold a pandas table; a dictionary of arrays, one a column; a dictionary of dictionaries, one a row,
    whose key is in the column `user`; or a list, one entry a row, which is the column `words`. In a column of lists,
    a number is a list of one and a text is the literal of a list.

    Raises:
        DataError: the file is refused (see `plain_pickle`) or holds something else.
    """
    columns = []
    for name, values in _columns(path, load_plain(path)).items():
        if only and name not in only:
            continue
        try:
            columns.append(_series(name, values))
        except (TypeError, ValueError, OverflowError, pl.exceptions.PolarsError) as reason:
            log.warning("%s: column %s is left out: %s", path, name, str(reason).splitlines()[0][:100])
    try:
        return pl.DataFrame(columns)
    except pl.exceptions.PolarsError as reason:
        raise DataError(f"{path}: {str(reason).splitlines()[0]}") from None


def write_parquet(folder: Path, target: Path, names: Iterable[str]) -> dict[str, pl.Schema]:
    """Write the table of each pickle `name`.pkl that `folder` has as `name`.parquet into `target`; the columns by name.

    Prints the rows and columns of each. A file appears whole or not at all.

    Raises:
        DataError: as `plain_table`.
    """
    found: dict[str, pl.Schema] = {}
    for name in names:
        if not (folder / f"{name}.pkl").is_file():
            continue
        table = plain_table(folder / f"{name}.pkl")
        with whole_file(target / f"{name}.parquet") as draft:
            table.write_parquet(draft)
        found[name] = table.schema
        print(f"{name}: {len(table):,} rows; {', '.join(f'{n} {kind}' for n, kind in table.schema.items())}")
    return found


def _columns(path: Path, value: Any) -> dict[str, Any]:
    """The columns of a value, by name."""
    if isinstance(value, Table):
        return value.columns
    if isinstance(value, list):
        return {"words": value}
    rows = list(value.values()) if isinstance(value, dict) else []
    if rows and all(isinstance(row, Array) for row in rows):
        return {str(name): array for name, array in value.items()}
    if rows and all(isinstance(row, dict) and row.keys() == rows[0].keys() for row in rows):
        return {"user": list(value), **{str(name): [row[name] for row in rows] for name in rows[0]}}
    raise DataError(f"{path}: a {type(value).__name__} of which no table can be made")


def _series(name: str, values: Any) -> pl.Series:
    """A column; raises TypeError or ValueError for anything but numbers, texts and lists of numbers."""
    if isinstance(values, np.ndarray | Array):
        array = np.asarray(values)
        if not array.dtype.hasobject:
            numbers = pl.Series(name, np.ascontiguousarray(array.astype(array.dtype.newbyteorder("="))))
            return numbers if array.ndim == 1 else numbers.cast(pl.List(numbers.dtype.inner))
        values = array.tolist()
    kinds = {type(value) for value in values}
    if kinds <= {int, type(None)}:
        return pl.Series(name, values, dtype=pl.Int64)
    if kinds <= {str, type(None)} and not any(value and value.startswith("[") for value in values):
        return pl.Series(name, values, dtype=pl.String)
    if kinds <= {float, int, type(None)}:
        return pl.Series(name, [None if value is None else float(value) for value in values], dtype=pl.Float64)
    # Before any list is copied: one may stand in every row.
    if (numbers := sum(map(_size, values))) > MAX_VALUES:
        raise ValueError(f"{numbers} numbers; at most {MAX_VALUES}")
    return _lists(name, [_listed(value) for value in values])


def _size(value: Any) -> int:
    return np.asarray(value).size if isinstance(value, Array) else len(value) if isinstance(value, list | tuple) else 1


def _listed(value: Any) -> list[Any] | None:
    """A row of a column of lists."""
    if isinstance(value, str):
        value = parse_literal(value)
    if isinstance(value, int):
        return [value]
    if isinstance(value, Array):
        value = np.asarray(value).tolist()
    if value is None or isinstance(value, list):
        return value
    if isinstance(value, tuple):
        return list(value)
    raise TypeError(f"a {type(value).__name__}")


def _lists(name: str, rows: list[list[Any] | None]) -> pl.Series:
    kinds = set()
    for row in rows:
        kinds.update(map(type, row or ()))
    if not kinds <= {int, float}:
        raise TypeError(f"lists of {', '.join(sorted(kind.__name__ for kind in kinds))}")
    if float in kinds:
        rows = [row and list(map(float, row)) for row in rows]
    return pl.Series(name, rows, dtype=pl.List(pl.Float64 if float in kinds else pl.Int64))
