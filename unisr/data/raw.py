"""Reading official files: malformed lines are counted by kind, told by file and line, and refused when too many.

A line is malformed when it cannot be read or breaks what its columns promise; it is left out. Every kind is
counted, the summary is logged, and a file with more than `LIMIT` of malformed lines is refused. What is lost
in a damaged archive cannot be counted, so such a file is refused whole. Line numbers start at 1.
"""

from __future__ import annotations

import logging
import os
import zlib
from collections.abc import Collection, Iterable, Iterator
from dataclasses import dataclass, field
from pathlib import Path

import polars as pl

from unisr.data.download import pieces_of
from unisr.errors import DataError

LIMIT = 0.01
"""Largest share of malformed lines that is passed over."""
SHOWN = 5
"""Lines of each kind that the summary names."""
MAX_LINE = 1 << 20
"""Bytes; a longer line is malformed."""
BLOCK = 1 << 24
"""Bytes read at a time."""
BEYOND, FLAW = "\x00beyond", "\x00flaw"
"""Names of columns that no file has."""
WORDS = r"^\[\s*(\d+(\s*,\s*\d+)*)?\s*\]$"
log = logging.getLogger(__name__)


@dataclass
class Malformed:
    """The malformed lines of one file."""

    path: Path
    limit: float = LIMIT
    lines: int = 0
    """Lines of the file, counted by the readers."""
    passed: int = 0
    """Those of them that nobody looked at."""
    counts: dict[str, int] = field(default_factory=dict)
    """Malformed lines by kind."""
    first: dict[str, list[int]] = field(default_factory=dict)
    """The first few line numbers of each kind."""

    def add(self, kind: str, lines: Iterable[int]) -> None:
        """Count lines of a kind ("negative time"), given their numbers."""
        if numbers := list(lines):
            self.counts[kind] = self.counts.get(kind, 0) + len(numbers)
            shown = self.first.setdefault(kind, [])
            shown.extend(numbers[: SHOWN - len(shown)])

    def summary(self) -> str:
        """Such as "FILE: 3 of 900 lines are malformed: 2 x negative time (line 7, 90); 1 x no JSON (line 8)"."""
        parts = []
        for kind, count in sorted(self.counts.items(), key=lambda pair: (-pair[1], pair[0])):
            more = ", …" if count > len(self.first[kind]) else ""
            parts.append(f"{count} x {kind} (line {', '.join(map(str, self.first[kind]))}{more})")
        read = self.lines - self.passed
        return f"{self.path}: {sum(self.counts.values())} of {read} lines are malformed: {'; '.join(parts)}"

    def close(self) -> None:
        """Log the summary if there is anything to tell.

        Raises:
            DataError: more than `limit` of the lines are malformed, or the file has no lines.
        """
        if not self.lines:
            raise DataError(f"{self.path}: the file holds no lines; get it again")
        if sum(self.counts.values()) > self.limit * (self.lines - self.passed):
            raise DataError(f"{self.summary()}; at most {self.limit:.2%} may be: get the file again")
        if self.counts:
            log.warning("%s", self.summary())


def own_folder(folder: Path | None, environment: str, needed: Collection[str], advice: str) -> Path:
    """The folder given, or named by an environment variable, or the one folder in it that holds `needed`.

    Raises:
        DataError: no folder is named (the message is `advice`), or files are missing.
    """
    given = folder or (Path(os.environ[environment]).expanduser() if os.environ.get(environment) else None)
    if given is None:
        raise DataError(f"{advice} Then name the folder: --from FOLDER or the environment variable {environment}.")
    for place in (given, *sorted(p for p in given.glob("*") if p.is_dir())):
        if all((place / name).is_file() for name in needed):
            return place
    missing = [name for name in needed if not (given / name).is_file()]
    raise DataError(f"{given}: {', '.join(missing)} missing. {advice}")


def check_columns(
    malformed: Malformed, names: Collection[str], needed: Collection[str], known: Collection[str] | None
) -> None:
    """Count each column beyond `needed` and `known` once, at line 1; with `known` None none is counted.

    Raises:
        DataError: a needed column is not among `names`.
    """
    if missing := [name for name in needed if name not in names]:
        raise DataError(f"{malformed.path}: column {', '.join(missing)} missing; is this the official file?")
    for name in sorted({*names} - {*needed, *known}) if known is not None else ():
        malformed.add(f"unknown column {name[:40]}", [1])


def unique_rows(rows: pl.DataFrame, key: list[str], malformed: Malformed) -> pl.DataFrame:
    """The first row of every key; the others (which need their `line`) are counted as duplicates."""
    first = rows.select(pl.struct(key).is_first_distinct()).to_series()
    malformed.add(f"duplicate {', '.join(key)}", rows.filter(~first)["line"].to_list())
    return rows.filter(first)


def blocks(malformed: Malformed) -> Iterator[tuple[int, bytes]]:
    """(number of its first line, some whole lines) through a file, plain or gzip; counts its lines.

    A line longer than a block is cut, so its pieces fail to parse.

    Raises:
        DataError: the file cannot be read, or the archive is cut short or damaged (the message names the last whole
            line), or it expands too much.
    """
    path, pieces, size = malformed.path, [], 0
    try:
        for piece in pieces_of(path, BLOCK):
            pieces.append(piece)
            size += len(piece)
            if size < BLOCK:
                continue
            block, newline, rest = b"".join(pieces).rpartition(b"\n")
            yield _counted(malformed, block + newline if newline else rest)
            pieces, size = ([rest], len(rest)) if newline else ([], 0)
    except (EOFError, zlib.error, OSError) as reason:
        whole = malformed.lines + b"".join(pieces).count(b"\n")
        raise DataError(f"{path}: after line {whole}: {reason}; get the file again") from None
    if size:
        yield _counted(malformed, b"".join(pieces))


def _counted(malformed: Malformed, block: bytes) -> tuple[int, bytes]:
    first = malformed.lines + 1
    malformed.lines += block.count(b"\n") + (not block.endswith(b"\n"))
    return first, block


def csv_rows(malformed: Malformed, needed: dict[str, str], known: Collection[str], keep: pl.Expr) -> pl.DataFrame:
    """The `needed` columns of a comma-separated file with a header, and `line`, of the rows that `keep` wants.

    needed: by column, "integer" (at least 0), "time" (the same, but may be written as a float), "text" (an empty
    one is ""), "words": a list of word ids, "[12, 7]", which becomes "w12 w7", or "caption": words or nothing.
    known: the other columns of the format. A column of the header beyond them is counted once, at line 1.

    Raises:
        DataError: the header lacks a column, or a quotation mark has no end.
    """
    header = _header(malformed, needed, known)
    scan = pl.scan_csv(
        malformed.path, has_header=False, skip_lines=1, row_index_name="line", row_index_offset=2,
        schema=dict.fromkeys([*header, BEYOND], pl.String), encoding="utf8-lossy",
        truncate_ragged_lines=True, missing_columns="insert",
    )  # fmt: skip
    flaws = {"unknown column": pl.col(BEYOND).is_not_null()}
    for name, kind in needed.items():
        flaws |= _flaws(name, kind)
    # Of the flaws of a row the first counts; 0 is none.
    first = pl.coalesce(*(pl.when(wrong).then(i) for i, wrong in enumerate(flaws.values(), start=1)), 0)
    columns = [_value(name, kind).alias(name) for name, kind in needed.items()]
    table = scan.select("line", *columns, first.cast(pl.UInt8).alias(FLAW)).filter((pl.col(FLAW) > 0) | keep)
    try:
        malformed.lines = scan.select(pl.len()).collect().item()
        rows = table.collect(engine="streaming")
    except pl.exceptions.PolarsError as reason:
        raise DataError(f"{malformed.path}: {_unclosed(malformed.path) or reason}; get the file again") from None
    wrong = rows.filter(pl.col(FLAW) > 0)
    for i, kind in enumerate(flaws, start=1):
        malformed.add(kind, wrong.filter(pl.col(FLAW) == i)["line"].to_list())
    return rows.filter(pl.col(FLAW) == 0).drop(FLAW)


def _header(malformed: Malformed, needed: Collection[str], known: Collection[str]) -> list[str]:
    _, block = next(blocks(Malformed(malformed.path)), (1, b""))
    header = block.split(b"\n", 1)[0].decode(errors="replace").strip().removeprefix("\ufeff").split(",")
    check_columns(malformed, header, needed, known)
    return header


def _value(name: str, kind: str) -> pl.Expr:
    raw = pl.col(name)
    if kind == "integer":
        return raw.cast(pl.Int64, strict=False)
    if kind == "time":
        return raw.cast(pl.Float64, strict=False).cast(pl.Int64, strict=False)
    if kind == "text":
        return raw.fill_null("")
    tokens = raw.str.replace_all(r"\D+", " ").str.strip_chars(" ").str.replace_all(r"(\d+)", "w${1}")
    return tokens.fill_null("")


def _flaws(name: str, kind: str) -> dict[str, pl.Expr]:
    """What makes a row malformed, by kind."""
    raw, value = pl.col(name), _value(name, kind)
    not_utf8 = {f"{name} not UTF-8": raw.str.contains("\ufffd", literal=True)}
    if kind == "text":
        return not_utf8
    absent = {f"no {name}": raw.is_null()}
    if kind in ("words", "caption"):
        return (absent if kind == "words" else {}) | not_utf8 | {f"wrong type of {name}": ~raw.str.contains(WORDS)}
    return absent | not_utf8 | {f"wrong type of {name}": value.is_null(), f"negative {name}": value < 0}


def _unclosed(path: Path) -> str:
    """Where the first odd number of quotation marks is; empty if nowhere."""
    for first, block in blocks(Malformed(path)):
        for number, line in enumerate(block.split(b"\n"), start=first):
            if line.count(b'"') % 2:
                return f"line {number}: a quotation mark has no end"
    return ""
