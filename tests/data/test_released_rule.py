"""rule="released" reproduces the printed case of the released notebooks."""

from __future__ import annotations

import numpy as np
import pandas as pd

from unisr.data.histories import Histories
from unisr.data.schema import Dataset, Task
from unisr.data.tables import assemble


def tied(n: int) -> Dataset:
    """One user who buys items 1 … n at one time stamp, with a search for each, then one of each a day later."""
    items = [str(i) for i in range(1, n + 2)]
    rows = [(1, i, task, int(task == Task.SRC), 100) for task in (Task.REC, Task.SRC) for i in range(1, n + 1)]
    rows += [(1, n + 1, task, int(task == Task.SRC), 200) for task in (Task.REC, Task.SRC)]
    return assemble(
        "tied",
        users=["u"],
        items=pd.DataFrame({"key": items, "title": items, "text": items, "category": ""}),
        queries=pd.DataFrame({"text": ["q"], "origin": ["constructed"]}),
        events=pd.DataFrame(rows, columns=["user", "item", "task", "query", "time"]),
    )


def test_searches_see_all_purchases_of_their_stamp_but_the_last_one() -> None:
    dataset = tied(5)
    item = dataset.column("item")
    histories = Histories(dataset, "released")
    rows = np.flatnonzero((dataset.column("task") == Task.SRC) & (dataset.column("time") == 100))
    n_rec, n_src = histories.counts(rows)
    assert sorted(n_rec.tolist()) == [4, 5, 5, 5, 5]
    assert n_src.tolist() == [0, 1, 2, 3, 4], "the user's earlier searches of the stamp count"
    for row, count in zip(rows, n_rec, strict=True):
        window = histories.window(np.array([row]), 30, 0)[0]
        assert (item[row] in item[window[window >= 0]]) == (count == 5)


def test_recommendation_counts_go_by_position_to_a_shuffled_list() -> None:
    dataset = tied(40)
    histories = Histories(dataset, "released")
    rows = np.flatnonzero((dataset.column("task") == Task.REC) & (dataset.column("time") == 100))
    n_rec, n_src = histories.counts(rows)
    assert n_rec.tolist() == list(range(40)) and n_src.tolist() == [0] * 40
    windows = histories.window(rows, 50, 0)
    own = (windows == rows[:, None]).any(axis=1)
    assert 0.25 < own.mean() < 0.75, "a row is in its own prefix about every second time"
    again = Histories(dataset, "released").window(rows, 50, 0)
    other = Histories(dataset, "released", seed=1).window(rows, 50, 0)
    assert np.array_equal(windows, again) and not np.array_equal(windows, other)


def test_events_without_ties_have_the_clean_history() -> None:
    dataset = tied(5)
    row = np.flatnonzero((dataset.column("task") == Task.REC) & (dataset.column("time") == 200))
    assert Histories(dataset, "released").window(row).tolist() == Histories(dataset).window(row).tolist()
