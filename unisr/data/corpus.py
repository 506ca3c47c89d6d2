"""What a model may know of the catalogue and the training data when it is built.

Models never read files: they get a `Corpus`. Everything that counts events counts training targets only.
"""

from __future__ import annotations

import re
from dataclasses import dataclass

import numpy as np

from unisr.data.schema import Dataset, Split, Task

MAX_WORDS = 32
"""Words kept per text."""


def words_of(text: str) -> list[str]:
    """Lower-case runs of letters and digits, in order."""
    return re.findall(r"[^\W_]+", text.lower())


@dataclass(frozen=True)
class Corpus:
    """Catalogue and training counts; V items, Q queries, U users, W words, each with padding 0."""

    name: str
    n_users: int
    n_items: int
    n_queries: int
    n_words: int
    item_texts: list[str]
    """[V + 1]"""
    query_texts: list[str]
    """[Q + 1]"""
    item_words: np.ndarray
    """[V + 1, T] int64 word ids, right-padded with 0."""
    query_words: np.ndarray
    """[Q + 1, T] int64 word ids, right-padded with 0."""
    popularity: np.ndarray
    """[V + 1] int64: recommendation training events per item."""
    edges: np.ndarray
    """[n, 2] int64: (user, item) of recommendation training events."""

    @classmethod
    def of(cls, dataset: Dataset) -> Corpus:
        """Build the corpus of a dataset from its tables and training events."""
        item_texts, query_texts = dataset.items["text"].tolist(), dataset.queries["text"].tolist()
        vocabulary: dict[str, int] = {}
        item_words = _word_ids(item_texts, vocabulary)
        query_words = _word_ids(query_texts, vocabulary)
        rows = dataset.rows(Split.TRAIN, Task.REC)
        edges = np.stack([dataset.column("user")[rows], dataset.column("item")[rows]], axis=1)
        return cls(
            name=dataset.name,
            n_users=dataset.n_users,
            n_items=dataset.n_items,
            n_queries=dataset.n_queries,
            n_words=len(vocabulary),
            item_texts=item_texts,
            query_texts=query_texts,
            item_words=item_words,
            query_words=query_words,
            popularity=np.bincount(edges[:, 1], minlength=dataset.n_items + 1),
            edges=edges,
        )


def _word_ids(texts: list[str], vocabulary: dict[str, int]) -> np.ndarray:
    ids = [[vocabulary.setdefault(w, len(vocabulary) + 1) for w in words_of(t)[:MAX_WORDS]] for t in texts]
    table = np.zeros((len(ids), max(1, max(map(len, ids)))), dtype=np.int64)
    for row, words in enumerate(ids):
        table[row, : len(words)] = words
    return table
