"""Histories: which earlier events a model may see for each target."""

from __future__ import annotations

import numpy as np
import pandas as pd

from unisr.config import HistoryRule
from unisr.data.schema import TASKS, Dataset, Split, Task
from unisr.errors import ConfigError
from unisr.random import generator


class Histories:
    """The history of every event row, as two prefix lengths into its user's events of each task.

    rule="clean": all events of the user with time strictly less than the target's, of both tasks. So
    neither the target, nor its twin of the other task, nor anything later can be visible.

    rule="released" reproduces what the notebooks released with GenSAR (same author as UniSAR) do among
    equal time stamps:

    * the user's list of recommendation events is in the order (user, time, score), the table of targets in
      the order (user, time), and counts go from one to the other by row position. So the k-th row of the
      table gets the first k entries of the list, which may hold the row itself and its later neighbors.
      Here the score is a keyed random number: the list is shuffled inside every (user, time) group.
      The search count of a recommendation target is that of its stamp: strictly earlier searches.
    * a search target is ordered after the recommendation events of its stamp, so all of them count; one is
      taken off if the last of the list up to there is the clicked item, and only then. The user's
      search events of the same stamp that stand before it in the event table count too.

    Not reproduced: the filter of events with an empty history, the sampling of one query per (user, item),
    and the authors' split, whose targets may tie with training events. `seed` keys the shuffle.
    """

    def __init__(self, dataset: Dataset, rule: HistoryRule = "clean", *, seed: int = 0) -> None:
        if rule not in ("clean", "released"):
            raise ConfigError(f"histories: rule {rule!r} is unknown; allowed: clean, released")
        self.dataset, self.rule = dataset, rule
        user, time, task = (dataset.column(c) for c in ("user", "time", "task"))
        place = np.arange(len(user))
        new_user = np.r_[True, user[1:] != user[:-1]][: len(user)]
        new_time = new_user | np.r_[True, time[1:] != time[:-1]][: len(user)]
        self.first_of_user = np.maximum.accumulate(np.where(new_user, place, 0))
        """`[E]` first row of the row's user."""
        self.first_of_time = np.maximum.accumulate(np.where(new_time, place, 0))
        """`[E]` first row with the row's user and time: the rows before it are strictly earlier."""
        self._rows = {t: np.flatnonzero(task == t) for t in (Task.REC, Task.SRC)}
        before = {t: np.r_[0, np.cumsum(task == t)] for t in self._rows}
        self._base = {t: before[t][self.first_of_user] for t in self._rows}
        self._end = {t: before[t][self.first_of_time] for t in self._rows}
        if rule == "released":
            self._release(before, seed=seed)
        self._padded = {t: np.append(listed, -1) for t, listed in self._rows.items()}

    def _release(self, before: dict[Task, np.ndarray], *, seed: int) -> None:
        """Put the list of recommendation events and the ends of the prefixes in the released state."""
        item, recommended, searched = self.dataset.column("item"), self._rows[Task.REC], self._rows[Task.SRC]
        score = generator(seed, "released scores", self.dataset.name).random(len(recommended))
        listed = recommended[np.lexsort((score, self.first_of_time[recommended]))]
        through = before[Task.REC][searched]
        last = np.append(listed, -1)[through - 1]
        own = (through > self._base[Task.REC][searched]) & (item[last] == item[searched])
        self._rows[Task.REC] = listed
        self._end[Task.REC][recommended] = np.arange(len(recommended))
        self._end[Task.REC][searched] = through - own
        self._end[Task.SRC][searched] = before[Task.SRC][searched]

    def counts(self, rows: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
        """Visible recommendation and search events of each row, `[n]` and `[n]`."""
        rec, src = ((self._end[t] - self._base[t])[rows] for t in self._rows)
        return rec, src

    def window(self, rows: np.ndarray, rec: int = 30, src: int = 30) -> np.ndarray:
        """`[n, rec + src]` event rows: the latest `rec` and `src` visible events of each row, merged.

        Left-padded with -1, in the order of the event table, which is chronological.
        """
        parts = [self._latest(t, rows, length) for t, length in zip(self._rows, (rec, src), strict=True)]
        if not rec or not src:
            return np.concatenate(parts, axis=1)
        return np.sort(np.concatenate(parts, axis=1), axis=1)

    def _latest(self, task: Task, rows: np.ndarray, length: int) -> np.ndarray:
        place = self._end[task][rows, None] + np.arange(-length, 0)
        # Clipped places are before the user's first event, so the mask covers them.
        return np.where(place >= self._base[task][rows, None], self._padded[task].take(place, mode="clip"), -1)


def leaks(
    dataset: Dataset, rule: HistoryRule = "released", *, rec: int = 30, src: int = 30, seed: int = 0
) -> pd.DataFrame:
    """How many targets see what they must not, per task and split, in windows of `rec` and `src` events.

    Columns: task, split, targets; `own_target`: targets whose history holds the target event or its twin
    (same user, item and time, of either task); `not_earlier`: targets whose history holds any event at or
    after the target's time; `own_share`, `late_share`: the same divided by targets.
    """
    histories = Histories(dataset, rule, seed=seed)
    item, time = (np.append(dataset.column(c), -1) for c in ("item", "time"))
    found = []
    for name, task in TASKS.items():
        for split in (Split.TRAIN, Split.VALIDATION, Split.TEST):
            rows = dataset.rows(split, task)
            window = histories.window(rows, rec, src)
            late = time[window] >= time[rows, None]
            own = (item[window] == item[rows, None]) & (time[window] == time[rows, None])
            counts = (len(rows), int(own.any(axis=1).sum()), int(late.any(axis=1).sum()))
            found.append((name, split.name.lower(), *counts))
    frame = pd.DataFrame(found, columns=["task", "split", "targets", "own_target", "not_earlier"])
    targets = frame["targets"].clip(lower=1)
    return frame.assign(own_share=frame["own_target"] / targets, late_share=frame["not_earlier"] / targets)
