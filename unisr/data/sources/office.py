"""Amazon 2018 Office Products: real item titles and ordered histories from a folder the user has."""

from __future__ import annotations

import ast
import html
import io
import json
import os
import re
import zlib
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd

from unisr.data.corpus import words_of
from unisr.data.download import pieces_of
from unisr.data.filtering import dense
from unisr.data.queries import amazon_rule, distinct_words
from unisr.data.schema import Dataset
from unisr.data.sources import Source
from unisr.data.tables import assemble
from unisr.errors import DataError

ENVIRONMENT = "UNISR_OFFICE"
ITEMS, VALID, TEST = (f"Office_Products.{f}" for f in ("item.json.gz", "valid.csv.gz", "test.csv.gz"))
IDS = "Office_Products.index.json.gz"
"""Semantic ids of the items, which the compilers of the files publish; the dataset does not need them."""
HISTORY = 10
"""The files keep at most this many items of a history."""
TITLE_WORDS = 3
STOP_WORDS = frozenset(
    "a an and assorted at by count ct each for from in inch inches into is it of on or oz pack packs per pk set the to "
    "with x".split()
)


def fetch(folder: Path | None) -> Path:
    """The folder given, or named by the environment variable UNISR_OFFICE.

    Raises:
        DataError: no folder is named, or it lacks a file.
    """
    given = folder or (Path(os.environ[ENVIRONMENT]) if os.environ.get(ENVIRONMENT) else None)
    if given is None:
        raise DataError(
            f"office is read from your own folder with {ITEMS}, {VALID} and {TEST} (repository AkaliKong/MiniOneRec): "
            f"load_dataset('office', folder=…) or the environment variable {ENVIRONMENT}"
        )
    if missing := [f for f in (ITEMS, VALID, TEST) if not (given / f).is_file()]:
        raise DataError(f"{given}: {', '.join(missing)} missing; give the folder that holds the Office_Products files")
    return given


def build(folder: Path | None, seed: int) -> Dataset:
    """Users' sequences rebuilt from the valid and test rows, and the Amazon rule's searches.

    Time is the rank in the user's sequence (0, 1, …): the files have no clock. The query of an item is its
    brand and the first three words of its title that are neither stop words, digits nor in the brand,
    lower case, without repetitions. The category is the brand in lower case: the files have none. The
    text is brand (if the title lacks it) and title. Items nobody bought stay in the catalogue.

    Raises:
        DataError: a row or item is malformed, or a row does not continue its user's sequence.
    """
    assert folder is not None
    items = _items(folder / ITEMS)
    events = _events([folder / VALID, folder / TEST])
    unknown = ~events["item"].between(1, len(items))
    if unknown.any():
        raise DataError(f"{folder}: item {events['item'][unknown].iloc[0] - 1} is in a history but not in {ITEMS}")
    user, users = dense(events["key"])
    queries, events = amazon_rule(events.assign(user=user), items.pop("query").tolist())
    return assemble("office", users=users.tolist(), items=items, queries=queries, events=events)


def _events(paths: list[Path]) -> pd.DataFrame:
    """key (of the user), item (from 1), time of every event: each row extends the sequence of its user by one."""
    sequences: dict[str, list[int]] = {}
    for path in paths:
        rows = _csv(path)
        for line, (key, history, item) in enumerate(zip(*(rows[c] for c in rows), strict=True), start=2):
            known = sequences.setdefault(key, list(history))
            if known[-HISTORY:] != history:
                raise DataError(
                    f"{path}, line {line}: the history of user {key} is not the latest {HISTORY} of its rows so far"
                )
            known.append(item)
    if not sequences:
        raise DataError(f"{paths[0]}: holds no rows; get the file again")
    lengths = np.array([len(s) for s in sequences.values()])
    starts = np.cumsum(lengths) - lengths
    return pd.DataFrame({
        "key": np.repeat(list(sequences), lengths),
        "item": np.concatenate([np.array(s) for s in sequences.values()]) + 1,
        "time": np.arange(lengths.sum()) - np.repeat(starts, lengths),
    })


def _csv(path: Path) -> pd.DataFrame:
    """user_id, history_item_id (a list) and item_id of each row."""
    names = ["user_id", "history_item_id", "item_id"]
    try:
        rows = pd.read_csv(_content(path), usecols=names, dtype=str, keep_default_na=False)[names]
    except (ValueError, OSError, EOFError, zlib.error) as reason:
        raise DataError(f"{path}: {reason}; get the file again") from None
    rows["history_item_id"] = [_whole_numbers(t, path, n) for n, t in enumerate(rows["history_item_id"], start=2)]
    rows["item_id"] = [_whole_numbers(f"[{t}]", path, n)[0] for n, t in enumerate(rows["item_id"], start=2)]
    return rows


def _whole_numbers(text: str, path: Path, line: int) -> list[int]:
    try:
        values = ast.literal_eval(text)
        if isinstance(values, list) and values and all(type(v) is int and v >= 0 for v in values):
            return values
    except (ValueError, SyntaxError, MemoryError, RecursionError):
        pass
    raise DataError(f"{path}, line {line}: {text[:80]!r} is not a list of item numbers; get the file again")


def published_codes(folder: Path | None = None) -> np.ndarray:
    """The published semantic id of every item, `[V + 1, 3]` int64, row 0 all -1; rows as in the dataset.

    Args:
        folder: as in `fetch`.

    Raises:
        DataError: the folder or its file of ids is missing, or an id is not like `["<a_60>", "<b_159>", "<c_203>"]`.
    """
    path = fetch(folder) / IDS
    entries = _entries(path)
    codes = np.full((len(entries) + 1, 3), -1, dtype=np.int64)
    for number in range(len(entries)):
        tokens = entries.get(str(number))
        text = " ".join(map(str, tokens)) if isinstance(tokens, list) else ""
        found = re.fullmatch(r"<a_(\d+)> <b_(\d+)> <c_(\d+)>", text)
        if not found:
            raise DataError(f"{path}: item {number} has the id {tokens!r}, not three codes; get the file again")
        codes[number + 1] = [int(code) for code in found.groups()]
    return codes


def _content(path: Path) -> io.BytesIO:
    return io.BytesIO(b"".join(pieces_of(path, 1 << 20)))


def _entries(path: Path) -> dict[str, Any]:
    """What a file says of the items 0, 1, …, by their numbers."""
    try:
        entries = json.load(_content(path))
    except (ValueError, OSError, EOFError, RecursionError, zlib.error) as reason:
        raise DataError(f"{path}: {reason}; get the file again") from None
    if not isinstance(entries, dict):
        raise DataError(f"{path}: a {type(entries).__name__} in place of entries by number; get the file again")
    return entries


def _items(path: Path) -> pd.DataFrame:
    """key, title, text, category and query of the items 0, 1, … of the file."""
    entries = _entries(path)
    rows = []
    for number in range(len(entries)):
        entry = entries.get(str(number))
        if not isinstance(entry, dict) or not isinstance(entry.get("title"), str):
            raise DataError(f"{path}: item {number} is missing or has no title; get the file again")
        title, brand = _clean(entry["title"]), _clean(str(entry.get("brand") or ""))
        text = title if brand.lower() in title.lower() else f"{brand} {title}"
        rows.append((str(number), title, text, brand.lower(), query_of(title, brand)))
    return pd.DataFrame(rows, columns=["key", "title", "text", "category", "query"])


def query_of(title: str, brand: str) -> str:
    """The constructed query of an item (see `build`); single letters are no words."""
    own = [w for w in words_of(brand) if len(w) > 1]
    content = [w for w in words_of(title) if len(w) > 1 and w not in STOP_WORDS and w not in own]
    content = [w for w in content if not re.search(r"\d", w)]
    return " ".join(distinct_words([*own, *distinct_words(content)[:TITLE_WORDS]]))


def _clean(text: str) -> str:
    """Entities unescaped (twice: some are escaped twice), tags dropped, white space single."""
    return re.sub(r"\s+", " ", re.sub(r"<[^>]+>", " ", html.unescape(html.unescape(text)))).strip()


SOURCE = Source(
    name="office",
    title="Amazon Office Products 2018",
    description="ordered purchases with real titles; queries are an item's brand and first title words",
    queries="constructed",
    licence="Amazon review data as published by its compilers; MiniOneRec's files are Apache-2.0",
    origin="AkaliKong/MiniOneRec, folder of the Office_Products files",
    build=build,
    fetch=fetch,
    files=(ITEMS, VALID, TEST),
)
