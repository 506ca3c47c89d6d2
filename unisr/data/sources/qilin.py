"""Qilin: real recommendations and searches of Xiaohongshu's notes; its texts are Chinese."""

from __future__ import annotations

import logging
from pathlib import Path

import pandas as pd
import polars as pl

from unisr.data.filtering import counted
from unisr.data.raw import Malformed, own_folder, unique_rows
from unisr.data.raw_parquet import parquet_rows, seconds, whole, without
from unisr.data.schema import Dataset, Task
from unisr.data.sources import Source
from unisr.data.tables import assemble, numbered
from unisr.errors import DataError

NAME, ENVIRONMENT = "qilin", "UNISR_QILIN"
CORE, ROUNDS = 3, 10
REQUESTS = {
    "recommendation_train/train-00000-of-00001.parquet": Task.REC,
    "recommendation_test/train-00000-of-00001.parquet": Task.REC,
    "search_train/train-00000-of-00001.parquet": Task.SRC,
    "search_test/train-00000-of-00001.parquet": Task.SRC,
}
NOTES = tuple(f"notes/train-{shard:05}-of-00005.parquet" for shard in range(5))
DETAILS = {
    Task.REC: ("rec_result_details_with_idx", "request_timestamp"),
    Task.SRC: ("search_result_details_with_idx", "search_timestamp"),
}
"""The column of the notes shown, and the name of the time in it."""
ADVICE = (
    "qilin is read from the folders recommendation_train, recommendation_test, search_train, search_test and notes of "
    "the Hugging Face dataset THUIR/Qilin (Apache-2.0), with the names that its parquet files have there: "
    "huggingface-cli download THUIR/Qilin --repo-type dataset --local-dir FOLDER."
)
KNOWN = frozenset(
    "request_idx search_idx session_idx query query_from_type dpr_results bm25_results search_results rec_results "
    "question_embedding".split()
)
"""Columns of the requests that no table needs; the query of a recommendation is made of the titles of recent notes."""
TAXONOMY = ["taxonomy1_id", "taxonomy2_id", "taxonomy3_id"]
PAPER_COUNTS = {"#User": 3_816, "#Item": 275_515, "#Inter-S": 16_626, "#Inter-R": 101_085}
"""Those printed in GEMS's notebooks; of the test part they count requests, not clicks."""
log = logging.getLogger(__name__)


def fetch(folder: Path | None) -> Path:
    """The folder given, or named by the environment variable UNISR_QILIN.

    Raises:
        DataError: no folder is named, or it lacks a file; the message says how to get them.
    """
    return own_folder(folder, ENVIRONMENT, (*REQUESTS, *NOTES), ADVICE)


def build(folder: Path | None, seed: int) -> Dataset:
    """Clicked notes after recommendations and searches, each at its own time; strict leave-one-out per task.

    Filters, those of GEMS: users with at least `CORE` requests of each task; then, at most `ROUNDS` times until
    nothing changes, users with at least `CORE` requests and notes that occur `CORE` times among the notes shown
    and the recent clicks. The items are all notes that are left, clicked or not. The official train and test files
    are read as one, as GEMS does.

    The query of a search is the user's; an item's text is title and content, its category the ids of its taxonomy.
    Notes without a line keep their events and have no text. Time is in seconds; a click logged twice is one event.

    Departures from GEMS: an event is one clicked note, not a request with all its clicks, so the last click of a
    user is a target by itself; the recent clicks of a request are no history, because the files give them no time.

    Raises:
        DataError: a file is damaged, lacks a column, or has too many malformed rows, or no event is left.
    """
    assert folder is not None
    events, items, filters = _filtered(folder)
    users, items, texts, table = numbered(events.rename({"query": "words"}), items)
    return assemble(
        NAME,
        users=users.cast(pl.String).to_list(),
        items=_items(folder, items),
        queries=pd.DataFrame({"text": texts.to_list(), "origin": "real"}),
        events=table,
        filters=filters,
    )


def _filtered(folder: Path) -> tuple[pl.DataFrame, pl.Series, list[tuple[str, dict[str, int]]]]:
    """Clicks (user, task, query, item, time), the numbers of all notes that are left, and what each filter left."""
    rows = pl.concat([requests(folder / name, task) for name, task in REQUESTS.items()]).with_row_index("request")
    shown = rows.drop("past").explode("shown").drop_nulls("shown").unnest("shown")
    past = rows.select("request", item="past").explode("item").drop_nulls()
    filters = [("clicks; notes shown or clicked before", _left(shown, past))]
    shown = of_both_tasks(shown)
    past = past.join(shown, on="request", how="semi", maintain_order="left")
    filters.append((f"users with {CORE} requests of each task", _left(shown, past)))
    shown, past = core(shown, past)
    filters.append((f"{CORE} requests of a user, {CORE} occurrences of a note", _left(shown, past)))
    return _clicked(shown), _notes(shown, past), filters


def requests(path: Path, task: Task) -> pl.DataFrame:
    """user, task, query, past (`list[int64]`) and shown (`list[struct]`: item, click, time) of each well-formed row.

    A row is malformed when it has no user, a search has no query, a note shown has no number or a clicked one no
    time, or one of them is negative. A note without the mark of a click is not clicked.

    Raises:
        DataError: the file is damaged, lacks a column, or has too many malformed rows.
    """
    malformed, (details, clock) = Malformed(path), DETAILS[task]
    searched = task == Task.SRC
    note = pl.element().struct
    parts = pl.struct(
        item=whole(note.field("note_idx")),
        click=(note.field("click").cast(pl.Float64, strict=False).fill_nan(None) > 0).fill_null(False),
        # Those of recommendations are in milliseconds, those of searches in seconds.
        time=seconds(note.field(clock)),
    )
    rows = parquet_rows(
        malformed,
        ["user_idx", "recent_clicked_note_idxs", details] + ["query"] * searched,
        KNOWN,
        user=whole(pl.col("user_idx")),
        task=pl.lit(int(task), dtype=pl.Int64),
        query=_words("query") if searched else pl.lit(""),
        past=pl.col("recent_clicked_note_idxs").list.eval(whole(pl.element())),
        shown=pl.col(details).list.eval(parts),
    )
    rows = without(rows, _flaws(task), malformed)
    malformed.close()
    return rows.drop("line")


def _flaws(task: Task) -> dict[str, pl.Expr]:
    """What makes a row of `requests` malformed, by kind."""
    details, clock = DETAILS[task]
    item, click, time = (pl.element().struct.field(name) for name in ("item", "click", "time"))
    flaws = {"no user_idx": pl.col("user").is_null(), "negative user_idx": pl.col("user") < 0}
    flaws |= {"no query": pl.col("query") == ""} if task == Task.SRC else {}
    flaws |= {f"no {details}": pl.col("shown").is_null()}
    unclear = {"no note_idx": item.is_null(), "negative note_idx": item < 0}
    unclear |= {f"no {clock}": click & time.is_null(), f"negative {clock}": time < 0}
    return flaws | {kind: pl.col("shown").list.eval(wrong).list.any() for kind, wrong in unclear.items()}


def of_both_tasks(shown: pl.DataFrame) -> pl.DataFrame:
    """The rows of `shown` (request, user, task, …) of users with at least `CORE` requests of each task."""
    counts = shown.group_by("user", "task").agg(n=pl.col("request").n_unique())
    both = counts.filter(pl.col("n") >= CORE).group_by("user").len().filter(pl.col("len") == len(DETAILS))
    return shown.join(both, on="user", how="semi", maintain_order="left")


def core(shown: pl.DataFrame, past: pl.DataFrame) -> tuple[pl.DataFrame, pl.DataFrame]:
    """`shown` (request, user, item, …) and `past` (request, item) after the repeated filters of `build`.

    A request without a note that is left is gone, with its past.
    """
    for _ in range(ROUNDS):
        before = len(shown), len(past)
        users = shown.group_by("user").agg(n=pl.col("request").n_unique()).filter(pl.col("n") >= CORE)
        shown = shown.join(users, on="user", how="semi", maintain_order="left")
        past = past.join(shown, on="request", how="semi")
        found = pl.concat([shown.select("item"), past.select("item")])
        items = found.group_by("item").len().filter(pl.col("len") >= CORE)
        shown, past = (t.join(items, on="item", how="semi", maintain_order="left") for t in (shown, past))
        if before == (len(shown), len(past)):
            break
    return shown, past


def _left(shown: pl.DataFrame, past: pl.DataFrame) -> dict[str, int]:
    return counted(_clicked(shown), Item=len(_notes(shown, past)))


def _notes(shown: pl.DataFrame, past: pl.DataFrame) -> pl.Series:
    return pl.concat([shown["item"], past["item"]]).unique().sort()


def _clicked(shown: pl.DataFrame) -> pl.DataFrame:
    events = shown.filter("click").unique(["user", "task", "query", "item", "time"], keep="first", maintain_order=True)
    if events.is_empty():
        raise DataError(f"no click of a user with {CORE} requests of each task; are these the official files?")
    return events


def _items(folder: Path, items: pl.Series) -> pd.DataFrame:
    """key, title, text and category of `items`, in their order."""
    columns = {"title": _words("note_title"), "content": _words("note_content")}
    columns["category"] = pl.concat_str(TAXONOMY, separator=" / ", ignore_nulls=True)
    found = pl.DataFrame(schema={"item": pl.Int64, **dict.fromkeys(columns, pl.String), "line": pl.UInt32})
    number = whole(pl.col("note_idx"))
    flaws = {"no note_idx": pl.col("item").is_null(), "negative note_idx": pl.col("item") < 0}
    for name in NOTES:
        malformed = Malformed(folder / name)
        wanted = number.is_in(items.implode()) | number.is_null() | (number < 0)
        needed = ["note_idx", "note_title", "note_content", *TAXONOMY]
        rows = parquet_rows(malformed, needed, None, wanted, item=number, **columns)
        rows = unique_rows(without(rows, flaws, malformed), ["item"], malformed)
        again = rows["item"].is_in(found["item"].implode())
        malformed.add("duplicate item", rows.filter(again)["line"].to_list())
        malformed.close()
        found = pl.concat([found, rows.filter(~again).select(found.columns)])
    joined = pl.DataFrame({"item": items}).join(found, on="item", how="left", maintain_order="left")
    if missing := joined["line"].null_count():
        log.warning("%s: %d of %d notes have no line: no text, no category", folder / "notes", missing, len(joined))
    joined = joined.with_columns(pl.col(*columns).fill_null(""))
    text = joined.select(pl.concat_str("title", "content", separator=" ").str.strip_chars(" ")).to_series()
    names = {"title": joined["title"], "text": text, "category": joined["category"]}
    return pd.DataFrame({"key": items.cast(pl.String).to_list()} | {n: c.to_list() for n, c in names.items()})


def _words(name: str) -> pl.Expr:
    """A text with single white space; none is empty."""
    return pl.col(name).cast(pl.String).fill_null("").str.replace_all(r"\s+", " ").str.strip_chars(" ")


SOURCE = Source(
    name=NAME,
    title="Qilin",
    description="clicks on recommended and on searched notes of Xiaohongshu, November 2024; texts are Chinese",
    queries="real",
    licence="Apache-2.0",
    origin="Hugging Face THUIR/Qilin (arXiv 2503.00501)",
    build=build,
    fetch=fetch,
    files=(*REQUESTS, *NOTES),
    paper_counts=PAPER_COUNTS,
)
