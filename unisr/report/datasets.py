"""Tables about a dataset: counts beside the paper's, splits, ties, queries, leaks. Deterministic for given data."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
import pandas as pd

from unisr.data.histories import leaks
from unisr.data.prepare import describe
from unisr.data.schema import TASK_TITLES, TASKS, Dataset, Split, Task
from unisr.report.tables import paper_numbers

NAMES = {int(task): TASK_TITLES[name] for name, task in TASKS.items()}


def table1(dataset: Dataset) -> pd.DataFrame:
    """Counts of the dataset beside those of the paper's Table 1: a row per count, a column per dataset."""
    paper = paper_numbers(1).pivot(index="metric", columns="dataset", values="value").astype(int)
    ours = pd.Series(describe(dataset), name=dataset.name)
    return ours.to_frame().join(paper.add_suffix(" (paper)")).rename_axis("count")


def splits(dataset: Dataset) -> pd.DataFrame:
    """Targets per task and split; UNUSED events tie with a target and are seen in later histories only."""
    counts = pd.crosstab(dataset.column("task"), dataset.column("split"), rownames=["task"])
    counts = counts.reindex(index=list(NAMES), columns=list(Split), fill_value=0)
    return counts.rename(index=NAMES).set_axis([split.name.lower() for split in Split], axis=1)


def events_per_user(dataset: Dataset) -> pd.DataFrame:
    """Columns task, user, events: one row per user and task with an event."""
    frame = pd.DataFrame({"task": [NAMES[t] for t in dataset.column("task")], "user": dataset.column("user")})
    return frame.groupby(["task", "user"]).size().rename("events").reset_index()


def popularity(dataset: Dataset) -> np.ndarray:
    """[V + 1] recommendation events per item, padding first."""
    chosen = dataset.column("task") == Task.REC
    return np.bincount(dataset.column("item")[chosen], minlength=dataset.n_items + 1)


def ties(dataset: Dataset) -> pd.DataFrame:
    """How many events share their time stamp with another event of the same user and task, per task.

    Columns: events, tied, share; `largest` is the most events of one user at one time.
    """
    frame = dataset.events.groupby(["task", "user", "time"]).size().rename("group").reset_index()
    found = {}
    for task, rows in frame.groupby("task"):
        tied = rows.loc[rows["group"] > 1, "group"].sum()
        total, largest = rows["group"].sum(), rows["group"].max()
        found[NAMES[int(task)]] = {"events": total, "tied": tied, "share": tied / total, "largest": largest}
    counts = ["events", "tied", "largest"]
    return pd.DataFrame(found).T.astype({name: int for name in counts}).rename_axis("task")


def queries(dataset: Dataset) -> pd.DataFrame:
    """Columns query, origin, events, items: how often a query is asked and how many items it led to; most asked first.

    The items are those of all events, so this describes the data; no model sees it.
    """
    asked = dataset.events[dataset.column("task") == Task.SRC].groupby("query")["item"].agg(["size", "nunique"])
    texts = dataset.queries.set_index("query").loc[asked.index, ["text", "origin"]]
    frame = texts.assign(events=asked["size"], items=asked["nunique"]).rename(columns={"text": "query"})
    frame.index.name = None
    return frame.sort_values(["events", "query"], ascending=[False, True], ignore_index=True)


def ambiguity(dataset: Dataset, sizes: Sequence[int] = (1, 2, 5, 10, 20)) -> pd.Series:
    """Share of search events whose query led to at most so many different items."""
    found = queries(dataset)
    shares = {n: found.loc[found["items"] <= n, "events"].sum() / found["events"].sum() for n in sizes}
    return pd.Series(shares, name="share of search events").rename_axis("items of the query, at most")


def leak_table(dataset: Dataset, *, window: int = 30) -> pd.DataFrame:
    """Targets whose history holds the target itself or its twin, or anything not earlier, by rule of history.

    Columns rule, task, split, targets, own_target, not_earlier and the two shares, as `unisr.data.histories.leaks` has
    them; windows hold the latest `window` events of each task.
    """
    parts = [leaks(dataset, rule, rec=window, src=window).assign(rule=rule) for rule in ("clean", "released")]
    frame = pd.concat(parts, ignore_index=True).replace({"task": TASK_TITLES})
    return frame[["rule", *frame.columns.drop("rule")]]


def timeline(dataset: Dataset, user: int) -> pd.DataFrame:
    """The user's events in order: time [s] (since the first one), task, split, title, query.

    The twin events of the constructed queries show as pairs of equal time.
    """
    rows = dataset.events[dataset.column("user") == user]
    return pd.DataFrame({
        "time [s]": rows["time"] - rows["time"].iloc[0],
        "task": rows["task"].map(NAMES),
        "split": [Split(s).name.lower() for s in rows["split"]],
        "title": dataset.items["title"].to_numpy()[rows["item"]],
        "query": dataset.queries["text"].to_numpy()[rows["query"]],
    }).reset_index(drop=True)
