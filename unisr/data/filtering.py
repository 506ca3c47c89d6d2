"""Iterative k-core filtering, and what a filter left."""

from __future__ import annotations

import numpy as np
import pandas as pd
import polars as pl

from unisr.data.schema import Task


def k_core(events: pd.DataFrame, k: int) -> pd.DataFrame:
    """The largest subset of `events` in which every user and every item has at least `k` events.

    events: columns user, item (any values); order and other columns are kept, the index is renewed.
    """
    user, _ = pd.factorize(events["user"])
    item, _ = pd.factorize(events["item"])
    kept = np.arange(len(events))
    while True:
        enough = (np.bincount(user[kept])[user[kept]] >= k) & (np.bincount(item[kept])[item[kept]] >= k)
        if enough.all():
            return events.iloc[kept].reset_index(drop=True)
        kept = kept[enough]


def counted(events: pd.DataFrame | pl.DataFrame, **more: int) -> dict[str, int]:
    """#User, #Item, #Inter-S and #Inter-R of events with columns user, item and task; `Queries=7` adds #Queries."""
    user, item, task = (np.asarray(events[c]) for c in ("user", "item", "task"))
    counts = {"#User": len(pd.unique(user)), "#Item": len(pd.unique(item))}
    counts |= {f"#{name}": count for name, count in more.items()}
    return counts | {"#Inter-S": int((task == Task.SRC).sum()), "#Inter-R": int((task == Task.REC).sum())}


def dense(values: pd.Series) -> tuple[np.ndarray, np.ndarray]:
    """Ids 1, 2, … in ascending order of the values, `[n]`, and the distinct values in that order."""
    distinct, ids = np.unique(values.to_numpy(), return_inverse=True)
    return ids.astype(np.int64) + 1, distinct
