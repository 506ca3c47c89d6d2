"""Sources: counts, planted truth, the three file formats, and errors that name file, line and value."""

from __future__ import annotations

import gzip
import json
from pathlib import Path

import numpy as np
import pytest

from unisr.data import dataset_hash, describe
from unisr.data.candidates import draw_candidates
from unisr.data.negatives import popularity_weights
from unisr.data.schema import Dataset, Split, Task
from unisr.data.sources import ml_100k, office, source, sources, synthetic
from unisr.errors import DataError, UnknownNameError


def test_names_are_found_in_any_case_and_near_ones_are_listed() -> None:
    assert source("ML-100K").name == "ml-100k"
    with pytest.raises(UnknownNameError, match="synthetic"):
        source("syntetic")
    assert set(sources()) == {"ml-100k", "synthetic", "office", "amazon-kindle", "kuaisar-small", "kuaisar", "qilin",
                              "unisar-amazon", "unisar-kuaisar", "kindle-shape"}  # fmt: skip
    assert all(s.queries in ("constructed", "real") and s.licence and s.origin for s in sources().values())


def test_ml_100k_has_the_known_counts(movies: Dataset) -> None:
    counts = {"#User": 938, "#Item": 1008, "#Queries": 321, "#Inter-S": 54413, "#Inter-R": 54413}
    assert describe(movies) == counts
    story = movies.items[movies.items["key"] == "1"].iloc[0]
    assert story["title"] == "Toy Story (1995)" and story["category"] == "Animation Children's Comedy"
    assert story["text"] == "Toy Story 1995 Animation Children's Comedy 1990s"
    assert "animation children's comedy 1990s" in set(movies.queries["text"])
    assert set(movies.queries["origin"][1:]) == {"constructed"}


def test_ml_100k_targets_of_the_two_tasks_are_twins(movies: Dataset) -> None:
    for split in Split:
        rec, src = movies.rows(split, Task.REC), movies.rows(split, Task.SRC)
        assert len(rec) == len(src) > 0
        for column in ("user", "item", "time"):
            assert np.array_equal(movies.column(column)[rec], movies.column(column)[src])


def test_office_rebuilds_the_known_sequences(office: Dataset) -> None:
    assert describe(office)["#User"] == 3231 and describe(office)["#Inter-R"] == 22447
    assert describe(office)["#Item"] == 3459
    user, time = (office.column(c)[office.column("task") == Task.REC] for c in ("user", "time"))
    assert (time[np.r_[True, user[1:] != user[:-1]]] == 0).all(), "every sequence starts at rank 0"
    assert not office.items["title"].str.contains("&amp;|&quot;|&rdquo;").any()


def test_an_oracle_of_the_synthetic_truth_beats_popularity(world: Dataset) -> None:
    truth, stored = synthetic.truth(0), draw_candidates(world, "uniform", 0)
    weights = popularity_weights(world)
    for task in ("rec", "src"):
        rows, items, positive = stored.of(Split.TEST, task)
        users, queries = world.column("user")[rows], world.column("query")[rows]
        known = truth.recommendation[users[:, None], items] if task == "rec" else truth.search[queries[:, None], items]
        best, popular = hits(known, positive), hits(weights[items], positive)
        assert best > 2.5 * popular and best > 0.4


def hits(scores: np.ndarray, positive: np.ndarray) -> float:
    """Share of rows whose positive is among the ten highest."""
    own = scores[np.arange(len(scores)), positive][:, None]
    return float(((scores > own).sum(axis=1) < 10).mean())


def test_synthetic_worlds_differ_by_seed_and_hold_ties_twins_and_lone_searches(world: Dataset) -> None:
    assert dataset_hash(synthetic.build(None, 0)) == dataset_hash(world) != dataset_hash(synthetic.build(None, 1))
    rows = world.events.set_index(["user", "item", "time"])
    rec, src = (rows.index[rows["task"] == t] for t in (Task.REC, Task.SRC))
    share = np.isin(src.to_numpy(), rec.to_numpy()).mean()
    assert 0.2 < share < 0.8
    assert world.events[world.events["task"] == Task.REC].duplicated(["user", "time"]).any()
    truth = synthetic.truth(0)
    assert np.allclose(truth.recommendation[1:].sum(axis=1), 1) and np.allclose(truth.search[1:].sum(axis=1), 1)


def movie_lines(n: int = 6) -> tuple[list[str], list[str], list[str], list[str]]:
    """n users who like n movies, in GroupLens' and RecBole's forms: (u.data, u.item, inter, item) lines."""
    ratings = [f"{u}\t{i}\t{4 + (u + i) % 2}\t{100 * i + u}" for u in range(1, n + 1) for i in range(1, n + 1)]
    flags = "|".join("1" if g in ("Drama", "War") else "0" for g in ml_100k.GENRES)
    grouplens = [f"{i}|Misérables {i} (199{i})|01-Jan-1990||url|{flags}" for i in range(1, n + 1)]
    recbole = [f"{i}\tMisérables {i}\t199{i}\tDrama War" for i in range(1, n + 1)]
    return ratings, grouplens, ["u:token\ti:token\tr:float\tt:float", *ratings], ["i\tt\ty\tc", *recbole]


def write(folder: Path, name: str, lines: list[str], encoding: str = "utf-8") -> None:
    folder.mkdir(exist_ok=True)
    (folder / name).write_text("\n".join(lines) + "\n", encoding=encoding)


def test_both_forms_of_ml_100k_give_the_same_tables(tmp_path: Path) -> None:
    ratings, grouplens, inter, recbole = movie_lines()
    write(tmp_path / "g", "u.data", ratings)
    write(tmp_path / "g", "u.item", grouplens, "latin-1")
    write(tmp_path / "r", "ml-100k.inter", inter)
    write(tmp_path / "r", "ml-100k.item", recbole)
    one, other = (ml_100k.build(ml_100k.fetch(tmp_path / f), 0) for f in ("g", "r"))
    assert dataset_hash(one) == dataset_hash(other)
    assert one.items["title"][1] == "Misérables 1 (1991)" and one.queries["text"][1] == "drama war 1990s"


@pytest.mark.parametrize(
    ("line", "message"),
    [
        ("1\t2\tfive\t881250949", r"u\.data, line 3: rating is 'five'"),
        ("1\t2\t5", r"u\.data, line 3: 3 fields, 4 are needed"),
        ("1\t2\t5\t881250949\t7", r"u\.data, line 3: 5 fields, 4 are needed"),
        ("1\t99\t5\t881250949", "item 99 is rated but not in the item file"),
        ("1\t2\t5\t-4", r"line 3: time is '-4'"),
    ],
)
def test_malformed_ratings_are_named_by_file_line_and_value(tmp_path: Path, line: str, message: str) -> None:
    ratings, grouplens, *_ = movie_lines()
    write(tmp_path, "u.data", [*ratings[:2], line, *ratings[3:]])
    write(tmp_path, "u.item", grouplens, "latin-1")
    with pytest.raises(DataError, match=message):
        ml_100k.build(tmp_path, 0)


def test_a_folder_without_the_files_says_what_is_needed(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.delenv(office.ENVIRONMENT, raising=False)
    with pytest.raises(DataError, match=r"u\.data.*ml-100k\.inter"):
        ml_100k.fetch(tmp_path)
    with pytest.raises(DataError, match="UNISR_OFFICE"):
        office.fetch(None)
    with pytest.raises(DataError, match=r"item\.json\.gz.*missing"):
        office.fetch(tmp_path)


def office_folder(folder: Path, valid: list[str], test: list[str]) -> Path:
    header = "user_id,history_item_title,item_title,history_item_id,item_id,history_item_sid,item_sid"
    for name, rows in ((office.VALID, valid), (office.TEST, test)):
        with gzip.open(folder / name, "wt", encoding="utf-8") as file:
            file.write("\n".join([header, *rows]) + "\n")
    items = {str(i): {"title": f"Acme &quot;Red&quot; Pen Case {i}, 12-Count", "brand": "Acme"} for i in range(4)}
    with gzip.open(folder / office.ITEMS, "wt", encoding="utf-8") as file:
        json.dump(items, file)
    return folder


def row(user: str, history: str, item: str) -> str:
    return f'{user},[],x,"{history}",{item},[],y'


def test_office_rows_are_chained_in_order(tmp_path: Path) -> None:
    folder = office_folder(tmp_path, [row("A", "[2, 0]", "1"), row("B", "[3]", "3")], [row("A", "[2, 0, 1]", "3")])
    dataset = office.build(folder, 0)
    own = (dataset.column("user") == 1) & (dataset.column("task") == Task.REC)
    assert dataset.column("item")[own].tolist() == [3, 1, 2, 4] and dataset.column("time")[own].tolist() == [0, 1, 2, 3]
    assert dataset.queries["text"].tolist() == ["", "acme red pen case"]
    assert dataset.items["title"][1] == 'Acme "Red" Pen Case 0, 12-Count'


@pytest.mark.parametrize(
    ("history", "item", "message"),
    [
        ("[1]", "3", r"test\.csv\.gz, line 2: the history of user A"),
        ("__import__('os').system('true')", "3", r"line 2: .*is not a list of item numbers"),
        ("[2, 0, 1]", "x", r"line 2: '\[x\]' is not a list of item numbers"),
        ("[2, 0, 1]", "9", "item 9 is in a history"),
    ],
)
def test_malformed_office_rows_are_named(tmp_path: Path, history: str, item: str, message: str) -> None:
    folder = office_folder(tmp_path, [row("A", "[2, 0]", "1")], [row("A", history, item)])
    with pytest.raises(DataError, match=message):
        office.build(folder, 0)


def published(folder: Path, ids: object) -> np.ndarray:
    with gzip.open(folder / office.IDS, "wt", encoding="utf-8") as file:
        json.dump(ids, file)
    return office.published_codes(folder)


def test_published_ids_are_read_in_the_order_of_items(tmp_path: Path) -> None:
    folder = office_folder(tmp_path, [row("A", "[2, 0]", "1")], [row("A", "[2, 0, 1]", "3")])
    codes = published(folder, {"1": ["<a_7>", "<b_0>", "<c_3>"], "0": ["<a_1>", "<b_2>", "<c_3>"]})
    assert codes.tolist() == [[-1, -1, -1], [1, 2, 3], [7, 0, 3]]
    for wrong in (["<a_1>", "<b_2>"], ["<b_1>", "<a_2>", "<c_3>"], 5, None):
        with pytest.raises(DataError, match="item 0 has the id"):
            published(folder, {"0": wrong})
    with pytest.raises(DataError, match="a list in place of entries"):
        published(folder, [["<a_1>", "<b_2>", "<c_3>"]])
    (folder / office.IDS).write_bytes(b"no gzip")
    with pytest.raises(DataError, match="get the file again"):
        office.published_codes(folder)


def test_office_queries_drop_stop_words_digits_and_repetitions() -> None:
    assert office.query_of("Avery Big Tab Big Dividers for 5 Tabs (23076)", "Avery") == "avery big tab dividers"
    assert office.query_of("The Pen of 2017", "") == "pen"
