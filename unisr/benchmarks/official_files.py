"""Generated raw files in the official formats of the papers' datasets, of any size: for tests and benchmarks.

Only the form is true: ids, times, categories and word ids are drawn from simple distributions.
"""

from __future__ import annotations

import gzip
import json
from pathlib import Path

import numpy as np
import polars as pl

from unisr.random import generator

BRANCHES = ("Romance", "Mystery, Thriller & Suspense", "Science Fiction & Fantasy", "Cookbooks, Food & Wine", "History")
LEAVES = ("Historical", "Contemporary", "Women Sleuths", "Space Opera", "Baking", "Military", "Short Reads", "Humor")
DAY, MILLISECONDS = 86_400, 1000
KINDLE_START, KUAISAR_START, QILIN_START = 1_300_000_000 // DAY * DAY, 1_684_684_800, 1_731_000_000
"""Seconds; KuaiSAR's first day begins at midnight in China."""


def write_kindle(folder: Path, *, users: int, items: int, events: int, related: int = 60, seed: int = 0) -> None:
    """`reviews_Kindle_Store_5.json.gz` (`events` lines or fewer) and `meta_Kindle_Store.json.gz`.

    related: item numbers in each of the three lists of a metadata line, which are most of the real file.
    Half of the metadata lines are of items that nobody reviewed.
    """
    folder.mkdir(parents=True, exist_ok=True)
    random = generator(seed, "kindle files")
    pairs = np.unique(np.sort(random.integers(0, users * items, events)))
    user, item = pairs // items, pairs % items
    day = KINDLE_START + DAY * random.integers(0, 1200, len(pairs))
    body = " ".join(["A quick read that you will not be able to put down"] * 12)
    with gzip.open(folder / "reviews_Kindle_Store_5.json.gz", "wt", compresslevel=1) as file:
        for u, i, t in zip(user.tolist(), item.tolist(), day.tolist(), strict=True):
            file.write(json.dumps(review(f"A{u:012d}", asin(i), t, body)) + "\n")
    lists = random.integers(0, items, (2 * items, 3, related)).tolist()
    with gzip.open(folder / "meta_Kindle_Store.json.gz", "wt", compresslevel=1) as file:
        for number, others in enumerate(lists):
            file.write(repr(metadata(number, others)) + "\n")


def asin(number: int) -> str:
    """The key of an item, ten characters."""
    return f"B{number:09d}"


def review(user: str, item: str, time: int, text: str = "Loved it") -> dict[str, object]:
    """A line of the review file."""
    return {
        "reviewerID": user, "asin": item, "reviewerName": "a reader", "helpful": [0, 1], "reviewText": text,
        "overall": 5.0, "summary": "Loved it", "unixReviewTime": time, "reviewTime": "06 21, 2014",
    }  # fmt: skip


def metadata(number: int, related: list[list[int]]) -> dict[str, object]:
    """A line of the metadata file: two paths of categories, most without a title, as in the real file."""
    branch, leaf = BRANCHES[number % len(BRANCHES)], LEAVES[number // 5 % len(LEAVES)]
    lists = zip(("also_bought", "buy_after_viewing", "also_viewed"), related, strict=False)
    entry: dict[str, object] = {
        "asin": asin(number),
        "description": f"The {leaf.lower()} tale of number {number}, it's &quot;new&quot;. <br />" * 5,
        "price": 2.99,
        "imUrl": f"http://example.invalid/{number}.jpg",
        "related": {name: [asin(n) for n in numbers] for name, numbers in lists},
        "categories": [["Books", branch], ["Kindle Store", "Kindle eBooks", branch, leaf]],
    }
    return entry | ({"title": f"Volume {number}"} if number % 10 == 0 else {})


def write_kuaisar(
    folder: Path, *, users: int, items: int, recs: int, searches: int, days: int = 19, seed: int = 0
) -> None:
    """`rec_inter.csv`, `src_inter.csv`, `item_features.csv`, `user_features.csv` and `social_network.csv`."""
    folder.mkdir(parents=True, exist_ok=True)
    random = generator(seed, "kuaisar files")
    # Squared uniform numbers: a few users and items have most events.
    frame = {n: (random.random(recs) ** 2 * m).astype(int) for n, m in (("user_id", users), ("item_id", items))}
    _recommendations(random, pl.DataFrame(frame), days).write_csv(folder / "rec_inter.csv")
    frame = {n: (random.random(searches) ** 2 * m).astype(int) for n, m in (("user_id", users), ("item_id", items))}
    _searches(random, pl.DataFrame(frame), days).write_csv(folder / "src_inter.csv")
    _features(random, items).write_csv(folder / "item_features.csv")
    people = pl.DataFrame({"user_id": np.arange(users)})
    ones = [pl.lit(1).alias(n) for n in ("search_active_level", "rec_active_level", "onehot_feat1", "onehot_feat2")]
    people.with_columns(ones).write_csv(folder / "user_features.csv")
    people.with_columns(user_follow_id=0).write_csv(folder / "social_network.csv")


def _times(random: np.random.Generator, n: int, days: int) -> np.ndarray:
    """Unix milliseconds, `[n]` int64."""
    return KUAISAR_START * MILLISECONDS + random.integers(0, days * DAY * MILLISECONDS, n)


def _words(random: np.random.Generator, n: int) -> pl.Series:
    """Lists of three word ids as text, `[n]`."""
    a, b, c = (random.integers(1, 1000, n) for _ in range(3))
    return pl.select(pl.format("[{}, {}, {}]", pl.Series(a), pl.Series(b), pl.Series(c))).to_series()


def _recommendations(random: np.random.Generator, pairs: pl.DataFrame, days: int) -> pl.DataFrame:
    time = pl.Series(_times(random, len(pairs), days))
    zero = [pl.lit(0).alias(n) for n in ("forward", "like", "follow", "search", "search_item_related")]
    return pairs.with_columns(
        pl.lit(1200.0).alias("playing_time"),
        pl.lit(9000.0).alias("duration_ms"),
        time.cast(pl.Datetime("ms")).dt.strftime("%Y-%m-%d %H:%M:%S").alias("time"),
        time.alias("timestamp"),
        pl.Series("click", random.integers(0, 2, len(pairs))),
        *zero,
    )


def _searches(random: np.random.Generator, pairs: pl.DataFrame, days: int) -> pl.DataFrame:
    time = pl.Series(_times(random, len(pairs), days))
    columns = {
        "user_id": pairs["user_id"],
        "search_session_id": np.arange(len(pairs)),
        "search_session_time": time.cast(pl.Datetime("ms")).dt.strftime("%Y-%m-%d %H:%M:%S"),
        "search_session_timestamp": time,
        "keyword": _words(random, len(pairs)),
        "search_source": ["USER_INPUT"] * len(pairs),
        "item_id": pairs["item_id"],
        "click_cnt": random.integers(0, 3, len(pairs)),
        "item_type": ["VIDEO"] * len(pairs),
    }
    return pl.DataFrame(columns)


def _features(random: np.random.Generator, items: int) -> pl.DataFrame:
    branch = random.integers(0, 38, items)
    columns: dict[str, object] = {"item_id": np.arange(items), "caption": _words(random, items), "author_id": branch}
    columns |= {n: ["NORMAL"] * items for n in ("item_type", "upload_time", "upload_type")}
    for level in ("first", "second", "third", "fourth"):
        columns[f"{level}_level_category_id"] = branch
        columns[f"{level}_level_category_name"] = ["空"] * items
        columns[f"{level}_level_category_name_en"] = [f"{level} {b}" for b in branch.tolist()]
    return pl.DataFrame(columns)


def write_qilin(
    folder: Path, *, users: int, notes: int, requests: int, searches: int, shown: int = 10, seed: int = 0
) -> None:
    """The parquet files of the folders recommendation_train, …, search_test and notes, and user_feat.

    requests, searches: rows of both parts, one in eight in the test part. shown: notes of each, about one in five
    clicked.
    """
    random = generator(seed, "qilin files")
    for task, n, key, column in (
        ("recommendation", requests, "request_idx", "rec_result_details_with_idx"),
        ("search", searches, "search_idx", "search_result_details_with_idx"),
    ):
        user = (random.random(n) ** 2 * users).astype(int)
        frame = pl.DataFrame({key: np.arange(n), "session_idx": user, "user_idx": user})
        recent = _notes(random, n, notes, 5).alias("recent_clicked_note_idxs")
        query = pl.Series("query", [f"怎么 做 {k}" for k in random.integers(0, max(1, n // 3), n).tolist()])
        frame = frame.with_columns(recent, query, _details(random, n, notes, shown, task == "search").alias(column))
        for part, rows in (("train", frame[n // 8 :]), ("test", frame[: n // 8])):
            _parquet(folder / f"{task}_{part}", rows)
    texts = [f"note_{part} of number {{}}" for part in ("title", "content")]
    table = pl.DataFrame({"note_idx": random.permutation(notes)})
    table = table.with_columns(pl.format(text, "note_idx").alias(text.split()[0]) for text in texts)
    # As in the official files, the third level is missing now and then.
    levels = [pl.format(f"c{level}{{}}", pl.col("note_idx") % 5**level) for level in (1, 2, 3)]
    levels[2] = pl.when(pl.col("note_idx") % 4 > 0).then(levels[2])
    table = table.with_columns(c.alias(f"taxonomy{i}_id") for i, c in enumerate(levels, start=1))
    for shard in range(5):
        _parquet(folder / "notes", table[shard::5], f"train-{shard:05}-of-00005.parquet")
    _parquet(folder / "user_feat", pl.DataFrame({"user_idx": np.arange(users), "gender": "female"}))


def _parquet(folder: Path, rows: pl.DataFrame, name: str = "train-00000-of-00001.parquet") -> None:
    folder.mkdir(parents=True, exist_ok=True)
    rows.write_parquet(folder / name)


def _notes(random: np.random.Generator, n: int, notes: int, each: int) -> pl.Series:
    """`[n]` lists of note numbers, a few notes in most of them."""
    return pl.Series((random.random((n, each)) ** 2 * notes).astype(np.int64)).cast(pl.List(pl.Int64))


def _details(random: np.random.Generator, n: int, notes: int, shown: int, searched: bool) -> pl.Series:
    """`[n]` lists of the notes shown; searches have floats and seconds, recommendations integers and milliseconds."""
    clock, unit = ("search_timestamp", 1) if searched else ("request_timestamp", MILLISECONDS)
    start = QILIN_START + np.repeat(random.integers(0, 20 * DAY, n), shown)
    columns: dict[str, object] = {
        "click": random.random(n * shown) < 0.2,
        "note_idx": _notes(random, n, notes, shown).explode(),
        "position": np.tile(np.arange(shown), n),
        clock: (start + random.integers(0, 60, n * shown)) * unit,
    }
    table = pl.DataFrame(columns).with_columns(pl.col("click").cast(pl.Int64), row=np.repeat(np.arange(n), shown))
    if searched:
        table = table.with_columns(pl.col("click", "position", clock).cast(pl.Float64))
    return table.group_by("row", maintain_order=True).agg(pl.struct(*columns).alias("shown"))["shown"]
