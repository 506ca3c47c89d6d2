"""The four tables every source is brought into: users, items, queries, events.

Ids are dense integers from 1; 0 is padding (no item, no query, unknown user). Events are sorted by
(user, time, task, position in the source), so a user's events are one contiguous block and the row
number of an event in this table is its identity everywhere in the package.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from enum import IntEnum

import numpy as np
import pandas as pd

from unisr.errors import DataError


class Task(IntEnum):
    """What the user was doing: 0 is padding, 1 a recommendation, 2 a search."""

    PAD = 0
    REC = 1
    SRC = 2


class Split(IntEnum):
    """Which part of the protocol an event is a target of; UNUSED events are in histories only."""

    TRAIN = 0
    VALIDATION = 1
    TEST = 2
    UNUSED = 3


TASKS: dict[str, Task] = {"rec": Task.REC, "src": Task.SRC}
"""Tasks by the short names used in cards, tables and files."""

TASK_TITLES = {"rec": "recommendation", "src": "search"}

COLUMNS = {
    "users": {"user": "int64", "key": "str"},
    "items": {"item": "int64", "key": "str", "title": "str", "text": "str", "category": "str"},
    "queries": {"query": "int64", "text": "str", "origin": "str"},
    "events": {"user": "int64", "item": "int64", "task": "int64", "query": "int64", "time": "int64", "split": "int64"},
}
"""Columns and kinds. `text` is what lexical and language models read; `category` groups items for hard
negatives; `origin` says whether a query is 'constructed' or 'real'; `time` is in seconds, or the rank of the
event in the user's sequence where the source has no clock."""


@dataclass(frozen=True)
class Dataset:
    """Four validated tables. `items` and `queries` have their padding row 0 with empty text; `users` too."""

    name: str
    users: pd.DataFrame
    items: pd.DataFrame
    queries: pd.DataFrame
    events: pd.DataFrame
    filters: tuple[tuple[str, Mapping[str, int]], ...] = ()
    """What each filter of the source's builder left, in their order: its name, and counts as `describe` names them."""

    @property
    def n_users(self) -> int:
        """Users without the padding row."""
        return len(self.users) - 1

    @property
    def n_items(self) -> int:
        """Items without the padding row."""
        return len(self.items) - 1

    @property
    def n_queries(self) -> int:
        """Queries without the padding row."""
        return len(self.queries) - 1

    def column(self, name: str) -> np.ndarray:
        """One column of the events table, `[E]` int64."""
        return self.events[name].to_numpy()

    def rows(self, split: Split, task: Task) -> np.ndarray:
        """Row numbers of the events that are targets of `split` for `task`, `[n]` ascending."""
        return np.flatnonzero((self.column("split") == split) & (self.column("task") == task))

    def validate(self) -> Dataset:
        """Check every rule of the schema and return self.

        Raises:
            DataError: names the table, the column or row, the value and the rule.
        """
        for table, columns in COLUMNS.items():
            frame = getattr(self, table)
            if missing := [c for c in columns if c not in frame]:
                raise DataError(f"{self.name}: table {table} lacks column(s) {', '.join(missing)}")
            if table != "events":
                key = next(iter(columns))
                if not np.array_equal(frame[key].to_numpy(), np.arange(len(frame))):
                    raise DataError(
                        f"{self.name}: table {table}: {key} must be 0, 1, 2, … in row order, 0 being padding"
                    )
        self._validate_events()
        return self

    def _validate_events(self) -> None:
        limits = {
            "user": (1, self.n_users),
            "item": (1, self.n_items),
            "query": (0, self.n_queries),
            "task": (Task.REC, Task.SRC),
            "time": (0, None),
            "split": (0, max(Split)),
        }
        for name, (low, high) in limits.items():
            values = self.column(name)
            wrong = np.flatnonzero((values < low) | (values > high if high is not None else False))
            if len(wrong):
                row = int(wrong[0])
                raise DataError(f"{self.name}: events row {row}: {name} = {values[row]} is outside {low}…{high or ''}")
        searched = self.column("task") == Task.SRC
        if np.any(wrong := searched != (self.column("query") > 0)):
            row = int(np.argmax(wrong))
            raise DataError(
                f"{self.name}: events row {row}: search events have a query, recommendation events have none"
            )
        falls = np.zeros(max(len(self.events) - 1, 0), dtype=bool)
        for name in ("task", "time", "user"):
            values = self.column(name)
            falls = (values[1:] < values[:-1]) | ((values[1:] == values[:-1]) & falls)
        if falls.any():
            raise DataError(f"{self.name}: events are not sorted by user, time, task")
