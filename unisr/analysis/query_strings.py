"""What a query string alone tells of its target, on Kindle's official queries: these are paths of categories, and all
items of a category answer to the same ones.

A search is a judged purchase (user, query, item) of the query files. Its candidates are the item and 99 others, uniform
over the judged items that the user has no judgement of. The score of a candidate is whether another user's purchase of
it is judged for the same query string. It knows no history, no user and no text of an item, so it needs neither reviews
nor metadata.
"""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pandas as pd
import polars as pl
from pydantic import Field
from scipy.sparse import csr_array

from unisr.analysis.store import is_kept, kept
from unisr.config import RunConfig, Settings
from unisr.data.candidates import N_NEGATIVES
from unisr.data.sources.amazon_kindle import QRELS, QUERY_TEXTS, has_queries, judged
from unisr.errors import DataError
from unisr.evaluation.ranks import expected_rank, released_rank
from unisr.random import generator

CONFIG = RunConfig(method="Lexical", dataset="amazon-kindle", preset="full")
"""Where the table is kept: beside the analyses of this dataset."""


class QueryStringSettings(Settings):
    """How many searches are ranked."""

    searches: int = Field(20_000, ge=100)
    seed: int = 0


def query_strings(settings: QueryStringSettings, folder: Path | None = None) -> pd.DataFrame:
    """The kept table; computed from a folder with the official query files where it is not kept.

    Returns:
        one row per search: query (number of its line), rank and tied (of `expected_rank`), released (of
        `released_rank`), found (whether the target's score is 1), also (share of the other candidates with score 1).

    Raises:
        DataError: nothing is kept and there is no folder, or it lacks a file.
    """
    if not is_kept("query-strings", settings, [CONFIG]):
        if not folder or not has_queries(folder):
            raise DataError(
                f"no {QUERY_TEXTS} with {' or '.join(QRELS)} in {folder or 'a folder named by UNISR_KINDLE'}: take "
                "those of the Kindle Store from the Amazon product search data of Ai et al."
            )
    return kept("query-strings", settings, [CONFIG], lambda: _ranked(settings, folder))


def _ranked(settings: QueryStringSettings, folder: Path) -> pd.DataFrame:
    pairs = judged(folder)[1].unique(maintain_order=True)
    users, items = pairs["reviewerID"].cast(pl.Categorical).to_physical(), pairs["asin"].unique().sort()
    user, item, query = users.to_numpy(), items.search_sorted(pairs["asin"]).to_numpy(), pairs["number"].to_numpy()
    ones = np.ones(len(pairs), dtype=np.int32)
    answers = csr_array((ones, (query, item)), shape=(int(query.max()) + 1, len(items)))
    owned = csr_array((ones, (user, item)), shape=(int(user.max()) + 1, len(items)))
    random = generator(settings.seed, "query strings")
    rows = np.sort(random.choice(len(pairs), min(settings.searches, len(pairs)), replace=False))
    candidates = np.concatenate([item[rows, None], _negatives(owned, user[rows], random)], axis=1)
    counts = answers[np.repeat(query[rows], N_NEGATIVES + 1), candidates.ravel()].reshape(candidates.shape)
    counts[:, 0] -= 1
    scores = (counts > 0).astype(np.float32)
    first = np.zeros(len(rows), dtype=np.int64)
    rank, ties = expected_rank(scores, first)
    return pd.DataFrame({"query": query[rows], "rank": rank, "tied": ties > 0, "released": released_rank(scores, first),
                         "found": scores[:, 0] > 0, "also": scores[:, 1:].mean(1)})  # fmt: skip


def _negatives(owned: csr_array, users: np.ndarray, random: np.random.Generator) -> np.ndarray:
    """[n, 99] distinct items of which each user has none."""
    drawn = np.empty((len(users), N_NEGATIVES), dtype=np.int64)
    for row, user in enumerate(users):
        own = owned.indices[owned.indptr[user] : owned.indptr[user + 1]]
        found = random.choice(owned.shape[1], min(2 * N_NEGATIVES + len(own), owned.shape[1]), replace=False)
        drawn[row] = np.setdiff1d(found, own, assume_unique=True)[:N_NEGATIVES]
    return drawn
