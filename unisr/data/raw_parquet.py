"""Official files in parquet: the columns that are needed, and the rows that keep what their columns promise."""

from __future__ import annotations

from collections.abc import Collection

import polars as pl

from unisr.data.raw import Malformed, check_columns
from unisr.errors import DataError

MILLISECONDS_FROM = 10**11


def whole(number: pl.Expr) -> pl.Expr:
    """Whole numbers of any type as int64, null for anything else: a cast alone makes 0 of 0.5."""
    value = number.cast(pl.Float64, strict=False)
    return pl.when(value == value.floor()).then(number.cast(pl.Int64, strict=False))


def seconds(time: pl.Expr) -> pl.Expr:
    """Unix seconds of times, int64; those of at least `MILLISECONDS_FROM` are in milliseconds."""
    time = whole(time)
    return pl.when(time >= MILLISECONDS_FROM).then(time // 1000).otherwise(time)


def parquet_rows(
    malformed: Malformed,
    needed: Collection[str],
    known: Collection[str] | None,
    wanted: pl.Expr | None = None,
    **columns: pl.Expr,
) -> pl.DataFrame:
    """`columns` and `line` (the row, from 1) of the rows of a parquet file that are `wanted`; counts its rows.

    columns: by name, made of the `needed` columns of the file. known: the other columns of the format; one beyond
    them is counted once, at row 1; None does not look for them.

    Raises:
        DataError: the file is no parquet file or damaged, lacks a column, or one has another type.
    """
    scan = pl.scan_parquet(malformed.path, row_index_name="line", row_index_offset=1, glob=False)
    try:
        names = scan.collect_schema().names()
        check_columns(malformed, names, needed, None if known is None else {"line", *known})
        malformed.lines = scan.select(pl.len()).collect().item()
        rows = scan if wanted is None else scan.filter(wanted)
        return rows.select("line", **columns).collect(engine="streaming")
    # polars panics where a damaged page breaks a rule that it relies on.
    except (pl.exceptions.PolarsError, pl.exceptions.PanicException, OSError) as reason:
        raise DataError(f"{malformed.path}: {str(reason).splitlines()[0]}; get the file again") from None


def without(rows: pl.DataFrame, flaws: dict[str, pl.Expr], malformed: Malformed) -> pl.DataFrame:
    """The rows without a flaw, given by kind; the first flaw of each of the others is counted at its `line`."""
    for kind, wrong in flaws.items():
        bad = rows.select(wrong.fill_null(False)).to_series()
        malformed.add(kind, rows.filter(bad)["line"].to_list())
        rows = rows.filter(~bad)
    return rows
