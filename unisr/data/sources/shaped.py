"""Worlds of any size for measurements and dry runs: counts, text lengths and tied times are true, tastes are random."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pandas as pd

from unisr.data.queries import amazon_rule
from unisr.data.schema import Dataset
from unisr.data.sources import Source
from unisr.data.tables import assemble
from unisr.random import generator

LEAST_EVENTS, DAY = 6, 86_400
SYLLABLES = "ba ce di fo gu ha ki lo mi nu pe ra si to vu we xa yo zi qua".split()
WORDS = [a + b + c for a in SYLLABLES for b in SYLLABLES for c in SYLLABLES]


def shaped(
    name: str, *, users: int, items: int, queries: int, purchases: float, searched: float = 1.0, seed: int = 0
) -> Dataset:
    """A dataset by Amazon's rule: every purchase is also a search, with the query of its item, at the same time.

    purchases: mean recommendation events of a user, 6 or more each. searched: share of the items that have a query;
    the purchases of others are no searches. Items are skewed, as are words; titles have 3 to 8, queries 3.
    """
    rng = generator(seed, "shaped", name, users, items)
    user = np.repeat(np.arange(1, users + 1), LEAST_EVENTS + rng.poisson(purchases - LEAST_EVENTS, users))
    item = 1 + (items * rng.random(len(user)) ** 2).astype(np.int64)
    time = np.cumsum(rng.integers(0, 4, len(user)) * DAY)
    categories = np.array([*_texts(rng, np.full(queries, 3)), ""])
    drawn = np.where(rng.random(items) < searched, rng.integers(0, queries, items), queries)
    category, titles = categories[drawn], _texts(rng, rng.integers(3, 9, items))
    asked, events = amazon_rule(pd.DataFrame({"user": user, "item": item, "time": time}), category.tolist())
    table = pd.DataFrame({"key": [f"i{i}" for i in range(1, items + 1)], "title": titles, "category": category})
    table["text"] = table["title"] + " " + table["category"]
    return assemble(name, users=[f"u{u}" for u in range(1, users + 1)], items=table, queries=asked, events=events)


def _texts(rng: np.random.Generator, lengths: np.ndarray) -> list[str]:
    """A text of so many words each."""
    words = np.array(WORDS)[(len(WORDS) * rng.random(lengths.sum()) ** 3).astype(np.int64)]
    return [" ".join(part) for part in np.split(words, np.cumsum(lengths)[:-1])]


def build(folder: Path | None, seed: int) -> Dataset:
    """The counts of Amazon Kindle, where 94 in 100 purchases are searches too; `folder` is not used."""
    counts = dict(users=68_223, items=61_934, queries=4_298)
    return shaped("kindle-shape", **counts, purchases=14.506, searched=0.944, seed=seed)


SOURCE = Source(
    name="kindle-shape",
    title="Shape of Amazon Kindle",
    description="generated: about as many users, items, queries and events as Amazon Kindle, for dry runs",
    queries="constructed",
    licence="generated, no rights reserved",
    origin="unisr.data.sources.shaped",
    build=build,
)
