"""Amazon Kindle Store 2014, 5-core: purchases with reviews, and searches built from category paths."""

from __future__ import annotations

import html
import logging
import re
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
import polars as pl

from unisr.data.corpus import words_of
from unisr.data.raw import Malformed, blocks, own_folder, unique_rows
from unisr.data.raw_lines import json_lines, literal_lines
from unisr.data.schema import Dataset, Task
from unisr.data.sources import Source
from unisr.data.tables import assemble
from unisr.random import generator

NAME, ENVIRONMENT = "amazon-kindle", "UNISR_KINDLE"
REVIEWS, METADATA = "reviews_Kindle_Store_5.json.gz", "meta_Kindle_Store.json.gz"
QUERY_TEXTS, QRELS = "query_text.txt.gz", ("train.qrels.gz", "test.qrels.gz")
ADVICE = (
    f"amazon-kindle is read from {REVIEWS} and {METADATA}, which are described under 'Amazon product data' (2014, "
    "5-core and per-category metadata) of the SNAP group; accept the terms that stand there. The query files "
    f"{QUERY_TEXTS}, {' and '.join(QRELS)} of Ai et al. (QingyaoAi/Amazon-Product-Search-Datasets) may lie in the "
    "same folder; without them the queries are built by their rule."
)
NEEDED = {"reviewerID": str, "asin": str, "unixReviewTime": int}
REVIEW_COLUMNS = ("reviewerName", "helpful", "reviewText", "overall", "summary", "reviewTime")
ITEM_COLUMNS = frozenset("asin title description imUrl salesRank categories brand price related".split())
RELATED = re.compile(r"'related': \{[^{}]*\}(?:, )?")
"""Lists of other items, most of a metadata line; no table needs them."""
QREL = r"^(?<reviewerID>\w+)_(?<number>[0-9]{1,9}) 0 (?<asin>\w+) (?<judged>[01]) ?$"
KEY = re.compile(rb"\{'asin': '([^'\\]+)'")
LONG_TEXT = 2000
"""Characters from which a description counts as no description, as in the notebooks of the papers' authors."""
STOP_WORDS = frozenset(
    "a all an and any are as at be but by can for from has have he her his how i if in into is it its just me more "
    "most my new no not of off on one or our out over she so some such than that the their them there these they "
    "this to two under up us was we were what when which who will with you your".split()
)
PAPER_COUNTS = {"#User": 68_223, "#Item": 61_934, "#Queries": 4_298, "#Inter-S": 934_664, "#Inter-R": 989_618}
"""Those of GenSR's Table 1; its recommendation events exceed the 982,619 reviews of the file."""
log = logging.getLogger(__name__)


def fetch(folder: Path | None) -> Path:
    """The folder given, or named by the environment variable UNISR_KINDLE.

    Raises:
        DataError: no folder is named, or it lacks a file; the message says which files to get.
    """
    return own_folder(folder, ENVIRONMENT, (REVIEWS, METADATA), ADVICE)


def build(folder: Path | None, seed: int) -> Dataset:
    """Every review as a recommendation event; one search for each that has a query, at the same time.

    The queries of a purchase are those that the official files give it, or, where the folder has none, those
    of its item's category paths (see `queries_of`); one of them is drawn by a fixed seed, as the papers'
    authors did. Time is in seconds, exact to the day.

    An item's text is title, brand and description without entities and tags; a description of `LONG_TEXT`
    or more characters is left out. The categories are not in it: queries are made of them. Most titles are
    empty in the official file. The category is the first path of at least two levels.

    Raises:
        DataError: a file is damaged or has too many malformed lines.
    """
    assert folder is not None
    lines, reviews = _reviews(folder / REVIEWS)
    items = _items(folder / METADATA, reviews["asin"].unique().sort())
    rows = reviews.with_row_index("row").select("row", "reviewerID", "asin")
    choices = _official(folder, rows) if has_queries(folder) else rows.join(items.explode("query"), on="asin")
    choices = choices.select("row", "query").drop_nulls()
    queries, drawn = _drawn(choices)
    users = reviews["reviewerID"].unique().sort()
    events = pd.DataFrame({
        "user": users.search_sorted(reviews["reviewerID"]).to_numpy().astype(np.int64) + 1,
        "item": items["asin"].search_sorted(reviews["asin"]).to_numpy().astype(np.int64) + 1,
        "task": int(Task.REC),
        "query": 0,
        "time": reviews["unixReviewTime"].to_numpy(),
    })
    filters = [
        ("lines of the reviews", {"#Inter-R": lines}),
        ("whole ones, one of a user and item", {"#User": len(users), "#Item": len(items), "#Inter-R": len(events)}),
        ("purchases by each of their queries", {"#Queries": choices["query"].n_unique(), "#Inter-S": len(choices)}),
        ("one query of each purchase", {"#Queries": len(queries), "#Inter-S": len(drawn)}),
    ]
    searched = events.iloc[drawn["row"].to_numpy()].assign(task=int(Task.SRC), query=drawn["query"].to_numpy())
    return assemble(
        NAME,
        users=users.to_list(),
        items=pd.DataFrame({n: items[c].to_list() for n, c in COLUMNS.items()}),
        queries=pd.DataFrame({"text": queries.to_list(), "origin": "constructed"}),
        events=pd.concat([events, searched], ignore_index=True),
        filters=filters,
    )


COLUMNS = {"key": "asin", "title": "title", "text": "text", "category": "category"}


def _reviews(path: Path) -> tuple[int, pl.DataFrame]:
    """Lines of the file, and reviewerID, asin and unixReviewTime of each review in their order."""
    malformed = Malformed(path)
    rows = unique_rows(json_lines(malformed, NEEDED, REVIEW_COLUMNS), ["reviewerID", "asin"], malformed)
    malformed.close()
    return malformed.lines, rows


def _items(path: Path, asins: pl.Series) -> pl.DataFrame:
    """asin, title, text, category and query (a list) of the items of the reviews, in their order.

    Lines of other items are passed over unparsed, five in six of the official file. An item without a line
    keeps its reviews and has no text and no query.
    """
    malformed, reviewed = Malformed(path), {key.encode() for key in asins}

    def wanted(line: bytes) -> bool:
        found = KEY.match(line)
        return found is None or found[1] in reviewed

    rows = []
    for number, entry in literal_lines(malformed, wanted=wanted, without=RELATED):
        if kind := _flaw(entry):
            malformed.add(kind, [number])
            continue
        if beyond := sorted(map(str, {*entry} - ITEM_COLUMNS)):
            malformed.add(f"unknown column {beyond[0][:40]}", [number])
        rows.append((entry["asin"], *_texts(entry), queries_of(entry["categories"]), number))
    names = {"asin": pl.String, "title": pl.String, "text": pl.String, "category": pl.String}
    table = pl.DataFrame(rows, schema=names | {"query": pl.List(pl.String), "line": pl.UInt32}, orient="row")
    table = unique_rows(table, ["asin"], malformed)
    malformed.close()
    joined = pl.DataFrame({"asin": asins}).join(table, on="asin", how="left", maintain_order="left")
    if missing := joined["title"].null_count():
        log.warning("%s: %d of %d reviewed items have no line: no text, no query", path, missing, len(joined))
    return joined.with_columns(pl.col("title", "text", "category").fill_null(""))


def _flaw(entry: dict[str, Any]) -> str:
    """What is wrong with a metadata entry; empty if nothing is."""
    if "asin" not in entry or "categories" not in entry:
        return f"no {'categories' if 'asin' in entry else 'asin'}"
    for name in ("asin", "title", "brand", "description"):
        if not isinstance(entry.get(name, ""), str):
            return f"wrong type of {name}"
    paths = entry["categories"]
    whole = isinstance(paths, list) and all(isinstance(path, list) for path in paths)
    if not whole or not all(isinstance(name, str) for path in paths for name in path):
        return "wrong type of categories"
    return ""


def _texts(entry: dict[str, Any]) -> tuple[str, str, str]:
    """Title, text and category of a metadata entry."""
    title, brand, description = (_clean(entry.get(name, "")) for name in ("title", "brand", "description"))
    described = description if len(description) < LONG_TEXT else ""
    deep = [path for path in entry["categories"] if len(path) > 1]
    return title, " ".join(filter(None, (title, brand, described))), " / ".join(deep[0] if deep else [])


def _clean(text: str) -> str:
    """Entities unescaped, tags dropped, white space single."""
    return " ".join(re.sub(r"<[^>]+>", " ", html.unescape(text)).split())


def queries_of(paths: list[list[str]]) -> list[str]:
    """The distinct queries of an item, one of each category path of at least two levels.

    The rule of Van Gysel et al. (2016) as Ai et al. (2017) apply it: the words of a path in lower case, without
    stop words; of a repeated word the last stays ("Camera, Photo" > "Digital Camera Lenses" gives "photo
    digital camera lenses"). Departures: words with digits and single letters are dropped, which their files
    lack too; their words are stemmed ("ebook"), these are not ("ebooks"); the stop words are this module's.
    """
    texts = []
    for path in paths:
        words = [w for w in words_of(" ".join(path)) if len(w) > 1 and w not in STOP_WORDS and not re.search(r"\d", w)]
        texts.append(" ".join(reversed(dict.fromkeys(reversed(words)))) if len(path) > 1 else "")
    return list(dict.fromkeys(filter(None, texts)))


def has_queries(folder: Path) -> bool:
    """Whether a folder holds the query texts and at least one of the files of judged purchases."""
    return (folder / QUERY_TEXTS).is_file() and any((folder / name).is_file() for name in QRELS)


def judged(folder: Path) -> tuple[list[str], pl.DataFrame]:
    """The query texts, and reviewerID, asin and number (of the query, from 0) of all judged purchases.

    Raises:
        DataError: a file is damaged or has too many malformed lines.
    """
    lines = Malformed(folder / QUERY_TEXTS)
    # Not splitlines, which ends a line at more characters than the official numbering does.
    parts = (block.removesuffix(b"\n").split(b"\n") for _, block in blocks(lines))
    texts = [line.decode(errors="replace") for part in parts for line in part]
    lines.close()
    if absent := [name for name in QRELS if not (folder / name).is_file()]:
        log.warning("%s: %s missing: only the pairs of the other file are searches", folder, ", ".join(absent))
    return texts, pl.concat([qrels(folder / name, len(texts)) for name in QRELS if (folder / name).is_file()])


def _official(folder: Path, rows: pl.DataFrame) -> pl.DataFrame:
    """row and query text of every relevant (user, query, item) of the query files that is a review."""
    texts, purchases = judged(folder)
    found = purchases.join(rows, on=["reviewerID", "asin"])
    log.info("%s: %d of %d judged purchases are reviews", folder, len(found), len(purchases))
    return found.join(pl.DataFrame({"number": np.arange(len(texts)), "query": texts}), on="number")


def qrels(path: Path, n_queries: int) -> pl.DataFrame:
    """reviewerID, asin and number (of the query's line, from 0) of the relevant rows of an official qrels file.

    Raises:
        DataError: the file is damaged or has too many malformed lines.
    """
    malformed = Malformed(path)
    text = b"".join(block for _, block in blocks(malformed)).decode(errors="replace")
    rows = pl.DataFrame({"text": text.removesuffix("\n").split("\n")}).with_row_index("line", offset=1)
    rows = rows.with_columns(pl.col("text").str.extract_groups(QREL).alias("parts")).unnest("parts")
    rows = rows.with_columns(pl.col("number").cast(pl.Int64))
    malformed.add("not '<user>_<query> 0 <item> 1'", rows.filter(pl.col("asin").is_null())["line"].to_list())
    malformed.add("unknown query", rows.filter(pl.col("number") >= n_queries)["line"].to_list())
    malformed.close()
    kept = (pl.col("number") < n_queries) & (pl.col("judged") == "1")
    return rows.filter(kept).select("reviewerID", "asin", "number")


def _drawn(choices: pl.DataFrame) -> tuple[pl.Series, pl.DataFrame]:
    """Distinct query texts, and of each row one of its queries (its place in them, from 1), ascending."""
    texts = choices["query"].unique().sort()
    numbered = pl.DataFrame({"row": choices["row"], "query": texts.search_sorted(choices["query"]) + 1})
    numbered = numbered.sort("row", "query")
    chance = pl.Series("chance", generator(0, "queries", NAME).random(len(numbered)))
    drawn = numbered.with_columns(chance).sort("row", "chance").unique("row", keep="first", maintain_order=True)
    used = drawn["query"].unique().sort()
    return texts.gather(used - 1), drawn.with_columns(used.search_sorted(drawn["query"]).alias("query") + 1)


SOURCE = Source(
    name=NAME,
    title="Amazon Kindle Store 2014",
    description="reviewed e-books, 5-core, to July 2014; queries are the words of an item's category paths",
    queries="constructed",
    licence="SNAP Amazon product data: research use, to be cited, no redistribution",
    origin="SNAP 'Amazon product data' 2014; queries of Ai et al. (QingyaoAi/Amazon-Product-Search-Datasets)",
    build=build,
    fetch=fetch,
    files=(REVIEWS, METADATA, QUERY_TEXTS, *QRELS),
    paper_counts=PAPER_COUNTS,
)
