"""The data that UniSAR's authors published: Amazon Kindle and KuaiSAR as they prepared and split them.

Their files are pickles. `python -m unisr.data.sources.unisar_release FOLDER TARGET` writes all of them as parquet,
with the rows and columns that they hold; the sources read either form.
"""

from __future__ import annotations

import argparse
import logging
from collections.abc import Collection
from functools import partial
from pathlib import Path
from typing import Literal

import pandas as pd
import polars as pl

from unisr.data.plain_tables import plain_table, write_parquet
from unisr.data.raw import Malformed, own_folder
from unisr.data.raw_parquet import seconds
from unisr.data.schema import Dataset, Split, Task
from unisr.data.sources import Source
from unisr.data.tables import assemble, numbered
from unisr.errors import DataError

ENVIRONMENT = "UNISR_UNISAR"
ARCHIVES = {"unisar-amazon": "Amazon", "unisar-kuaisar": "KuaiSAR"}
PARTS = {Split.TRAIN: "train", Split.VALIDATION: "val", Split.TEST: "test"}
USERS, ITEMS, SESSIONS = "vocab/user_vocab", "vocab/item_vocab_np", "vocab/src_session_vocab_np"
NEEDED = (*(f"dataset/{task}_{part}" for task in ("rec", "src") for part in PARTS.values()), USERS, ITEMS, SESSIONS)
EVERY = (*NEEDED, "vocab/query_vocab", "vocab/user_vocab_np")
ADVICE = (
    "unisar-amazon and unisar-kuaisar are read from the folder 'data' of TengShi-RUC/UniSAR with the archives that its "
    "README links (Google Drive) unpacked in it, as its data/README.md shows: Amazon/dataset/rec_train.pkl, …."
)
LEVELS = ["first_level_category_id", "second_level_category_id"]
FAR = 1 << 40
"""Further than any history is long."""
log = logging.getLogger(__name__)


def fetch(folder: Path | None, *, name: str) -> Path:
    """The folder given, or named by the environment variable UNISR_UNISAR, with the archive's pickles or parquet files.

    Raises:
        DataError: no folder is named, or it lacks a file; the message says which to get.
    """
    needed = [f"{ARCHIVES[name]}/{file}" for file in NEEDED]
    try:
        return own_folder(folder, ENVIRONMENT, [f"{file}.parquet" for file in needed], ADVICE)
    except DataError:
        return own_folder(folder, ENVIRONMENT, [f"{file}.pkl" for file in needed], ADVICE)


def build(folder: Path | None, seed: int, *, name: str) -> Dataset:
    """The events of all histories, with the authors' split: targets are the rows of their train, val and test files.

    A row names its user, item and how many events came before; it is the event of that item at that place, or the
    nearest one after it, or the nearest before: where times are tied, their counts belong to other rows of the time.
    An event of several rows is in the most held-out of their parts, one of no row is UNUSED: seen in histories only.
    Every clicked item of a search session is one event at the session's time.

    Words are tokens such as "w123"; items of KuaiSAR have their caption as title and text and the ids of two levels
    as category, those of Amazon have no text. Time is in seconds. Departures: the authors' negatives and their
    histories by counts, which can hold the target, are not used.

    Raises:
        DataError: a file is refused (see `plain_pickle`), lacks a column, or has too many rows without an event.
    """
    assert folder is not None
    place = folder / ARCHIVES[name]
    people = _table(place / USERS, ["user", "rec_his", "rec_his_ts", "src_session_his", "src_session_his_ts"])
    parts = [_recommended(place, people), _searched(place, people)]
    events = pl.concat([_with_split(place, *part) for part in parts])
    events = events.sort("user", "time", "task", maintain_order=True)
    users, items, texts, table = numbered(events)
    return assemble(
        name,
        users=users.cast(pl.String).to_list(),
        items=_items(place, items),
        queries=pd.DataFrame({"text": texts.to_list(), "origin": QUERIES[name]}),
        events=table,
        # They are in the order that `assemble` brings them into.
        split=lambda *_: events["split"].to_numpy(),
    )


QUERIES: dict[str, Literal["real", "constructed"]] = {"unisar-amazon": "constructed", "unisar-kuaisar": "real"}


def _recommended(place: Path, people: pl.DataFrame) -> tuple[str, str, pl.DataFrame]:
    """Prefix of the files, column of the count, and user, place (in the user's sequence), item, task, words, time."""
    events = _exploded(place, people.select("user", item="rec_his", time="rec_his_ts"))
    task = pl.lit(int(Task.REC), dtype=pl.Int64)
    return "rec", "rec_his", events.select("user", "place", "item", "time", task=task, words=pl.lit(""))


def _searched(place: Path, people: pl.DataFrame) -> tuple[str, str, pl.DataFrame]:
    """The same of searches; places count sessions."""
    vocabulary = _table(place / SESSIONS, ["keyword", "pos_items"])
    rows = vocabulary.select(
        session=pl.int_range(pl.len()),
        words=_words("keyword"),
        item=_listed(vocabulary, "pos_items").list.eval(pl.element().filter(pl.element() > 0)),
    )
    events = _exploded(place, people.select("user", item="src_session_his", time="src_session_his_ts"))
    events = events.rename({"item": "session"}).join(rows, on="session", maintain_order="left")
    events = events.explode("item").drop_nulls("item")
    if silent := int((events["words"] == "").sum()):
        log.warning("%s: %d clicks of sessions without words are left out", place / SESSIONS, silent)
    task = pl.lit(int(Task.SRC), dtype=pl.Int64)
    events = events.filter(pl.col("words") != "")
    return "src", "src_session_his", events.select("user", "place", "item", "time", task=task, words="words")


def _exploded(place: Path, histories: pl.DataFrame) -> pl.DataFrame:
    """user, item, time (seconds) and place (from 0 for each user) of the entries of histories."""
    try:
        entries = histories.explode("item", "time").drop_nulls()
    except pl.exceptions.PolarsError as reason:
        raise DataError(f"{place / USERS}: {str(reason).splitlines()[0]}; get the file again") from None
    order = pl.int_range(pl.len()).over("user")
    return entries.with_columns(seconds(pl.col("time")).alias("time"), order.alias("place"))


def _with_split(place: Path, prefix: str, count: str, events: pl.DataFrame) -> pl.DataFrame:
    """`events` with the part of each."""
    events = events.with_row_index("event")
    found = []
    for split, part in PARTS.items():
        path = place / "dataset" / f"{prefix}_{part}"
        rows = _table(path, ["user_id", "item_id", count]).with_row_index("line", offset=1)
        malformed = Malformed(path, lines=len(rows))
        events_of = matched(rows, events, count)
        malformed.add("no such event", events_of.filter(pl.col("event").is_null())["line"].to_list())
        malformed.close()
        log.info("%s: %d rows, %d events", path, len(rows), events_of["event"].drop_nulls().n_unique())
        found.append(events_of.select("event", split=pl.lit(int(split), dtype=pl.Int64)).drop_nulls())
    targets = pl.concat(found).group_by("event").agg(pl.col("split").max())
    joined = events.join(targets, on="event", how="left", maintain_order="left")
    return joined.with_columns(pl.col("split").fill_null(int(Split.UNUSED))).drop("event", "place")


def matched(rows: pl.DataFrame, events: pl.DataFrame, count: str) -> pl.DataFrame:
    """line and event of each row: the event of its item at the place `count`, or nearest after it, or nearest before.

    rows: line, user_id, item_id and `count`. events: event, user, item and place. Where there is none, event is null.
    """
    keyed = events.select("event", "place", user_id="user", item_id="item")
    near = rows.join(keyed, on=["user_id", "item_id"], how="left")
    ahead = pl.col("place") - pl.col(count)
    distance = pl.when(ahead >= 0).then(ahead).otherwise(FAR - ahead)
    return near.group_by("line", maintain_order=True).agg(pl.col("event").sort_by(distance).first())


def _items(place: Path, items: pl.Series) -> pd.DataFrame:
    """key, title, text and category of `items`, which are rows of the vocabulary, in their order."""
    vocabulary = _table(place / ITEMS, [])
    empty = pl.lit("")
    known = vocabulary.select(
        pl.int_range(pl.len()).alias("item"),
        (_words("caption") if "caption" in vocabulary.columns else empty).alias("text"),
        (pl.format("{} / {}", *LEVELS) if {*LEVELS} <= {*vocabulary.columns} else empty).alias("category"),
    )
    rows = pl.DataFrame({"item": items}).join(known, on="item", how="left", maintain_order="left")
    text, category = (rows[c].fill_null("").to_list() for c in ("text", "category"))
    return pd.DataFrame({"key": items.cast(pl.String).to_list(), "title": text, "text": text, "category": category})


def _words(name: str) -> pl.Expr:
    """A list of word ids, 0 being padding, as a text of tokens."""
    words = pl.col(name).list.eval(pl.format("w{}", pl.element().filter(pl.element() > 0)))
    return words.list.join(" ").fill_null("")


def _listed(table: pl.DataFrame, name: str) -> pl.Expr:
    """A column of lists; where the authors keep one entry, it may be a column of numbers."""
    return pl.col(name) if isinstance(table.schema[name], pl.List) else pl.concat_list(name)


def _table(path: Path, needed: Collection[str]) -> pl.DataFrame:
    """A file of the release, as parquet or pickle, which must have the `needed` columns; all if none is named."""
    parquet = path.with_name(f"{path.name}.parquet")
    if parquet.is_file():
        try:
            table = pl.read_parquet(parquet, glob=False)
        except (pl.exceptions.PolarsError, OSError) as reason:
            raise DataError(f"{parquet}: {str(reason).splitlines()[0]}; convert the file again") from None
    else:
        table = plain_table(path.with_name(f"{path.name}.pkl"), needed)
    if missing := [name for name in needed if name not in table.columns]:
        raise DataError(f"{path}: column {', '.join(missing)} missing; is this UniSAR's file?")
    return table


def convert(folder: Path, target: Path) -> dict[str, pl.Schema]:
    """Write each pickle of the archives in `folder` as parquet into `target`, and print what it holds; all columns.

    Raises:
        DataError: a file is refused, or `folder` holds none.
    """
    found = write_parquet(folder, target, [f"{archive}/{file}" for archive in ARCHIVES.values() for file in EVERY])
    if not found:
        raise DataError(f"{folder}: none of the release's files. {ADVICE}")
    return found


def main() -> None:
    """Convert the files of a folder."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("folder", type=Path, help="the release's folder 'data'")
    parser.add_argument("target", type=Path, help="where the parquet files go")
    given = parser.parse_args()
    convert(given.folder, given.target)


def _source(name: str, title: str, counts: dict[str, int]) -> Source:
    return Source(
        name=name,
        title=title,
        description="as UniSAR's authors prepared and split it; ids instead of texts",
        queries=QUERIES[name],
        licence="no licence is stated by its publishers; that of the original data holds",
        origin="TengShi-RUC/UniSAR, archives linked in its README",
        build=partial(build, name=name),
        fetch=partial(fetch, name=name),
        files=tuple(f"{ARCHIVES[name]}/{file}.{kind}" for file in NEEDED for kind in ("pkl", "parquet")),
        paper_counts=counts,
    )


SOURCES = (
    _source("unisar-amazon", "Amazon Kindle Store, UniSAR's files", {"#User": 68_223, "#Item": 61_934}),
    _source("unisar-kuaisar", "KuaiSAR, UniSAR's files", {"#User": 22_700, "#Item": 673_415}),
)

if __name__ == "__main__":
    main()
