"""Official files of one object a line: JSON, read in columns where nothing is wrong, and Python literals."""

from __future__ import annotations

import ast
import json
import re
import warnings
from collections.abc import Callable, Collection, Iterator
from typing import Any

import polars as pl

from unisr.data.raw import MAX_LINE, Malformed, blocks

DOUBTFUL = r"^(\[|\{|(true|false|)$)"
"""Texts that may have been another type before the columnar reader took them for text."""
HALVES = re.compile(
    rb"\\u[dD][89abAB][0-9a-fA-F]{2}(?!\\u[dD][c-fC-F])|(?<!\\u[dD][89abAB][0-9a-fA-F]{2})\\u[dD][c-fC-F]"
)
"""Half of a character, which the columnar reader takes for another one."""


def parse_literal(text: str) -> Any:
    """The value of a Python literal; nothing is evaluated.

    Raises:
        ValueError: the text is longer than `MAX_LINE` or no literal.
    """
    if len(text) > MAX_LINE:
        raise ValueError(f"longer than {MAX_LINE} characters")
    try:
        with warnings.catch_warnings():
            # Texts hold stray backslashes, of which the parser warns.
            warnings.simplefilter("ignore")
            return ast.literal_eval(text)
    except (ValueError, SyntaxError, TypeError, MemoryError, RecursionError, OverflowError) as reason:
        raise ValueError(f"no Python literal: {str(reason)[:80]}") from None


def literal_lines(
    malformed: Malformed, *, wanted: Callable[[bytes], bool], without: re.Pattern[str]
) -> Iterator[tuple[int, dict[str, Any]]]:
    """(line number, dictionary) of each line that is a Python literal, of the lines that are `wanted`.

    wanted: looks at the raw line; other lines are neither parsed nor checked.
    without: text to cut out before parsing, which is most of the cost; a line that it breaks, or that has a double
    quote, is parsed whole. It must hold a single quote, which stands in a text between single ones only as \\'.
    """
    for first, block in blocks(malformed):
        for number, line in enumerate(block.removesuffix(b"\n").split(b"\n"), start=first):
            if not wanted(line):
                malformed.passed += 1
                continue
            try:
                text = line.decode()
                try:
                    # In a text between double quotes the pattern may be a part of the text.
                    value = parse_literal(text if '"' in text else without.sub("", text))
                except ValueError:
                    value = parse_literal(text)
            except ValueError as reason:
                malformed.add(_unreadable(line, reason, "no Python literal"), [number])
                continue
            if isinstance(value, dict):
                yield number, value
            else:
                malformed.add("not a dictionary", [number])


def json_lines(malformed: Malformed, needed: dict[str, type], known: Collection[str]) -> pl.DataFrame:
    """The `needed` columns (str: not empty, int: at least 0) of JSON objects, one a line, and `line`.

    known: the other columns of the format; a line with a column beyond them is counted, and kept.

    Raises:
        DataError: the archive is damaged.
    """
    schema = {name: pl.String if kind is str else pl.Int64 for name, kind in needed.items()}
    tables = [pl.DataFrame(schema={**schema, "line": pl.UInt32})]
    for first, block in blocks(malformed):
        table = _clean_block(first, block, schema, known)
        tables.append(_checked_block(first, block, needed, known, malformed, schema) if table is None else table)
    return pl.concat(tables)


def _clean_block(first: int, block: bytes, schema: dict[str, Any], known: Collection[str]) -> pl.DataFrame | None:
    """The table of a block without anything malformed, else None."""
    try:
        table = pl.read_ndjson(block, infer_schema_length=None)
    except (pl.exceptions.PolarsError, pl.exceptions.PanicException):
        return None
    lines = block.removesuffix(b"\n").count(b"\n") + 1
    if len(table) != lines or not {*table.columns} <= {*schema, *known}:
        return None
    # Of a name that an object has twice the reader takes one value and does not tell.
    if any(block.count(f'"{name}":'.encode()) != lines for name in schema) or HALVES.search(block):
        return None
    if {name: table.schema.get(name) for name in schema} != schema:
        return None
    doubtful = [(pl.col(n) < 0) if k == pl.Int64 else pl.col(n).str.contains(DOUBTFUL) for n, k in schema.items()]
    if table.select(pl.any_horizontal(*doubtful, pl.col(*schema).is_null()).any()).item():
        return None
    return table.select(*schema, pl.int_range(first, first + lines, dtype=pl.UInt32).alias("line"))


def _checked_block(
    first: int,
    block: bytes,
    needed: dict[str, type],
    known: Collection[str],
    malformed: Malformed,
    schema: dict[str, Any],
) -> pl.DataFrame:
    """The rows of a block, each line looked at by itself."""
    rows = []
    for number, line in enumerate(block.removesuffix(b"\n").split(b"\n"), start=first):
        try:
            value = json.loads(line.decode(), object_pairs_hook=_once)
        except (ValueError, RecursionError) as reason:
            malformed.add(_unreadable(line, reason, "no JSON"), [number])
            continue
        if kind := _flaw(value, needed):
            malformed.add(kind, [number])
            continue
        if beyond := sorted({*value} - {*needed, *known}):
            malformed.add(f"unknown column {beyond[0][:40]}", [number])
        rows.append((*(kind(value[name]) for name, kind in needed.items()), number))
    return pl.DataFrame(rows, schema={**schema, "line": pl.UInt32}, orient="row")


def _once(pairs: list[tuple[str, Any]]) -> dict[str, Any]:
    """The object of these names and values; one name twice is an error."""
    found = dict(pairs)
    if len(found) < len(pairs):
        raise ValueError("a name stands twice")
    return found


def _flaw(value: Any, needed: dict[str, type]) -> str:
    """What is wrong with the object of a line; empty if nothing is."""
    if not isinstance(value, dict):
        return "not an object"
    for name, kind in needed.items():
        if name not in value or value[name] in ("", None):
            return f"no {name}"
        # The columnar reader takes numbers for texts too.
        if type(value[name]) not in ((int,) if kind is int else (str, int, float)):
            return f"wrong type of {name}"
        if type(value[name]) is str and not value[name].isascii() and not _is_unicode(value[name]):
            return f"{name} not UTF-8"
        if kind is int and not 0 <= value[name] < 1 << 63:
            return f"negative {name}" if value[name] < 0 else f"wrong type of {name}"
    return ""


def _is_unicode(text: str) -> bool:
    """Whether a text is one: JSON can spell halves of characters, which no file can hold."""
    try:
        text.encode()
    except UnicodeEncodeError:
        return False
    return True


def _unreadable(line: bytes, reason: Exception, otherwise: str) -> str:
    if len(line) >= MAX_LINE:
        return "too long"
    return "not UTF-8" if isinstance(reason, UnicodeDecodeError) else otherwise
