"""Splits: strict leave-one-out, per user and task, and by day."""

from __future__ import annotations

import numpy as np

from unisr.data.schema import Split, Task


def strict_leave_one_out(user: np.ndarray, time: np.ndarray, task: np.ndarray) -> np.ndarray:
    """The `Split` of every event, `[E]` int64; events are sorted by user, time (see `schema`).

    Per user and task: TEST is the last event; VALIDATION the last event strictly earlier than TEST;
    TRAIN every event strictly earlier than VALIDATION. The rest (ties with a target) is UNUSED: it is
    seen in later histories and is a target of nothing. Users with fewer than three distinct times in
    a task have only TRAIN events there, so that every evaluated user has something to learn from.

    Departure from the papers' leave-one-out (last and second last row, whatever their times): theirs
    trains on events that happened at the very time of an evaluation target.
    """
    split = np.full(len(user), Split.UNUSED, dtype=np.int64)
    for kind in (Task.REC, Task.SRC):
        rows = np.flatnonzero(task == kind)
        if len(rows):
            split[rows] = _split_one_task(user[rows], time[rows])
    return split


def _split_one_task(user: np.ndarray, time: np.ndarray) -> np.ndarray:
    place = np.arange(len(user))
    new_user = np.r_[True, user[1:] != user[:-1]]
    new_time = new_user | np.r_[True, time[1:] != time[:-1]]
    start = np.maximum.accumulate(np.where(new_user, place, 0))
    group = np.cumsum(new_time) - 1
    group_start = np.flatnonzero(new_time)
    end = np.r_[np.flatnonzero(new_user)[1:], len(user)][np.cumsum(new_user) - 1]
    test = end - 1
    validation = group_start[group[test]] - 1
    train_end = group_start[group[np.maximum(validation, 0)]]
    enough = (validation >= start) & (train_end > start)
    split = np.full(len(user), Split.UNUSED, dtype=np.int64)
    split[~enough | (place < train_end)] = Split.TRAIN
    split[enough & (place == validation)] = Split.VALIDATION
    split[enough & (place == test)] = Split.TEST
    return split


def last_days(user: np.ndarray, time: np.ndarray, task: np.ndarray, *, hours: int) -> np.ndarray:
    """The `Split` of every event by its day, `[E]` int64: the last day is TEST, the day before it VALIDATION.

    time: seconds. hours: by how much the clock that the days are read from is before Unix time's.
    """
    day = (time + 3600 * hours) // 86_400
    age = day.max(initial=0) - day
    return np.select([age == 0, age == 1], [int(Split.TEST), int(Split.VALIDATION)], int(Split.TRAIN))
