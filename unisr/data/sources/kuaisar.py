"""KuaiSAR: real recommendations and searches of a short-video app; its texts are anonymous word ids."""

from __future__ import annotations

from functools import partial
from itertools import count
from pathlib import Path

import numpy as np
import pandas as pd
import polars as pl

from unisr.data.filtering import counted, k_core
from unisr.data.raw import Malformed, csv_rows, own_folder, unique_rows
from unisr.data.schema import Dataset, Task
from unisr.data.sources import Source
from unisr.data.splits import last_days
from unisr.data.tables import assemble, numbered
from unisr.errors import DataError

CORE = 5
RECOMMENDED, SEARCHED, FEATURES = "rec_inter.csv", "src_inter.csv", "item_features.csv"
ENVIRONMENTS = {"kuaisar-small": "UNISR_KUAISAR_SMALL", "kuaisar": "UNISR_KUAISAR"}
ARCHIVES = {"kuaisar-small": "KuaiSAR.zip", "kuaisar": "KuaiSAR_v2.zip"}
PAPER_COUNTS = {
    "kuaisar": {
        "#User": 25_877, "#Item": 6_890_707, "#Queries": 453_667, "#Inter-S": 5_059_169, "#Inter-R": 14_605_716,
    },
    "kuaisar-small": {"#Item": 4_195_529, "#Queries": 267_608, "#Inter-S": 3_171_231, "#Inter-R": 7_493_101},
}  # fmt: skip
"""All of them before any filter: those of GenSR's Table 1 for the full set. After the filters the literature works with
22,700 users and 673,415 items of it."""
CHINA_HOURS = 8
"""Of its clock before Unix time: the days of the files begin at midnight in China."""
KNOWN = {
    RECOMMENDED: "playing_time duration_ms time forward like follow search search_item_related".split(),
    SEARCHED: "search_session_id search_session_time search_source item_type".split(),
    FEATURES: ["author_id", "item_type", "upload_time", "upload_type"]
    + [f"{level}_level_category_{part}" for level in ("first", "second", "third", "fourth") for part in ("id", "name")]
    + ["third_level_category_name_en", "fourth_level_category_name_en"],
}
"""Columns of the files that no table needs."""
CATEGORIES = ["first_level_category_name_en", "second_level_category_name_en"]


def fetch(folder: Path | None, *, name: str) -> Path:
    """The folder given, or named by the environment variable UNISR_KUAISAR (UNISR_KUAISAR_SMALL for the small set).

    Raises:
        DataError: no folder is named, or it lacks a file; the message says which archive to get.
    """
    advice = (
        f"{name} is read from {RECOMMENDED}, {SEARCHED} and {FEATURES} of {ARCHIVES[name]}, KuaiSAR's Zenodo record "
        "8181109; accept its licence (CC BY-NC-SA 4.0: no commercial use) and unpack the archive."
    )
    return own_folder(folder, ENVIRONMENTS[name], (RECOMMENDED, SEARCHED, FEATURES), advice)


def build(folder: Path | None, seed: int, *, name: str) -> Dataset:
    """Clicks after recommendations and searches; the last day is test, the day before it validation.

    Filters, until none changes anything: users and items with at least `CORE` clicks, of both tasks together;
    users with clicks of both tasks. Every clicked item of a search is one event at the session's time. Words
    are tokens such as "w123", so a language model cannot read them; an item's text and title are its caption,
    its category the English names of the first two levels, empty where the item has no features. Time is in
    seconds: events of one second are ties.

    Raises:
        DataError: a file lacks a column or has too many malformed lines, or no event is left.
    """
    assert folder is not None
    filters: list[tuple[str, dict[str, int]]] = []
    events = filtered(_clicks(folder, filters), filters)
    filters[-1][1]["#Queries"] = _n_queries(events)
    users, items, texts, table = numbered(events)
    del events
    return assemble(
        name,
        users=users.cast(pl.String).to_list(),
        items=_items(folder / FEATURES, items),
        queries=pd.DataFrame({"text": texts.to_list(), "origin": "real"}),
        events=table,
        split=partial(last_days, hours=CHINA_HOURS),
        filters=filters,
    )


def _clicks(folder: Path, filters: list[tuple[str, dict[str, int]]]) -> pl.DataFrame:
    rows = pl.concat([_recommendations(folder / RECOMMENDED), _searches(folder / SEARCHED)])
    filters.append(("rows of the files", counted(rows, Queries=_n_queries(rows))))
    rows = rows.filter(pl.col("clicked") & ((pl.col("task") == Task.REC) | (pl.col("words") != "")))
    filters.append(("clicks", counted(rows, Queries=_n_queries(rows))))
    return rows


def _n_queries(rows: pl.DataFrame) -> int:
    return rows.filter(pl.col("words") != "")["words"].n_unique()


def filtered(events: pl.DataFrame, filters: list[tuple[str, dict[str, int]]] | None = None) -> pl.DataFrame:
    """The events that the filters of `build` leave, in their order.

    filters: what each filter of each round left is added to it.

    Raises:
        DataError: none is left.
    """
    kept = events.select("user", "item", "task").with_row_index("row").to_pandas()
    told = [] if filters is None else filters
    for number in count(1):
        again = f", round {number}" if number > 1 else ""
        kept = k_core(kept, CORE)
        told.append((f"{CORE} clicks of each user and item{again}", counted(kept)))
        user, _ = pd.factorize(kept["user"])
        counts = [np.bincount(user[kept["task"] == task], minlength=user.max(initial=-1) + 1) for task in KINDS]
        both = (np.minimum(*counts) > 0)[user]
        if both.all():
            break
        kept = kept[both]
        told.append((f"users with both tasks{again}", counted(kept)))
    if kept.empty:
        raise DataError(f"no user and item with {CORE} clicks and both tasks; are these the official files?")
    return events[kept["row"].to_numpy()]


KINDS = (Task.REC, Task.SRC)


def _recommendations(path: Path) -> pl.DataFrame:
    """user, item, task, time (seconds), words (empty) and clicked of the rows, in the order of the file."""
    malformed = Malformed(path)
    needed = {"user_id": "integer", "item_id": "integer", "timestamp": "time", "click": "integer"}
    rows = csv_rows(malformed, needed, KNOWN[RECOMMENDED], pl.lit(True))
    malformed.close()
    return _events(rows, Task.REC, "timestamp", pl.lit(""), pl.col("click"))


def _searches(path: Path) -> pl.DataFrame:
    """The same of the items shown after a search; words are the query's, and a click without words is malformed."""
    malformed, time = Malformed(path), "search_session_timestamp"
    needed = {"user_id": "integer", "item_id": "integer", time: "time", "click_cnt": "integer", "keyword": "words"}
    rows = csv_rows(malformed, needed, KNOWN[SEARCHED], pl.lit(True))
    malformed.add("empty keyword", rows.filter((pl.col("keyword") == "") & (pl.col("click_cnt") > 0))["line"].to_list())
    malformed.close()
    return _events(rows, Task.SRC, time, pl.col("keyword"), pl.col("click_cnt"))


def _events(rows: pl.DataFrame, task: Task, time: str, words: pl.Expr, clicks: pl.Expr) -> pl.DataFrame:
    return rows.select(
        pl.col("user_id").alias("user"),
        pl.col("item_id").alias("item"),
        pl.lit(int(task), dtype=pl.Int64).alias("task"),
        (pl.col(time) // 1000).alias("time"),
        words.alias("words"),
        (clicks > 0).alias("clicked"),
    )


def _items(path: Path, items: pl.Series) -> pd.DataFrame:
    """key, title, text and category of `items`, in their order."""
    malformed = Malformed(path)
    needed = {"item_id": "integer", "caption": "caption"} | dict.fromkeys(CATEGORIES, "text")
    rows = csv_rows(malformed, needed, KNOWN[FEATURES], pl.col("item_id").is_in(items.implode()))
    rows = unique_rows(rows, ["item_id"], malformed)
    malformed.close()
    joined = pl.DataFrame({"item_id": items}).join(rows, on="item_id", how="left", maintain_order="left")
    texts = joined["caption"].fill_null("").to_list()
    category = joined.select(pl.concat_str(CATEGORIES, separator=" / ").str.strip_chars(" /").fill_null(""))
    key = items.cast(pl.String).to_list()
    return pd.DataFrame({"key": key, "title": texts, "text": texts, "category": category.to_series().to_list()})


def _source(name: str, title: str, days: str) -> Source:
    return Source(
        name=name,
        title=title,
        description=f"clicks on recommended and on searched short videos, {days}; all texts are word ids",
        queries="real",
        licence="CC BY-NC-SA 4.0: to be cited, no commercial use",
        origin=f"Zenodo record 8181109, {ARCHIVES[name]}",
        build=partial(build, name=name),
        fetch=partial(fetch, name=name),
        files=(RECOMMENDED, SEARCHED, FEATURES),
        paper_counts=PAPER_COUNTS[name],
    )


SOURCES = (
    _source("kuaisar-small", "KuaiSAR small", "22 to 31 May 2023"),
    _source("kuaisar", "KuaiSAR", "22 May to 10 June 2023"),
)
