"""Sampled negatives: items a user has no event with, uniform, by popularity or hard."""

from __future__ import annotations

import numpy as np
import pandas as pd

from unisr.data.corpus import words_of
from unisr.data.schema import Dataset, Split, Task
from unisr.errors import DataError

DENSE_CELLS = 2**24
"""Cells of the [rows, V] tables that hard negatives are chosen from, at a time."""


class Sampler:
    """Draws items outside the (user, item) pairs it is given, whole arrays at a time.

    pairs are kept as one sorted int64 key array, user * (V + 1) + item; membership is a binary search.
    weights: `[V + 1]` relative frequencies of the items, uniform if None; row 0 is ignored.
    """

    def __init__(self, n_users: int, n_items: int, user: np.ndarray, item: np.ndarray, *,
                 weights: np.ndarray | None = None) -> None:
        self.n_items = n_items
        keys = np.sort(user * (n_items + 1) + item)
        self._keys = keys[np.r_[True, keys[1:] != keys[:-1]][: len(keys)]]
        self._unseen = n_items - np.bincount(self._keys // (n_items + 1), minlength=n_users + 1)
        self._cumulative = None if weights is None else np.cumsum(weights[1:]) / weights[1:].sum()

    @classmethod
    def of(cls, dataset: Dataset, *, train_only: bool, weights: np.ndarray | None = None) -> Sampler:
        """A sampler outside the users' items in training (both tasks), or in every split."""
        kept = dataset.column("split") == Split.TRAIN if train_only else slice(None)
        user, item = dataset.column("user")[kept], dataset.column("item")[kept]
        return cls(dataset.n_users, dataset.n_items, user, item, weights=weights)

    def seen(self, users: np.ndarray, items: np.ndarray) -> np.ndarray:
        """Whether each (user, item) is one of the pairs; shapes broadcast."""
        keys = users * (self.n_items + 1) + items
        if not len(self._keys):
            return np.zeros(keys.shape, dtype=bool)
        place = np.searchsorted(self._keys, keys)
        return self._keys[np.minimum(place, len(self._keys) - 1)] == keys

    def sample(self, generator: np.random.Generator, users: np.ndarray, k: int, *, distinct: bool) -> np.ndarray:
        """`[n, k]` unseen items of each of `users [n]`; no item twice in a row if `distinct`.

        Raises:
            DataError: a user has fewer unseen items than that takes.
        """
        self.check(users, k if distinct else 1)
        items = self._draw(generator, len(users) * k).reshape(len(users), k)
        rows = np.arange(len(users))
        while len(rows):
            row, column = self._rejected(users[rows], items[rows], distinct=distinct)
            items[rows[row], column] = self._draw(generator, len(row))
            rows = rows[np.unique(row)]
        return items

    def _rejected(self, users: np.ndarray, items: np.ndarray, *, distinct: bool) -> tuple[np.ndarray, np.ndarray]:
        """Cells (row, column) of `items [n, k]` that are seen or, if `distinct`, repeat a cell to their left."""
        bits = items.shape[1].bit_length()
        packed = (items << bits) | np.arange(items.shape[1])
        if distinct:
            # Ascending items also make the binary searches of `seen` walk forward, which is faster.
            packed.sort(axis=1)
        ordered = packed >> bits
        wrong = self.seen(users[:, None], ordered)
        if distinct:
            wrong[:, 1:] |= ordered[:, 1:] == ordered[:, :-1]
        row, place = np.nonzero(wrong)
        return row, packed[row, place] & ((1 << bits) - 1)

    def check(self, users: np.ndarray, needed: int) -> None:
        """Raise DataError if one of `users` has fewer than `needed` unseen items."""
        short = self._unseen[users] < needed
        if short.any():
            user = int(users[np.argmax(short)])
            raise DataError(
                f"user {user} has {self._unseen[user]} unseen items of {self.n_items}, {needed} negatives are needed; "
                "use a dataset with more items, ask for fewer negatives, or leave such users out"
            )

    def _draw(self, generator: np.random.Generator, n: int) -> np.ndarray:
        if self._cumulative is None:
            return generator.integers(1, self.n_items + 1, n)
        return 1 + np.searchsorted(self._cumulative[:-1], generator.random(n), side="right")


def hard_negatives(
    dataset: Dataset, rows: np.ndarray, k: int, sampler: Sampler, generator: np.random.Generator
) -> np.ndarray:
    """`[n, k]` unseen items that are close to each target of one task, in random order.

    Recommendation: items of the positive's category, drawn at random. Search: the best BM25 matches of the
    query among the item texts, ties at random, then the positive's category. Both are filled up with
    uniform ones. Negatives of a search may answer its query as well as the positive does.

    Raises:
        DataError: a user has fewer than `k` unseen items.
    """
    users, positives, queries = (dataset.column(c)[rows] for c in ("user", "item", "query"))
    sampler.check(users, k)
    categories = pd.factorize(dataset.items["category"])[0]
    match = _Bm25(dataset)
    items = np.arange(dataset.n_items + 1)
    chosen = np.empty((len(rows), k), dtype=np.int64)
    step = max(1, DENSE_CELLS // len(items))
    for start in range(0, len(rows), step):
        part = slice(start, start + step)
        closeness = 2 * match(queries[part]) + (categories[positives[part], None] == categories)
        closeness += 1e-3 * generator.random(closeness.shape, dtype=np.float32)
        closeness[:, 0] = -1
        closeness[sampler.seen(users[part, None], items)] = -1
        chosen[part] = np.argpartition(-closeness, k, axis=1)[:, :k]
    return generator.permuted(chosen, axis=1)


class _Bm25:
    """BM25 (Lucene's form, k1 1.5, b 0.75) of queries on the item texts."""

    def __init__(self, dataset: Dataset) -> None:
        import bm25s

        self._queries, self._width = dataset.queries["text"].tolist(), dataset.n_items + 1
        self._index = bm25s.BM25()
        self._index.index([words_of(t) for t in dataset.items["text"]], show_progress=False)

    def __call__(self, queries: np.ndarray) -> np.ndarray:
        """`[n, V + 1]` fp32 for query ids `[n]`: 1 to 2 where a word matches, 0 elsewhere and for query 0."""
        distinct, row = np.unique(queries, return_inverse=True)
        match = np.zeros((len(distinct), self._width), dtype=np.float32)
        for place, query in enumerate(distinct):
            known = [w for w in words_of(self._queries[query]) if w in self._index.vocab_dict]
            if known:
                scores = self._index.get_scores(known)
                match[place] = np.where(scores > 0, 1 + scores / max(scores.max(), 1e-9), 0)
        return match[row]


def popularity_weights(dataset: Dataset) -> np.ndarray:
    """`[V + 1]` recommendation training events per item plus one, so that every item can be drawn."""
    rows = dataset.rows(Split.TRAIN, Task.REC)
    return np.bincount(dataset.column("item")[rows], minlength=dataset.n_items + 1) + 1.0
