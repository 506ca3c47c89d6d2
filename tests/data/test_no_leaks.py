"""Nothing at or after a target's time, and never the target or its twin, reaches a model: on every source."""

from __future__ import annotations

import dataclasses

import numpy as np
import pandas as pd
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from unisr.config import TrainConfig
from unisr.data.candidates import Candidates, draw_candidates
from unisr.data.histories import Histories, leaks
from unisr.data.loaders import EvaluationLoader, SequenceLoader, TrainLoader
from unisr.data.schema import TASKS, Dataset, Split, Task
from unisr.data.tables import assemble
from unisr.errors import DataError

SOURCES = ("world", "movies", "office")


def table(rows: list[tuple[int, int, int, int]]) -> Dataset:
    """A dataset of (user, item, task, time) rows; searches have query 1."""
    events = pd.DataFrame(rows, columns=["user", "item", "task", "time"])
    events["query"] = (events["task"] == Task.SRC).astype(int)
    names = [str(i) for i in range(1, 10)]
    items = pd.DataFrame({"key": names, "title": names, "text": names, "category": ""})
    queries = pd.DataFrame({"text": ["one"], "origin": ["constructed"]})
    return assemble("table", users=names[:4], items=items, queries=queries, events=events)


event = st.tuples(st.integers(1, 4), st.integers(1, 9), st.integers(1, 2), st.integers(0, 7))
tables = st.lists(event, min_size=1, max_size=60).map(table)


def one_item_per_event(dataset: Dataset) -> Dataset:
    """The same events, each on an item of its own: item - 1 tells the event row a tensor came from."""
    n = len(dataset.events)
    names = [str(i) for i in range(n + 1)]
    items = pd.DataFrame({"item": np.arange(n + 1), "key": names, "title": names, "text": names, "category": names})
    events = dataset.events.assign(item=np.arange(1, n + 1))
    return dataclasses.replace(dataset, items=items, events=events).validate()


def assert_strictly_earlier(dataset: Dataset, targets: np.ndarray, seen: np.ndarray) -> None:
    """`seen [n, L]` event rows (-1 padding) hold nothing that the targets `[n]` must not see."""
    user, item, time = (np.append(dataset.column(c), -1) for c in ("user", "item", "time"))
    real = seen >= 0
    assert (np.diff(real.astype(int), axis=1) >= 0).all(), "left-padded"
    assert (np.diff(np.where(real, time[seen], -1), axis=1) >= 0).all(), "chronological"
    assert (user[seen] == user[targets, None])[real].all(), "another user's event"
    assert (time[seen] < time[targets, None])[real].all(), "not earlier than the target"
    twin = (user[seen] == user[targets, None]) & (item[seen] == item[targets, None]) & (
        time[seen] == time[targets, None]
    )
    assert not (seen == targets[:, None]).any() and not twin.any()


def check_training(dataset: Dataset) -> None:
    """Every batch of an epoch of `TrainLoader`."""
    unique = one_item_per_event(dataset)
    if not (dataset.column("split") == Split.TRAIN).any():
        return
    loader = TrainLoader(unique, Histories(unique), config=TrainConfig(batch_size=8192, negatives=1), seed=3)
    trained = []
    try:
        batches = list(loader.epoch(0))
    except DataError as reason:  # a table may be so small that its only user has seen every item
        assert "unseen" in str(reason)
        return
    for batch in batches:
        targets = batch.candidates[batch.labels == 1].numpy() - 1
        assert_strictly_earlier(dataset, targets, batch.items.numpy() - 1)
        assert np.array_equal(dataset.column("task")[targets], batch.task.numpy())
        assert np.array_equal(dataset.column("query")[targets], batch.query.numpy())
        trained.append(targets)
    expected = np.flatnonzero(dataset.column("split") == Split.TRAIN)
    assert np.array_equal(np.sort(np.concatenate(trained)), expected)


def check_sequences(dataset: Dataset, history_length: tuple[int, int]) -> None:
    """Every window of two epochs of `SequenceLoader`: states, targets, coverage."""
    unique = one_item_per_event(dataset)
    split, task, time, user = (dataset.column(c) for c in ("split", "task", "time", "user"))
    inputs = (split == Split.TRAIN) & ((task == Task.REC) | (history_length[1] > 0))
    first = pd.Series(time[inputs]).groupby(user[inputs]).min()
    rows = dataset.rows(Split.TRAIN, Task.REC)
    expected = rows[time[rows] > first.reindex(user[rows]).to_numpy()]
    if not len(expected):
        return
    loader = SequenceLoader(unique, Histories(unique), config=TrainConfig(batch_size=64), history_length=history_length)
    for epoch in (0, 1):
        batches = list(loader.epoch(epoch))
        assert len(batches) == loader.steps
        found = []
        for batch in batches:
            window, targets, states = (t.numpy() for t in (batch.items - 1, batch.targets - 1, batch.states))
            assert inputs[window[window >= 0]].all() and window.shape[1] == sum(history_length)
            row, place = np.nonzero(states >= 0)
            assert np.array_equal(states >= 0, targets >= 0)
            target, state = targets[row, place], window[row, states[row, place]]
            assert (state >= 0).all() and np.array_equal(user[state], user[target])
            assert (time[state] < time[target]).all()
            following = np.append(window, np.full((len(window), 1), -1), axis=1)[row, states[row, place] + 1]
            assert ((following < 0) | (time[following] >= time[target])).all(), "a later state was possible"
            found.append(target)
        assert np.array_equal(np.sort(np.concatenate(found)), expected)


def check_evaluation(dataset: Dataset) -> None:
    """Every batch of `EvaluationLoader`, validation and test, both tasks."""
    unique = one_item_per_event(dataset)
    stored = draw_candidates(unique, "uniform", 0).validate()
    for split in (Split.VALIDATION, Split.TEST):
        for name in TASKS:
            loader = EvaluationLoader(unique, Histories(unique), split, name, stored, (30, 30), 500)
            targets = []
            for batch, rows, positive in loader:
                assert (batch.candidates.gather(1, positive[:, None])[:, 0] - 1).tolist() == rows.tolist()
                assert_strictly_earlier(dataset, rows.numpy(), batch.items.numpy() - 1)
                targets.append(rows.numpy())
            assert np.array_equal(np.concatenate(targets), dataset.rows(split, TASKS[name]))


def check_split(dataset: Dataset) -> None:
    """Every event's split, from its time's rank (1 = latest) among the user's distinct times of the task."""
    events = dataset.events
    own = events.groupby(["user", "task"])
    rank = own["time"].rank(method="dense", ascending=False)
    last_of_time = ~events.duplicated(["user", "task", "time"], keep="last")
    enough = rank.groupby([events["user"], events["task"]]).transform("max") >= 3
    expected = np.select(
        [~enough | (rank >= 3), (rank == 2) & last_of_time, (rank == 1) & last_of_time],
        [Split.TRAIN, Split.VALIDATION, Split.TEST],
        Split.UNUSED,
    )
    assert np.array_equal(events["split"], expected)


@pytest.mark.parametrize("name", SOURCES)
def test_sources_never_show_a_target(name: str, request: pytest.FixtureRequest) -> None:
    dataset = request.getfixturevalue(name)
    check_split(dataset)
    check_training(dataset)
    check_evaluation(dataset)
    check_sequences(dataset, (50, 0))


@settings(max_examples=60, deadline=None)
@given(tables, st.integers(1, 6), st.integers(0, 6))
def test_random_tables_never_show_a_target(dataset: Dataset, rec: int, src: int) -> None:
    check_split(dataset)
    check_training(dataset)
    check_sequences(dataset, (rec, src))


@settings(max_examples=60, deadline=None)
@given(tables, st.integers(0, 6), st.integers(0, 6))
def test_windows_are_the_latest_earlier_events(dataset: Dataset, rec: int, src: int) -> None:
    user, time, task = (dataset.column(c) for c in ("user", "time", "task"))
    rows = np.arange(len(user))
    histories = Histories(dataset)
    windows, (n_rec, n_src) = histories.window(rows, rec, src), histories.counts(rows)
    for row in rows:
        earlier = [r for r in rows if user[r] == user[row] and time[r] < time[row]]
        parts = {t: [r for r in earlier if task[r] == t] for t in (Task.REC, Task.SRC)}
        assert (n_rec[row], n_src[row]) == (len(parts[Task.REC]), len(parts[Task.SRC]))
        kept = sorted(parts[Task.REC][len(parts[Task.REC]) - min(rec, n_rec[row]):]
                      + parts[Task.SRC][len(parts[Task.SRC]) - min(src, n_src[row]):])
        assert windows[row].tolist() == [-1] * (rec + src - len(kept)) + kept


@pytest.mark.parametrize("name", SOURCES)
def test_later_events_never_change_a_history(name: str, request: pytest.FixtureRequest) -> None:
    dataset = request.getfixturevalue(name)
    rows = dataset.rows(Split.VALIDATION, Task.REC)
    cutoff = np.full(dataset.n_users + 1, np.iinfo(np.int64).max)
    cutoff[dataset.column("user")[rows]] = dataset.column("time")[rows]
    kept = np.flatnonzero(dataset.column("time") <= cutoff[dataset.column("user")])
    shorter = dataclasses.replace(dataset, events=dataset.events.iloc[kept].reset_index(drop=True))
    before = Histories(dataset).window(rows)
    after = Histories(shorter).window(np.searchsorted(kept, rows))
    assert np.array_equal(before, np.where(after >= 0, kept[after], -1))


@pytest.mark.parametrize("name", SOURCES)
def test_clean_histories_count_no_leaks(name: str, request: pytest.FixtureRequest) -> None:
    counted = leaks(request.getfixturevalue(name), "clean")
    assert counted["targets"].sum() > 0
    assert counted["own_target"].sum() == 0 and counted["not_earlier"].sum() == 0


@pytest.mark.parametrize("name", ["world", "movies"])
def test_released_histories_leak_where_times_tie(name: str, request: pytest.FixtureRequest) -> None:
    counted = leaks(request.getfixturevalue(name), "released").set_index(["task", "split"])
    assert (counted["own_target"] <= counted["not_earlier"]).all()
    assert counted.loc[("rec", "train"), "own_target"] > 0 and counted.loc[("src", "train"), "own_target"] > 0
    assert counted.loc[("rec", "test"), "own_target"] > 0 and counted.loc[("src", "test"), "not_earlier"] > 0


def test_released_histories_of_distinct_times_do_not_leak(office: Dataset) -> None:
    assert leaks(office, "released")["own_target"].sum() == 0


def test_the_checks_find_a_planted_leak(world: Dataset) -> None:
    rows = world.rows(Split.TEST, Task.SRC)
    with pytest.raises(AssertionError):
        assert_strictly_earlier(world, rows, Histories(world, "released").window(rows))
    stored = draw_candidates(world, "uniform", 0)
    moved = Candidates(world, "uniform", 0, stored.rows, np.roll(stored.items, 1, axis=1), stored.positive)
    with pytest.raises(DataError, match="positive"):
        moved.validate()
