"""Amazon Kindle: tables from generated files in the official format, the query rule, and the real query files."""

from __future__ import annotations

import gzip
import json
import logging
from pathlib import Path

import polars as pl
import pytest

from unisr.benchmarks.official_files import asin, metadata, review
from unisr.data import dataset_hash, describe
from unisr.data.raw import Malformed, csv_rows
from unisr.data.raw_lines import json_lines
from unisr.data.schema import Dataset, Task
from unisr.data.sources import amazon_kindle as kindle
from unisr.data.sources import source
from unisr.errors import DataError

DAY = 86_400
SHARED = Path(__file__).resolve().parents[3] / "shared" / "data"
REVIEWS = [review(f"A{u}", asin(i), DAY * (u + i)) for u in range(30) for i in range(10)]


def write(path: Path, lines: list[str]) -> None:
    path.parent.mkdir(exist_ok=True)
    path.write_bytes(gzip.compress("".join(line + "\n" for line in lines).encode()))


def kindle_files(
    folder: Path, *, reviews: list[str] | None = None, items: list[str] | None = None, n: int = 12
) -> Path:
    """A folder of 30 users who reviewed 10 items, and metadata of n items; lines given replace the first ones."""
    own, entries = [json.dumps(r) for r in REVIEWS], [repr(metadata(i, [[1, 2], [], [3]])) for i in range(n)]
    for lines, given in ((own, reviews or []), (entries, items or [])):
        lines[: len(given)] = given
    write(folder / kindle.REVIEWS, own)
    write(folder / kindle.METADATA, entries)
    return folder


def test_tables_hold_every_review_and_a_search_for_each(tmp_path: Path) -> None:
    dataset = kindle.build(kindle.fetch(kindle_files(tmp_path)), 0)
    assert describe(dataset) == {"#User": 30, "#Item": 10, "#Queries": 15, "#Inter-S": 300, "#Inter-R": 300}
    first = dataset.items.iloc[1]
    assert first["key"] == asin(0) and first["title"] == "Volume 0" and first["category"] == "Books / Romance"
    assert first["text"].startswith('Volume 0 The historical tale of number 0, it\'s "new". The historical')
    assert "Romance" not in first["text"] and dataset.items["title"][2] == ""
    row = dataset.events.iloc[0]
    assert (row["user"], row["item"], row["task"], row["time"]) == (1, 1, Task.REC, 0)
    assert set(dataset.queries["origin"][1:]) == {"constructed"}
    assert source("Amazon-Kindle").name == dataset.name == "amazon-kindle"
    assert kindle.PAPER_COUNTS.keys() == describe(dataset).keys() and source(kindle.NAME).paper_counts
    assert [counts for _, counts in dataset.filters] == [
        {"#Inter-R": 300}, {"#User": 30, "#Item": 10, "#Inter-R": 300}, {"#Queries": 15, "#Inter-S": 600},
        {"#Queries": 15, "#Inter-S": 300},
    ]  # fmt: skip


def test_each_search_has_a_query_of_its_item_and_all_are_drawn(tmp_path: Path) -> None:
    dataset = kindle.build(kindle_files(tmp_path), 0)
    searched = dataset.events[dataset.events["task"] == Task.SRC]
    pairs = set(zip(searched["item"] - 1, dataset.queries["text"].to_numpy()[searched["query"]], strict=True))
    allowed = {(i, q) for i in range(10) for q in kindle.queries_of(metadata(i, [])["categories"])}
    assert pairs == allowed and len(allowed) == 20
    assert dataset_hash(dataset) == dataset_hash(kindle.build(tmp_path, 5)), "the draw has a fixed seed"


@pytest.mark.parametrize(
    ("path", "query"),
    [
        (["Camera, Photo", "Digital Camera Lenses"], "photo digital camera lenses"),
        (["Books", "Mystery, Thriller & Suspense", "Mystery", "Women Sleuths"],
         "books thriller suspense mystery women sleuths"),
        (["Kindle Store", "Kindle Short Reads", "One hour (33-43 Pages)"], "store kindle short reads hour pages"),
        (["Books", "Literature & Fiction"], "books literature fiction"),
    ],
)  # fmt: skip
def test_the_query_rule_is_that_of_the_official_files(path: list[str], query: str) -> None:
    assert kindle.queries_of([path]) == [query]


def test_paths_of_one_level_give_no_query_and_equal_queries_are_one() -> None:
    assert kindle.queries_of([["Books"], [], ["A", "B", "Of"], ["Books", "Humor"], ["Humor", "Books", "Humor"]]) == [
        "books humor"
    ]


def test_texts_are_cleaned_and_long_descriptions_left_out() -> None:
    entry = {"title": "A &amp; B", "brand": "C", "description": "x\n<i>y</i>", "categories": [["Books"]]}
    assert kindle._texts(entry) == ("A & B", "A & B C x y", "")
    assert kindle._texts(entry | {"description": "x" * kindle.LONG_TEXT})[1] == "A & B C"


def official(folder: Path, *, qrels: list[str], queries: list[str]) -> None:
    write(folder / "query_text.txt.gz", queries)
    write(folder / "test.qrels.gz", qrels)


def test_the_official_query_files_decide_where_they_are(tmp_path: Path, caplog: pytest.LogCaptureFixture) -> None:
    kindle_files(tmp_path)
    rows = [f"A1_2 0 {asin(3)} 1 ", f"A1_0 0 {asin(3)} 0 ", f"A2_0 0 {asin(4)} 1", f"NOBODY_0 0 {asin(4)} 1"]
    official(tmp_path, qrels=rows, queries=["books", "never", "store kindle"])
    with caplog.at_level(logging.INFO):
        dataset = kindle.build(tmp_path, 0)
    searched = dataset.events[dataset.events["task"] == Task.SRC]
    user, query = dataset.users["key"], dataset.queries["text"]
    found = {(user[e.user], e.item - 1, query[e.query]) for e in searched.itertuples()}
    assert found == {("A1", 3, "store kindle"), ("A2", 4, "books")} and dataset.n_queries == 2
    assert "train.qrels.gz missing" in caplog.text and "2 of 3 judged purchases are reviews" in caplog.text


def test_a_purchase_with_several_queries_gets_one_of_them(tmp_path: Path) -> None:
    kindle_files(tmp_path)
    rows = [f"A{u}_{q} 0 {asin(3)} 1" for u in range(30) for q in range(3)]
    official(tmp_path, qrels=rows, queries=["a", "b", "c"])
    dataset = kindle.build(tmp_path, 0)
    assert describe(dataset)["#Inter-S"] == 30 and dataset.n_queries == 3


@pytest.mark.parametrize("row", ["A1 0 B 1", "A1_x 0 B 1", "A1_9 0 B 1", "A1_0 0 B 7"])
def test_malformed_qrels_are_refused_by_line(tmp_path: Path, row: str) -> None:
    write(tmp_path / "q.gz", [f"A1_0 0 {asin(1)} 1", row])
    with pytest.raises(DataError, match=r"q\.gz: 1 of 2 lines .* \(line 2\)"):
        kindle.qrels(tmp_path / "q.gz", 5)


ENTRY = metadata(0, [])
BAD_ITEMS = {
    "no Python literal": "{'asin': open('x')}",
    "no asin": repr({k: v for k, v in ENTRY.items() if k != "asin"}),
    "no categories": repr({k: v for k, v in ENTRY.items() if k != "categories"}),
    "wrong type of title": repr(ENTRY | {"title": 7}),
    "wrong type of categories": repr(ENTRY | {"categories": [["Books", 7]]}),
    "unknown column novel": repr(ENTRY | {"novel": 7}),
    "duplicate asin": repr(metadata(3, [])),
}


@pytest.mark.parametrize("kind", BAD_ITEMS)
def test_malformed_metadata_is_refused_by_line_when_it_is_much(tmp_path: Path, kind: str) -> None:
    line = 4 if kind == "duplicate asin" else 1
    with pytest.raises(DataError, match=rf"meta_Kindle_Store\.json\.gz: 1 of \d+ lines .*1 x {kind} \(line {line}\)"):
        kindle.build(kindle_files(tmp_path, items=[BAD_ITEMS[kind]]), 0)


def test_items_of_no_review_are_not_parsed_and_items_without_a_line_stay(
    tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    kindle_files(tmp_path, items=["{'asin': 'UNKNOWN', 'x': open('x')}"], n=40)
    dataset: Dataset = kindle.build(tmp_path, 0)
    assert "1 of 10 reviewed items have no line" in caplog.text and "malformed" not in caplog.text
    assert dataset.n_items == 10 and dataset.items["text"][1] == "" and describe(dataset)["#Inter-S"] == 270


@pytest.mark.parametrize(
    ("lines", "kind"),
    [([json.dumps(REVIEWS[0])] * 2, "duplicate reviewerID, asin"), (["{"], "no JSON"),
     ([json.dumps(REVIEWS[0] | {"unixReviewTime": -1})], "negative unixReviewTime")],
)  # fmt: skip
def test_a_few_malformed_reviews_are_left_out_and_told(
    tmp_path: Path, caplog: pytest.LogCaptureFixture, lines: list[str], kind: str
) -> None:
    dataset = kindle.build(kindle_files(tmp_path, reviews=lines), 0)
    assert describe(dataset)["#Inter-R"] == 299 and f"1 of 300 lines are malformed: 1 x {kind}" in caplog.text


def test_without_files_the_message_says_which_to_get(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.delenv("UNISR_KINDLE", raising=False)
    with pytest.raises(DataError, match=r"reviews_Kindle_Store_5.*SNAP.*accept the terms.*UNISR_KINDLE"):
        kindle.fetch(None)
    monkeypatch.setenv("UNISR_KINDLE", str(tmp_path))
    with pytest.raises(DataError, match="meta_Kindle_Store.json.gz missing"):
        kindle.fetch(None)


@pytest.mark.skipif(not SHARED.is_dir(), reason="no shared data")
def test_the_real_query_files_are_read_whole() -> None:
    folder = SHARED / "amazon_product_search_qrels" / "Kindle_Store"
    judged = kindle.qrels(folder / "test.qrels.gz", 4603)
    assert len(judged) == 345_315 and judged["reviewerID"].n_unique() == 62_028 and judged["asin"].n_unique() == 45_235


@pytest.mark.skipif(not SHARED.is_dir(), reason="no shared data")
def test_the_real_reviews_are_read_whole(tmp_path: Path) -> None:
    malformed = Malformed(SHARED / "kindle_reviews_sample" / "kindle_reviews.csv.gz")
    needed = {"reviewerID": "text", "asin": "text", "unixReviewTime": "integer", "reviewText": "text"}
    rows = csv_rows(malformed, needed, [], pl.lit(True)).drop("line")
    assert len(rows) == 4905
    (tmp_path / "r.json").write_bytes(b"".join(json.dumps(r).encode() + b"\n" for r in rows.to_dicts()))
    read = Malformed(tmp_path / "r.json")
    found = json_lines(read, kindle.NEEDED, kindle.REVIEW_COLUMNS)
    assert found.drop("line").equals(rows.select(found.columns[:-1])) and not read.counts
