"""From a source's rows to a validated `Dataset`: padding rows, order, split."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence

import numpy as np
import pandas as pd
import polars as pl

from unisr.data.schema import COLUMNS, Dataset, Task
from unisr.data.splits import strict_leave_one_out


def assemble(
    name: str,
    *,
    users: list[str],
    items: pd.DataFrame,
    queries: pd.DataFrame,
    events: pd.DataFrame,
    split: Callable[[np.ndarray, np.ndarray, np.ndarray], np.ndarray] = strict_leave_one_out,
    filters: Sequence[tuple[str, Mapping[str, int]]] = (),
) -> Dataset:
    """A dataset from tables without padding whose ids are 1, 2, … in row order.

    users: keys of the source. items: key, title, text, category. queries: text, origin.
    events: user, item, task, query, time in the source's order (kept among equal times).
    split: gives the `Split` of each event from user, time and task, `[E]` each.
    filters: what each filter left, in their order (see `Dataset.filters`, `filtering.counted`).

    Raises:
        DataError: a table breaks the schema.
    """
    columns = {c: events[c].to_numpy(dtype=np.int64) for c in ("user", "item", "task", "query", "time")}
    # A stable sort; pandas' own would number the distinct values of each column first.
    order = np.lexsort((columns["task"], columns["time"], columns["user"]))
    columns = {c: values[order] for c, values in columns.items()}
    columns["split"] = split(columns["user"], columns["time"], columns["task"])
    return Dataset(
        name=name,
        users=_padded("users", pd.DataFrame({"key": users})),
        items=_padded("items", items),
        queries=_padded("queries", queries),
        events=pd.DataFrame(columns),
        filters=tuple(filters),
    ).validate()


def numbered(
    events: pl.DataFrame, items: pl.Series | None = None
) -> tuple[pl.Series, pl.Series, pl.Series, pd.DataFrame]:
    """Keys of users and items and texts of queries, each ascending, and the events with their places in them, from 1.

    events: user, item, task, words (the query's; not read of recommendations) and time. items: all, where some have no
    event, ascending.
    """
    items = events["item"].unique().sort() if items is None else items
    users, texts = (events[c].unique().sort() for c in ("user", "words"))
    texts = texts.filter(texts != "")
    table = pd.DataFrame({
        "user": users.search_sorted(events["user"]).to_numpy().astype(np.int64) + 1,
        "item": items.search_sorted(events["item"]).to_numpy().astype(np.int64) + 1,
        "task": events["task"].to_numpy(),
        "query": np.where(events["task"] == Task.SRC, texts.search_sorted(events["words"]).to_numpy() + 1, 0),
        "time": events["time"].to_numpy(),
    })
    return users, items, texts, table


def _padded(table: str, frame: pd.DataFrame) -> pd.DataFrame:
    key, *texts = COLUMNS[table]
    columns: dict[str, object] = {key: np.arange(len(frame) + 1, dtype=np.int64)}
    first = pd.Series([""], dtype="str")
    columns |= {c: pd.concat([first, frame[c].astype("str")], ignore_index=True) for c in texts}
    return pd.DataFrame(columns)
