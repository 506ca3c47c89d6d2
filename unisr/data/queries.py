"""Constructed queries: the rule by which datasets without searches get them."""

from __future__ import annotations

import numpy as np
import pandas as pd

from unisr.data.schema import Task


def amazon_rule(events: pd.DataFrame, query_text: list[str]) -> tuple[pd.DataFrame, pd.DataFrame]:
    """Queries and events by the rule of Van Gysel et al. (2016) and Ai et al. (2017).

    Every recommendation event (user, item, time) also gives one search event: the user searched with the
    query of the item, at the same time, and clicked the item. Items of equal query text share the query;
    items whose text is empty give no search event.

    events: user, item (1, 2, …), time of recommendation events in source order. query_text: `[V]`, the
    query of item i at i - 1. Returns the queries (text, origin = 'constructed') and the events of both
    tasks (user, item, task, query, time), each task in source order.

    Departure: one query per item, where Ai et al. take one for each category path of the item.
    """
    distinct = sorted({text for text in query_text if text})
    number = {text: i for i, text in enumerate(distinct, start=1)} | {"": 0}
    of_item = np.array([0, *(number[text] for text in query_text)])
    recommended = events[["user", "item", "time"]].assign(task=int(Task.REC), query=0)
    searched = recommended.assign(task=int(Task.SRC), query=of_item[events["item"].to_numpy()])
    searched = searched[searched["query"] > 0]
    queries = pd.DataFrame({"text": distinct, "origin": "constructed"})
    return queries, pd.concat([recommended, searched], ignore_index=True)


def distinct_words(words: list[str]) -> list[str]:
    """The words without repetitions, in order of first appearance."""
    return list(dict.fromkeys(words))
