"""A small search and recommendation world whose truth is known, for tests and the quick preset.

Every user has a taste over topics, every item and query a topic. Recommendation events are drawn from
the user's taste and the item's appeal; search events from the taste, then a query of that topic, then an
item by how many of the query's words its title holds.
"""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path

import numpy as np
import pandas as pd

from unisr.data.schema import Dataset, Task
from unisr.data.sources import Source
from unisr.data.tables import assemble
from unisr.random import generator

TOPIC_WORDS = {
    "sea": "harbor tide sail anchor reef gull current lantern",
    "kitchen": "bread oven salt spoon garlic kettle pastry apron",
    "space": "orbit comet rocket lunar nebula probe crater signal",
    "garden": "rose soil fern trellis bloom compost hedge orchard",
    "music": "violin chorus rhythm drum opera guitar ballad tempo",
    "crime": "detective alibi vault witness motive cipher heist verdict",
    "snow": "glacier ski frost avalanche sled igloo blizzard summit",
    "robots": "android circuit servo sensor cyborg gear drone welder",
}
N_USERS, N_ITEMS, QUERIES_PER_TOPIC = 120, 150, 5
TWIN_SHARE = 0.4
"""Share of the search events that repeat a recommendation event's item at its time."""
TIE_SHARE = 0.2
"""Share of the recommendation events that happen at the time of the user's event before."""


@dataclass(frozen=True)
class Truth:
    """What the world is drawn from; U users, V items, Q queries, K topics, rows 0 are padding (zeros)."""

    taste: np.ndarray
    """[U + 1, K] probability of each topic for each user."""
    item_topics: np.ndarray
    """[V + 1, K] how much each item belongs to each topic; rows sum to 1."""
    query_topic: np.ndarray
    """[Q + 1] topic of each query."""
    recommendation: np.ndarray
    """[U + 1, V + 1] probability that a user's first recommendation event is on an item."""
    search: np.ndarray
    """[Q + 1, V + 1] probability that a search with a query ends on an item."""


def truth(seed: int = 0) -> Truth:
    """The matrices behind the world of `seed`."""
    return _world(seed)[0]


def build(folder: Path | None, seed: int) -> Dataset:
    """The world of `seed`; `folder` is not used."""
    world, titles, queries = _world(seed)
    rng = generator(seed, "synthetic", "events")
    recommended = _recommendation_events(world, rng)
    searched = _search_events(world, recommended, rng)
    topics = np.array(list(TOPIC_WORDS))
    items = pd.DataFrame({"key": [f"i{i}" for i in range(1, N_ITEMS + 1)], "title": titles})
    items["text"] = items["title"]
    items["category"] = topics[world.item_topics[1:].argmax(axis=1)]
    return assemble(
        "synthetic",
        users=[f"u{u}" for u in range(1, N_USERS + 1)],
        items=items,
        queries=pd.DataFrame({"text": queries, "origin": "constructed"}),
        events=pd.concat([recommended, searched], ignore_index=True),
    )


def _world(seed: int) -> tuple[Truth, list[str], list[str]]:
    rng = generator(seed, "synthetic", "world")
    words = np.array([w.split() for w in TOPIC_WORDS.values()])
    n_topics, n_words = words.shape
    taste = rng.dirichlet(np.full(n_topics, 0.15), N_USERS)
    main = np.arange(N_ITEMS) % n_topics
    item_topics = 0.1 * rng.dirichlet(np.ones(n_topics), N_ITEMS)
    item_topics[np.arange(N_ITEMS), main] += 0.9
    picked = rng.random((N_ITEMS, n_words)).argsort(axis=1)[:, :3]
    query_topic = np.repeat(np.arange(n_topics), QUERIES_PER_TOPIC)
    asked = np.concatenate([_word_pairs(n_words, rng) for _ in range(n_topics)])
    appeal = rng.lognormal(0.0, 0.6, N_ITEMS)
    given_topic = (item_topics * appeal[:, None]) / (item_topics * appeal[:, None]).sum(axis=0)
    overlap = (asked[:, :, None, None] == picked[None, None]).any(axis=3).sum(axis=1)
    clicks = np.exp(2.0 * overlap) * (query_topic[:, None] == main)
    world = Truth(
        taste=_padded_rows(taste),
        item_topics=_padded_rows(item_topics),
        query_topic=np.r_[0, query_topic],
        recommendation=np.pad(taste @ given_topic.T, ((1, 0), (1, 0))),
        search=np.pad(clicks / clicks.sum(axis=1, keepdims=True), ((1, 0), (1, 0))),
    )
    titles = [" ".join(words[t, p]) for t, p in zip(main, picked, strict=True)]
    queries = [" ".join(words[t, a]) for t, a in zip(query_topic, asked, strict=True)]
    return world, titles, queries


def _word_pairs(n_words: int, rng: np.random.Generator) -> np.ndarray:
    """`[QUERIES_PER_TOPIC, 2]` distinct pairs of word numbers."""
    first, second = np.triu_indices(n_words, k=1)
    chosen = rng.choice(len(first), QUERIES_PER_TOPIC, replace=False)
    return np.stack([first[chosen], second[chosen]], axis=1)


def _padded_rows(table: np.ndarray) -> np.ndarray:
    return np.pad(table, ((1, 0), (0, 0)))


def _recommendation_events(world: Truth, rng: np.random.Generator) -> pd.DataFrame:
    """10 to 22 events a user, items without repetition (Gumbel top-k), some at equal times."""
    lengths = rng.integers(10, 23, N_USERS)
    keys = np.log(world.recommendation[1:, 1:]) + rng.gumbel(size=(N_USERS, N_ITEMS))
    order = np.argsort(-keys, axis=1)[:, : lengths.max()] + 1
    steps = rng.integers(2, 100, order.shape) * (rng.random(order.shape) >= TIE_SHARE)
    time = 1_000_000 + np.cumsum(steps, axis=1)
    kept = np.arange(order.shape[1]) < lengths[:, None]
    user = np.broadcast_to(np.arange(1, N_USERS + 1)[:, None], order.shape)
    columns = {"user": user[kept], "item": order[kept], "task": int(Task.REC), "query": 0, "time": time[kept]}
    return pd.DataFrame(columns)


def _search_events(world: Truth, recommended: pd.DataFrame, rng: np.random.Generator) -> pd.DataFrame:
    """About half as many searches as recommendation events, at or just after the time of one of them."""
    chosen = recommended.iloc[np.flatnonzero(rng.random(len(recommended)) < 0.6)]
    n = len(chosen)
    twin = rng.random(n) < TWIN_SHARE
    topic = _draw(world.taste[chosen["user"]], rng)
    topic[twin] = world.item_topics[chosen["item"]].argmax(axis=1)[twin]
    query = 1 + topic * QUERIES_PER_TOPIC + rng.integers(0, QUERIES_PER_TOPIC, n)
    item = np.where(twin, chosen["item"], _draw(world.search[query], rng))
    time = chosen["time"].to_numpy() + ~twin
    return pd.DataFrame({"user": chosen["user"], "item": item, "task": int(Task.SRC), "query": query, "time": time})


def _draw(probabilities: np.ndarray, rng: np.random.Generator) -> np.ndarray:
    """One column number per row, drawn with the row's probabilities."""
    cumulative = probabilities.cumsum(axis=1)
    return (cumulative < rng.random((len(cumulative), 1)) * cumulative[:, -1:]).sum(axis=1)


SOURCE = Source(
    name="synthetic",
    title="Synthetic world",
    description="120 users, 150 items and 40 queries with planted tastes and topics; its truth is known",
    queries="constructed",
    licence="generated, no rights reserved",
    origin="unisr.data.sources.synthetic",
    build=build,
)
