"""Speed of the history and candidate build, in events per processor second (one core).

The build of an event is what a data pipeline stores for it: its merged window of the latest 30 + 30
events, and its sampled negatives (4 for a training target, 99 distinct ones for an evaluation target).
Run it with `python -m unisr.benchmarks.data`.
"""

from __future__ import annotations

import argparse
import json
import time
from dataclasses import asdict, dataclass

import numpy as np
import pandas as pd

from unisr.data.candidates import EVALUATED, N_NEGATIVES
from unisr.data.histories import Histories
from unisr.data.negatives import Sampler
from unisr.data.prepare import load_dataset
from unisr.data.schema import Dataset, Split
from unisr.data.sources.shaped import shaped
from unisr.errors import DataError
from unisr.random import generator

OFFICIAL = 10_400
"""Events per second given for the official per-row pipeline; a figure to compare with, not measured here."""
TARGET = 200_000
CHUNK = 4096
"""Rows built at a time: their windows stay in the processor's cache."""
TRAIN_NEGATIVES = 4


@dataclass(frozen=True)
class BuildSpeed:
    """One measured build; seconds are processor time, so that other processes do not count."""

    dataset: str
    events: int
    index_seconds: float
    window_seconds: float
    negative_seconds: float

    @property
    def events_per_second(self) -> float:
        """Events with their window and negatives, index included."""
        return self.events / (self.index_seconds + self.window_seconds + self.negative_seconds)


def generated(n_events: int, *, seed: int = 0) -> Dataset:
    """A dataset of about `n_events` events of both tasks, 36 per user on average, skewed items, tied times."""
    users, items = max(2, n_events // 36), max(1000, n_events // 40)
    return shaped("generated", users=users, items=items, queries=1000, purchases=18.0, seed=seed)


def measure(dataset: Dataset, *, seed: int = 0) -> BuildSpeed:
    """Build every event's window and negatives once."""
    rng = generator(seed, "benchmark build", dataset.name)
    begin = time.process_time()
    histories = Histories(dataset)
    train, every = (Sampler.of(dataset, train_only=t) for t in (True, False))
    index = time.process_time() - begin

    rows = np.arange(len(dataset.events))
    begin = time.process_time()
    for start in range(0, len(rows), CHUNK):
        histories.window(rows[start : start + CHUNK], 30, 30)
    window = time.process_time() - begin

    user, split = dataset.column("user"), dataset.column("split")
    learned, targets = np.flatnonzero(split == Split.TRAIN), [dataset.rows(s, t) for s, t in EVALUATED]
    begin = time.process_time()
    for sampler, rows, k, distinct in [(train, learned, TRAIN_NEGATIVES, False)] + [
        (every, rows, N_NEGATIVES, True) for rows in targets
    ]:
        for start in range(0, len(rows), CHUNK):
            sampler.sample(rng, user[rows[start : start + CHUNK]], k, distinct=distinct)
    negative = time.process_time() - begin
    n = len(dataset.events)
    return BuildSpeed(dataset.name, n, index, window, negative)


def benchmark_data(n_events: int = 2_000_000, *, seed: int = 0) -> dict[str, BuildSpeed]:
    """Measure ml-100k (left out where it cannot be had) and a generated table, by name."""
    measured = {}
    try:
        measured["ml-100k"] = measure(load_dataset("ml-100k"), seed=seed)
    except DataError as reason:
        print(f"ml-100k left out: {reason}")
    measured["generated"] = measure(generated(n_events, seed=seed), seed=seed)
    return measured


def table(measured: dict[str, BuildSpeed]) -> pd.DataFrame:
    """One row per dataset: seconds per part, events per second, and how often the official pipeline's."""
    frame = pd.DataFrame([asdict(m) | {"events_per_second": m.events_per_second} for m in measured.values()])
    return frame.assign(times_official=frame["events_per_second"] / OFFICIAL)


def main() -> None:
    """Print the table; `--json` prints one object per dataset instead."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--events", type=int, default=2_000_000, help="events of the generated table")
    parser.add_argument("--json", action="store_true")
    given = parser.parse_args()
    frame = table(benchmark_data(given.events))
    if given.json:
        print(json.dumps(frame.to_dict("records")))
        return
    print("History (30 + 30, merged) and negatives of every event, one core")
    print(frame.to_string(index=False, float_format=lambda v: f"{v:,.2f}" if v < 100 else f"{v:,.0f}"))
    print(f"official pipeline (reported, not measured here): {OFFICIAL:,} events/s; target: {TARGET:,} events/s")


if __name__ == "__main__":
    main()
