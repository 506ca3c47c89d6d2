"""Reading raw text tables: what is malformed is named by file, line and value."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pandas as pd

from unisr.errors import DataError


def read_rows(path: Path, columns: list[str], *, sep: str, encoding: str = "utf-8", header: bool) -> pd.DataFrame:
    """All fields as text, one row per line; the first line is skipped if `header`.

    Raises:
        DataError: a line has too few or too many fields, or the file is not in `encoding`.
    """
    try:
        lines = path.read_text(encoding=encoding).rstrip("\n").split("\n")[int(header) :]
    except (OSError, UnicodeDecodeError) as reason:
        raise DataError(f"{path}: {reason}; get the file again") from None
    fields = [line.split(sep) for line in lines]
    wrong = np.array([len(f) != len(columns) for f in fields], dtype=bool)
    if wrong.any() or not fields:
        line = _line(wrong, header) if fields else 1 + int(header)
        found = len(fields[int(np.argmax(wrong))]) if fields else 0
        raise DataError(
            f"{path}, line {line}: {found} fields, {len(columns)} are needed ({', '.join(columns[:6])} …); "
            "get the file again"
        )
    return pd.DataFrame(fields, columns=columns)


def integers(frame: pd.DataFrame, column: str, path: Path, *, header: bool) -> np.ndarray:
    """A text column as int64 (a value such as '3.0' is whole).

    Raises:
        DataError: a value is no whole number of at least 0.
    """
    texts = frame[column].str.strip()
    # Digits that a float holds exactly: of longer ones, or of "inf", a cast makes another number.
    wrong = ~texts.str.fullmatch(r"[0-9]{1,15}(\.0*)?").to_numpy(dtype=bool)
    if wrong.any():
        value = frame[column].iloc[int(np.argmax(wrong))]
        raise DataError(
            f"{path}, line {_line(wrong, header)}: {column} is {value!r}, not a whole number; get the file again"
        )
    return texts.astype(float).to_numpy().astype(np.int64)


def _line(wrong: np.ndarray, header: bool) -> int:
    return int(np.argmax(wrong)) + 1 + int(header)
