"""Qilin: tables from generated files in the official format; filters, units of time, texts and malformed rows."""

from __future__ import annotations

import shutil
from collections.abc import Callable
from pathlib import Path

import polars as pl
import pytest

from unisr.benchmarks.official_files import QILIN_START, write_qilin
from unisr.data import dataset_hash, describe, load_dataset
from unisr.data.raw import Malformed
from unisr.data.raw_parquet import parquet_rows
from unisr.data.schema import Dataset, Split, Task
from unisr.data.sources import qilin
from unisr.errors import DataError

DAY = 86_400
FILES = {task: [name for name, t in qilin.REQUESTS.items() if t == task] for task in (Task.REC, Task.SRC)}


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    path = tmp_path_factory.mktemp("qilin")
    write_qilin(path, users=40, notes=300, requests=500, searches=300)
    return path


@pytest.fixture(scope="module")
def dataset(folder: Path) -> Dataset:
    return qilin.build(qilin.fetch(folder), 0)


def clicks(folder: Path, task: Task) -> set[tuple[str, str, str, int]]:
    """(user, query, note, second) of the clicks of both parts, read without the package's reader."""
    details, clock = qilin.DETAILS[task]
    found = set()
    for name in FILES[task]:
        for row in pl.read_parquet(folder / name).to_dicts():
            for note in row[details]:
                if note["click"] > 0:
                    second = int(note[clock]) // (1000 if task == Task.REC else 1)
                    query = row["query"] if task == Task.SRC else ""
                    found.add((str(row["user_idx"]), query, str(note["note_idx"]), second))
    return found


def test_events_are_the_clicks_of_both_parts_at_their_second(folder: Path, dataset: Dataset) -> None:
    user, item, query = dataset.users["key"], dataset.items["key"], dataset.queries["text"]
    for task in Task.REC, Task.SRC:
        rows = dataset.events[dataset.events["task"] == task]
        events = {(user[e.user], query[e.query], item[e.item], e.time) for e in rows.itertuples()}
        left = {c for c in clicks(folder, task) if c[0] in set(user) and c[2] in set(item)}
        assert events == left and len(events) == len(rows) > 0
    assert ((dataset.column("time") - QILIN_START) // DAY).max() <= 20, "both files are in seconds"


def test_users_and_notes_are_left_by_the_filters(folder: Path, dataset: Dataset) -> None:
    counts = describe(dataset)
    assert 0 < counts["#User"] < 40 and dict(dataset.filters[-1][1]).items() <= counts.items()
    left = [dict(counts) for _, counts in dataset.filters]
    assert len(left) == 3 and all(a[n] >= b[n] for a, b in zip(left, left[1:], strict=False) for n in a)
    assert qilin.SOURCE.paper_counts is not None and qilin.SOURCE.paper_counts.keys() <= counts.keys()
    often = [
        pl.concat([pl.read_parquet(folder / name, columns=["user_idx"]) for name in FILES[task]])["user_idx"]
        .value_counts().filter(pl.col("count") >= qilin.CORE)["user_idx"]
        for task in (Task.REC, Task.SRC)
    ]  # fmt: skip
    assert {*map(int, dataset.users["key"][1:])} == set(often[0]) & set(often[1])


def test_the_core_counts_notes_shown_and_recent_clicks_again_and_again() -> None:
    # Note 3 occurs three times with the request of user 2, who has too few once note 9 is gone.
    shown = [(r, 1, n) for r in (1, 2, 3) for n in (1, 2)] + [(4, 2, 3), (5, 2, 3), (6, 2, 9)]
    past = [(1, 3), (1, 4), (2, 4), (3, 4), (4, 5), (5, 5), (6, 5)]
    frame = pl.DataFrame(shown, schema=["request", "user", "item"], orient="row")
    kept, recent = qilin.core(frame, pl.DataFrame(past, schema=["request", "item"], orient="row"))
    assert kept.rows() == shown[:6] and sorted(recent.rows()) == [(1, 4), (2, 4), (3, 4)]


def test_users_need_enough_requests_of_each_task() -> None:
    rows = [(i, 1, t) for i, t in enumerate([1, 1, 1, 2, 2, 2])] + [(i, 2, t) for i, t in enumerate([1, 1, 1, 2, 2], 6)]
    # A request that shows two notes is one request.
    shown = pl.DataFrame([*rows, rows[-1]], schema=["request", "user", "task"], orient="row")
    assert qilin.of_both_tasks(shown)["user"].unique().to_list() == [1]


def test_the_split_is_leave_one_out_of_each_task(dataset: Dataset) -> None:
    for task in Task.REC, Task.SRC:
        for split in Split.VALIDATION, Split.TEST:
            users = dataset.column("user")[dataset.rows(split, task)]
            assert len(users) == len(set(users)) > 10
    last = dataset.events[dataset.events["task"] == Task.REC].groupby("user").tail(1)
    assert set(last["split"]) <= {Split.TEST, Split.TRAIN}


def test_texts_are_title_content_and_taxonomy(dataset: Dataset) -> None:
    row = dataset.items[dataset.items["key"] == "7"].iloc[0]
    assert row["title"] == "note_title of number 7" and row["category"] == "c12 / c27 / c37"
    assert row["text"] == "note_title of number 7 note_content of number 7"
    assert dataset.items[dataset.items["key"] == "8"].iloc[0]["category"] == "c13 / c28"
    assert set(dataset.queries["origin"][1:]) == {"real"}


def changed(folder: Path, target: Path, name: str, change: Callable[[pl.DataFrame], pl.DataFrame]) -> Path:
    """A copy of the folder with one file changed."""
    shutil.copytree(folder, target, dirs_exist_ok=True)
    change(pl.read_parquet(folder / name)).write_parquet(target / name)
    return target


def note(task: Task, **fields: object) -> pl.Expr:
    """The details of a request with `fields` in place of those of the first note shown."""
    details = pl.col(qilin.DETAILS[task][0])
    own = pl.element().struct.with_fields(**{n: pl.lit(v) for n, v in fields.items()})
    first = pl.int_range(pl.len()) == 0
    return details.list.eval(pl.when(first).then(own).otherwise(pl.element()))


REC, SRC = Task.REC, Task.SRC
BAD = {
    "no user_idx": (REC, {"user_idx": pl.lit(None, pl.Int64)}),
    "negative user_idx": (SRC, {"user_idx": pl.lit(-1)}),
    "no query": (SRC, {"query": pl.lit(" \n")}),
    "no rec_result_details_with_idx": (REC, {qilin.DETAILS[REC][0]: None}),
    "no note_idx": (SRC, {qilin.DETAILS[SRC][0]: note(SRC, note_idx=None)}),
    "negative note_idx": (REC, {qilin.DETAILS[REC][0]: note(REC, note_idx=-3)}),
    "no search_timestamp": (SRC, {qilin.DETAILS[SRC][0]: note(SRC, click=1.0, search_timestamp=float("nan"))}),
    "negative request_timestamp": (REC, {qilin.DETAILS[REC][0]: note(REC, request_timestamp=-5)}),
}


@pytest.mark.parametrize("kind", BAD)
def test_a_malformed_row_is_left_out_and_told(
    folder: Path, tmp_path: Path, caplog: pytest.LogCaptureFixture, kind: str
) -> None:
    task, columns = BAD[kind]
    at = pl.int_range(pl.len()) == 4
    rows = pl.read_parquet(folder / FILES[task][0])
    rows = rows.with_columns(pl.when(at).then(c).otherwise(pl.col(n)).alias(n) for n, c in columns.items())
    rows.write_parquet(tmp_path / "a.parquet")
    found = qilin.requests(tmp_path / "a.parquet", task)
    assert len(found) == len(rows) - 1
    assert f"a.parquet: 1 of {len(rows)} lines are malformed: 1 x {kind} (line 5)" in caplog.text


def test_a_note_without_the_mark_of_a_click_is_not_clicked(folder: Path, tmp_path: Path) -> None:
    rows = pl.read_parquet(folder / FILES[SRC][0])
    marks = rows.with_columns(note(SRC, click=float("nan"), search_timestamp=None).alias(qilin.DETAILS[SRC][0]))
    marks.write_parquet(tmp_path / "a.parquet")
    shown = qilin.requests(tmp_path / "a.parquet", SRC)["shown"]
    assert len(shown) == len(rows) and not shown.list.first().struct.field("click").any()


def test_malformed_notes_are_told_and_many_are_refused(
    folder: Path, tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    notes = pl.read_parquet(folder / qilin.NOTES[1])
    number = int(notes["note_idx"][0])
    more = [pl.concat([pl.read_parquet(folder / qilin.NOTES[0])] * 3 + [notes[:1], notes[:1]])]
    changed(folder, tmp_path, qilin.NOTES[0], lambda rows: pl.concat([rows, notes[:1]]))
    with pytest.raises(DataError, match=r"train-00001.*: 1 of 60 lines .*1 x duplicate item \(line 1\)"):
        qilin.build(tmp_path, 0)
    changed(folder, tmp_path, qilin.NOTES[0], lambda _: more[0])
    with pytest.raises(DataError, match=r"train-00000.*: \d+ of 182 lines .* x duplicate item"):
        qilin.build(tmp_path, 0)
    changed(folder, tmp_path, qilin.NOTES[1], lambda rows: rows[1:])
    assert qilin.build(tmp_path, 0).items.set_index("key").loc[str(number), "text"] == ""
    assert "notes have no line" in caplog.text


def test_columns_types_and_damage_are_told(folder: Path, tmp_path: Path) -> None:
    name = FILES[SRC][0]
    rows = pl.read_parquet(folder / name)
    path = tmp_path / "a.parquet"
    for broken, message in (
        (rows.drop("query"), r"a\.parquet: column query missing; is this the official file"),
        (rows.with_columns(pl.lit("x").alias(qilin.DETAILS[SRC][0])), r"a\.parquet: .*get the file again"),
        (rows.with_columns(user_idx=pl.lit("x")), r"x no user_idx"),
        (rows[:0], "holds no lines"),
    ):
        broken.write_parquet(path)
        with pytest.raises(DataError, match=message):
            qilin.requests(path, SRC)
    whole = (folder / name).read_bytes()
    for content in (whole[: len(whole) // 2], b"no parquet", b""):
        path.write_bytes(content)
        with pytest.raises(DataError, match=r"a\.parquet: .*get the file again"):
            qilin.requests(path, SRC)


def test_an_unknown_column_is_counted_at_the_first_row(tmp_path: Path) -> None:
    pl.DataFrame({"a": [1, 2], "b": [1, 2], "c": [1, 2]}).write_parquet(tmp_path / "a.parquet")
    malformed = Malformed(tmp_path / "a.parquet")
    rows = parquet_rows(malformed, ["a"], ["b"], pl.col("a") > 1, a=pl.col("a"))
    assert rows.rows() == [(2, 2)] and malformed.first == {"unknown column c": [1]} and malformed.lines == 2


def test_it_is_prepared_by_name_and_kept(
    folder: Path, dataset: Dataset, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    monkeypatch.setenv("UNISR_DATA", str(tmp_path))
    for _ in range(2):
        found = load_dataset("Qilin", folder=folder)
        assert dataset_hash(found) == dataset_hash(dataset) and found.filters == dataset.filters
        monkeypatch.setattr(qilin, "_filtered", None)
    assert "building again" not in caplog.text


def test_without_files_the_message_says_how_to_get_them(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.delenv("UNISR_QILIN", raising=False)
    with pytest.raises(DataError, match=r"THUIR/Qilin.*huggingface-cli download.*UNISR_QILIN"):
        qilin.fetch(None)
    monkeypatch.setenv("UNISR_QILIN", str(tmp_path))
    with pytest.raises(DataError, match=r"recommendation_train/train-00000-of-00001\.parquet, .* missing"):
        qilin.fetch(None)
