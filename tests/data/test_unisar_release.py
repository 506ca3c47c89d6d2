"""UniSAR's published files: events, the authors' split, texts, conversion and what is refused."""

from __future__ import annotations

import pickle
import shutil
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
import polars as pl
import pytest

from unisr.data import dataset_hash, describe
from unisr.data.schema import Dataset, Split, Task
from unisr.data.sources import source, unisar_release
from unisr.errors import DataError

N_USERS, N_ITEMS, N_EVENTS = 8, 20, 9
START = 1_684_684_800
NAME = "unisar-kuaisar"
FOLDER = Path("KuaiSAR")


def item(user: int, place: int) -> int:
    return 1 + (3 * user + place) % N_ITEMS


def session(user: int, place: int) -> int:
    return 1 + user * N_EVENTS + place


def clicked(number: int) -> list[int]:
    """The clicked items of a session: one or two."""
    return [1 + number % N_ITEMS] + [1 + (number + 7) % N_ITEMS] * (number % 2)


def second(place: int, task: Task) -> int:
    """Places 3 and 4 of a history are of one time."""
    return START + 3600 * (place - (place == 4)) + 60 * (task == Task.SRC)


def part(place: int) -> Split:
    """Of the events of a history; the first is of none."""
    return {0: Split.UNUSED, 7: Split.VALIDATION, 8: Split.TEST}.get(place, Split.TRAIN)


def frame(columns: dict[str, list[Any]]) -> pd.DataFrame:
    made = pd.DataFrame({n: pd.Series(v, dtype=None if isinstance(v[0], int) else object) for n, v in columns.items()})
    # As pandas 1 writes names of columns.
    made.columns = pd.Index(list(columns), dtype=object)
    return made


def rows(task: Task, split: Split) -> dict[str, list[Any]]:
    """The rows of a file; a count of place 3 or 4 belongs to the other of the two, as in the authors' pipeline."""
    found = []
    for user in range(N_USERS):
        for place in (p for p in range(N_EVENTS) if part(p) == split):
            for target in clicked(session(user, place)) if task == Task.SRC else [item(user, place)]:
                count = {3: 4, 4: 3}.get(place, place) if task == Task.REC else place
                found.append((user, target, [1, 2, 3, 4], count, place))
    names = ["user_id", "item_id", "neg_items", "rec_his", "src_session_his"]
    return {name: [row[i] for row in found] for i, name in enumerate(names)}


def write(path: Path, value: Any) -> None:
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_bytes(pickle.dumps(value, 4))


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The release's folder 'data', with the KuaiSAR archive in small."""
    root = tmp_path_factory.mktemp("unisar") / "data"
    for task, prefix in ((Task.REC, "rec"), (Task.SRC, "src")):
        for split, name in unisar_release.PARTS.items():
            write(root / FOLDER / f"dataset/{prefix}_{name}.pkl", frame(rows(task, split)))
    places = range(N_EVENTS)
    people = {
        user: {
            "rec_his": [item(user, p) for p in places],
            "rec_his_ts": [1000 * second(p, Task.REC) for p in places],
            "src_session_his": [session(user, p) for p in places],
            "src_session_his_ts": [1000.0 * second(p, Task.SRC) for p in places],
        }
        for user in range(N_USERS)
    }
    numbers = range(1 + N_USERS * N_EVENTS)
    sessions = {
        "keyword": np.array([[n % 7 + 1, 0] if n else [0, 0] for n in numbers]),
        "pos_items": np.array([(clicked(n) + [0])[:2] if n else [0, 0] for n in numbers]),
    }
    items = {"caption": np.array([[n, n + 1] for n in range(N_ITEMS + 1)])}
    items |= {level: np.arange(N_ITEMS + 1) % 3 for level in unisar_release.LEVELS}
    vocabularies = {"user_vocab": people, "src_session_vocab_np": sessions, "item_vocab_np": items}
    for name, value in (vocabularies | {"query_vocab": [[0], [3, 4]]}).items():
        write(root / FOLDER / f"vocab/{name}.pkl", value)
    return root


@pytest.fixture(scope="module")
def dataset(folder: Path) -> Dataset:
    fetch = source(NAME).fetch
    assert fetch is not None
    return source(NAME).build(fetch(folder), 0)


def held(dataset: Dataset, task: Task) -> list[tuple[str, str, str, int, int]]:
    """(user, item, query, second, split) of the events of a task."""
    user, key, query = dataset.users["key"], dataset.items["key"], dataset.queries["text"]
    events = dataset.events[dataset.events["task"] == task]
    return sorted((user[e.user], key[e.item], query[e.query], e.time, e.split) for e in events.itertuples())


def test_recommendations_are_the_histories_with_the_authors_split(dataset: Dataset) -> None:
    expected = [
        (str(u), str(item(u, p)), "", second(p, Task.REC), int(part(p)))
        for u in range(N_USERS) for p in range(N_EVENTS)
    ]  # fmt: skip
    assert held(dataset, Task.REC) == sorted(expected)


def test_searches_are_the_clicks_of_the_sessions_with_their_words(dataset: Dataset) -> None:
    expected = [
        (str(u), str(i), f"w{session(u, p) % 7 + 1}", second(p, Task.SRC), int(part(p)))
        for u in range(N_USERS) for p in range(N_EVENTS) for i in clicked(session(u, p))
    ]  # fmt: skip
    assert held(dataset, Task.SRC) == sorted(expected)
    assert describe(dataset)["#Queries"] == 7 and set(dataset.queries["origin"][1:]) == {"real"}


def test_items_have_their_caption_and_category(dataset: Dataset) -> None:
    row = dataset.items[dataset.items["key"] == "5"].iloc[0]
    assert row["title"] == row["text"] == "w5 w6" and row["category"] == "2 / 2"


def changed(folder: Path, target: Path, name: str, change: Callable[[Any], Any]) -> Path:
    """A copy of the folder with one file changed."""
    shutil.copytree(folder, target, dirs_exist_ok=True)
    path = target / FOLDER / f"{name}.pkl"
    write(path, change(pickle.loads(path.read_bytes())))
    return target


def test_an_item_at_several_places_is_the_one_at_the_count_or_after_it_or_before() -> None:
    places = [(0, 1, 4, 0), (1, 1, 4, 2), (2, 1, 4, 6), (3, 1, 5, 3), (4, 2, 4, 4)]
    events = pl.DataFrame(places, schema=["event", "user", "item", "place"], orient="row")
    asked = [(1, 1, 4, 2), (2, 1, 4, 1), (3, 1, 4, 3), (4, 1, 4, 9), (5, 1, 5, 9), (6, 1, 6, 0), (7, 2, 4, 0)]
    rows = pl.DataFrame(asked, schema=["line", "user_id", "item_id", "count"], orient="row")
    found = unisar_release.matched(rows, events, "count")
    assert found["line"].to_list() == list(range(1, 8)) and found["event"].to_list() == [1, 1, 2, 2, 3, None, 4]


def test_an_event_of_two_parts_is_in_the_most_held_out(folder: Path, tmp_path: Path) -> None:
    both = changed(folder, tmp_path, "dataset/rec_val", lambda t: frame(rows(Task.REC, Split.TEST)))
    splits = [e[4] for e in held(source(NAME).build(both, 0), Task.REC)]
    assert splits.count(Split.TEST) == N_USERS and splits.count(Split.VALIDATION) == 0


def test_rows_without_an_event_are_refused_by_number(folder: Path, tmp_path: Path) -> None:
    changed(folder, tmp_path, "dataset/src_test", lambda t: t.assign(item_id=[99, *t["item_id"][1:]]))
    with pytest.raises(DataError, match=r"src_test: 1 of 12 lines are malformed: 1 x no such event \(line 1\)"):
        source(NAME).build(tmp_path, 0)


def test_clicks_of_sessions_without_words_are_left_out_and_told(
    folder: Path, tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    def silent(sessions: Any) -> Any:
        sessions["keyword"][session(0, 0)] = 0
        return sessions

    dataset = source(NAME).build(changed(folder, tmp_path, unisar_release.SESSIONS, silent), 0)
    assert len(clicked(session(0, 0))) == 2 and "2 clicks of sessions without words are left out" in caplog.text
    assert not [e for e in held(dataset, Task.SRC) if e[0] == "0" and e[3] == second(0, Task.SRC)]


@pytest.mark.parametrize(
    ("name", "change", "message"),
    [
        ("dataset/rec_val", lambda t: t.drop(columns="rec_his"), r"rec_val: column rec_his missing"),
        (unisar_release.USERS, lambda p: {u: {"rec_his": [1]} for u in p}, "column rec_his_ts, .* missing"),
        (unisar_release.USERS, lambda p: p | {0: p[0] | {"rec_his": [1]}}, r"user_vocab: .*get the file again"),
        (unisar_release.SESSIONS, lambda _: print, r"src_session_vocab_np\.pkl: refused: global builtins\.print"),
    ],
    ids=["no counts", "no times", "unequal histories", "a function"],
)
def test_what_breaks_the_format_is_told(
    folder: Path, tmp_path: Path, name: str, change: Callable[[Any], Any], message: str
) -> None:
    with pytest.raises(DataError, match=message):
        source(NAME).build(changed(folder, tmp_path, name, change), 0)


def test_converted_files_give_the_same_dataset(
    folder: Path, dataset: Dataset, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    schemas = unisar_release.convert(folder, tmp_path)
    assert schemas["KuaiSAR/dataset/rec_val"]["neg_items"] == pl.List(pl.Int64) and len(schemas) == 10
    assert f"KuaiSAR/dataset/rec_test: {N_USERS} rows; user_id Int64, item_id Int64, " in capsys.readouterr().out
    fetch = source(NAME).fetch
    assert fetch is not None
    assert dataset_hash(source(NAME).build(fetch(tmp_path), 0)) == dataset_hash(dataset)
    assert all(p.suffix == ".parquet" for p in tmp_path.rglob("*") if p.is_file())
    (tmp_path / "KuaiSAR/vocab/user_vocab.parquet").write_bytes(b"no parquet")
    with pytest.raises(DataError, match="user_vocab.parquet: .*convert the file again"):
        source(NAME).build(tmp_path, 0)
    with pytest.raises(DataError, match="none of the release's files"):
        unisar_release.convert(tmp_path, tmp_path)


def test_both_archives_are_sources_and_say_which_files_to_get(folder: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.delenv("UNISR_UNISAR", raising=False)
    for name in unisar_release.ARCHIVES:
        fetch = source(name).fetch
        assert fetch is not None
        with pytest.raises(DataError, match=r"TengShi-RUC/UniSAR.*UNISR_UNISAR"):
            fetch(None)
        assert source(name).paper_counts is not None
    amazon = source("unisar-amazon").fetch
    assert amazon is not None
    with pytest.raises(DataError, match=r"Amazon/dataset/rec_train\.pkl, .* missing"):
        amazon(folder)
