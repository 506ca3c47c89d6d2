"""KuaiSAR: tables from generated files in the official format; filters, words, days and malformed rows."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import polars as pl
import pytest

from unisr.benchmarks.official_files import KUAISAR_START, write_kuaisar
from unisr.data import describe
from unisr.data.schema import Dataset, Split, Task
from unisr.data.sources import kuaisar, source
from unisr.data.splits import last_days
from unisr.errors import DataError

DAY = 86_400


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    path = tmp_path_factory.mktemp("kuaisar")
    write_kuaisar(path, users=40, items=80, recs=2000, searches=1000, days=4)
    return path


@pytest.fixture(scope="module")
def dataset(folder: Path) -> Dataset:
    return source("kuaisar-small").build(folder, 0)


def clicks(folder: Path) -> pl.DataFrame:
    """user, item, task, of the clicks of both files, read without the package's readers."""
    parts = []
    for name, label, task in (("rec_inter.csv", "click", Task.REC), ("src_inter.csv", "click_cnt", Task.SRC)):
        rows = pl.read_csv(folder / name).filter(pl.col(label) > 0)
        parts.append(rows.select(user="user_id", item="item_id", task=pl.lit(int(task))))
    return pl.concat(parts)


def test_clicks_of_both_tasks_are_events_of_users_with_both(folder: Path, dataset: Dataset) -> None:
    counts, raw = describe(dataset), clicks(folder)
    assert 0 < counts["#Inter-R"] <= (raw["task"] == Task.REC).sum()
    assert 0 < counts["#Inter-S"] <= (raw["task"] == Task.SRC).sum()
    tasks = dataset.events.groupby("user")["task"].nunique()
    assert (tasks == 2).all() and len(tasks) == dataset.n_users
    for column in ("user", "item"):
        assert dataset.events[column].value_counts().min() >= kuaisar.CORE


def test_what_each_filter_left_is_told(folder: Path, dataset: Dataset) -> None:
    (first, rows), (second, clicked), *_, (_, last) = dataset.filters
    assert (first, second) == ("rows of the files", "clicks") and last == describe(dataset)
    assert rows["#Inter-R"] == 2000 and rows["#Inter-S"] == 1000 and rows["#User"] == 40
    raw = clicks(folder)
    assert clicked["#Inter-R"] == (raw["task"] == Task.REC).sum() and clicked["#Item"] == raw["item"].n_unique()
    words = pl.read_csv(folder / "src_inter.csv")["keyword"]
    assert rows["#Queries"] == words.n_unique() > clicked["#Queries"] >= last["#Queries"]


def test_filters_are_repeated_until_none_changes_anything() -> None:
    # Item 9 has five clicks only while user 8, who never searches, counts.
    rows = [(u, i, Task.REC) for u in (1, 2, 3, 4, 5) for i in (1, 2, 3, 4)]
    rows += [(u, 7, Task.SRC) for u in (1, 2, 3, 4, 5)]
    lonely = [(8, i, Task.REC) for i in (1, 2, 3, 4, 9)] + [(u, 9, Task.REC) for u in (1, 2, 3, 4)]
    schema = ["user", "item", "task"]
    events = pl.DataFrame([(u, i, int(t)) for u, i, t in lonely + rows], schema=schema, orient="row")
    left: list[tuple[str, dict[str, int]]] = []
    assert kuaisar.filtered(events, left).rows() == [(u, i, int(t)) for u, i, t in rows]
    assert [(title, counts["#User"], counts["#Item"], counts["#Inter-R"]) for title, counts in left] == [
        ("5 clicks of each user and item", 6, 6, 29),
        ("users with both tasks", 5, 6, 24),
        ("5 clicks of each user and item, round 2", 5, 5, 20),
    ]
    with pytest.raises(DataError, match="no user and item with 5 clicks"):
        kuaisar.filtered(events.filter(pl.col("task") == Task.REC))


def test_texts_are_word_tokens(dataset: Dataset) -> None:
    for texts in (dataset.queries["text"][1:], dataset.items["text"][1:]):
        assert texts.str.fullmatch(r"w\d+( w\d+)*").all()
    assert set(dataset.queries["origin"][1:]) == {"real"}
    assert dataset.items["category"][1:].str.fullmatch(r"first \d+ / second \d+").all()


def test_events_keep_their_query_item_and_second(folder: Path, dataset: Dataset) -> None:
    rows = pl.read_csv(folder / "src_inter.csv").filter(pl.col("click_cnt") > 0)
    words = rows["keyword"].str.replace_all(r"[\[\],]", "").str.split(" ").list.eval("w" + pl.element()).list.join(" ")
    seconds = (rows["search_session_timestamp"] // 1000).to_list()
    raw = set(zip(map(str, rows["user_id"]), map(str, rows["item_id"]), words, seconds, strict=True))
    searched = dataset.events[dataset.events["task"] == Task.SRC]
    user, item, query = dataset.users["key"], dataset.items["key"], dataset.queries["text"]
    assert {(user[e.user], item[e.item], query[e.query], e.time) for e in searched.itertuples()} <= raw


def test_the_last_day_in_china_is_test_and_the_one_before_validation(dataset: Dataset) -> None:
    day = (dataset.column("time") - KUAISAR_START) // DAY
    expected = {(0, Split.TRAIN), (1, Split.TRAIN), (2, Split.VALIDATION), (3, Split.TEST)}
    assert {*zip(day.tolist(), dataset.column("split").tolist(), strict=True)} == expected
    midnight = np.array([KUAISAR_START - 1, KUAISAR_START, KUAISAR_START + DAY])
    assert last_days(midnight, midnight, midnight, hours=8).tolist() == [Split.TRAIN, Split.VALIDATION, Split.TEST]
    assert last_days(midnight[:0], midnight[:0], midnight[:0], hours=8).tolist() == []


def changed(folder: Path, target: Path, name: str, line: str, *, at: int = 5) -> Path:
    """A copy of the folder whose file `name` has `line` in place of its line `at`."""
    for path in folder.glob("*.csv"):
        lines = path.read_text().splitlines()
        if path.name == name:
            lines[at - 1] = line
        (target / path.name).write_text("\n".join(lines) + "\n")
    return target


@pytest.mark.parametrize(
    ("name", "line", "kind"),
    [
        ("rec_inter.csv", "1,2,0,0,t,-5,1,0,0,0,0,0", "negative timestamp"),
        ("rec_inter.csv", "u,2,0,0,t,5,1,0,0,0,0,0", "wrong type of user_id"),
        ("src_inter.csv", "1,1,t,5,[],USER_INPUT,2,1,VIDEO", "empty keyword"),
        ("src_inter.csv", '1,1,t,5,"[a, b]",USER_INPUT,2,1,VIDEO', "wrong type of keyword"),
    ],
)
def test_a_malformed_row_is_left_out_and_told(
    folder: Path, tmp_path: Path, caplog: pytest.LogCaptureFixture, name: str, line: str, kind: str
) -> None:
    source("kuaisar").build(changed(folder, tmp_path, name, line), 0)
    assert f"1 x {kind} (line 5)" in caplog.text


def test_items_without_features_stay_and_many_duplicates_are_refused(folder: Path, tmp_path: Path) -> None:
    lines = (folder / "item_features.csv").read_text().splitlines()
    changed(folder, tmp_path, "item_features.csv", lines[1], at=2)
    (tmp_path / "item_features.csv").write_text("\n".join([lines[0], *lines[2:]]) + "\n")
    items = source("kuaisar").build(tmp_path, 0).items.set_index("key")
    assert items.loc["0", "text"] == items.loc["0", "category"] == "" and items.loc["1", "text"] != ""
    (tmp_path / "item_features.csv").write_text("\n".join([*lines, *lines[1:3]]) + "\n")
    with pytest.raises(DataError, match=r"item_features\.csv: 2 of 82 lines .*2 x duplicate item_id \(line 82, 83\)"):
        source("kuaisar").build(tmp_path, 0)


def test_both_sizes_are_sources_and_say_which_files_to_get(monkeypatch: pytest.MonkeyPatch, folder: Path) -> None:
    for name, archive, variable in (
        ("kuaisar", "KuaiSAR_v2.zip", "UNISR_KUAISAR"),
        ("kuaisar-small", "KuaiSAR.zip", "UNISR_KUAISAR_SMALL"),
    ):
        fetch = source(name).fetch
        assert fetch is not None and fetch(folder) == folder
        monkeypatch.delenv(variable, raising=False)
        with pytest.raises(DataError, match=rf"{archive}.*8181109; accept its licence.*variable {variable}\."):
            fetch(None)
        assert source(name).paper_counts == kuaisar.PAPER_COUNTS[name]
        assert kuaisar.PAPER_COUNTS[name]["#Item"] > 4_000_000
