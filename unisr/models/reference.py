"""Sanity rows: what popularity and word matching alone reach. Nothing here is trained."""

from __future__ import annotations

from typing import Literal

import bm25s
import numpy as np
import scipy.sparse as sp
import torch
from pydantic import Field
from torch import Tensor

from unisr.config import PRESETS, ModelConfig, TrainConfig
from unisr.data.batches import Batch
from unisr.data.corpus import Corpus, words_of
from unisr.models.base import Scorer, Tables
from unisr.registry import Card, register


class _Reference(Scorer):
    """A scorer without parameters: it reads no history and has no loss."""

    @property
    def history_length(self) -> tuple[int, int]:
        return (0, 0)

    def losses(self, batch: Batch) -> dict[str, Tensor]:
        """Nothing to minimise: always empty."""
        return {}


@register
class Popularity(_Reference):
    """s_c = number of recommendation training events of c, for both tasks."""

    card = Card(
        name="Popularity",
        family="reference",
        tasks=("rec", "src"),
        paper="none: the usual non-personalized reference",
        signals=("item popularity",),
        loss="none",
    )
    presets = {name: (TrainConfig(epochs=0), ModelConfig()) for name in PRESETS}

    def __init__(self, config: ModelConfig, corpus: Corpus, *, tables: Tables | None = None) -> None:
        super().__init__(config, corpus, tables=tables)
        self.register_buffer("counts", torch.as_tensor(corpus.popularity, dtype=torch.float32), persistent=False)

    def score(self, batch: Batch) -> Tensor:
        return self.counts[batch.candidates]


class LexicalConfig(ModelConfig):
    k1: float = Field(1.5, ge=0)
    """Saturation of repeated words."""
    b: float = Field(0.75, ge=0, le=1)
    """Strength of the document-length normalization."""
    variant: Literal["lucene", "robertson", "atire", "bm25l", "bm25+"] = "lucene"
    """bm25s's name of the formula."""


class Matcher:
    """BM25 of queries on item texts: score(q, i) = sum over the words w of q of idf(w) tf'(w, i).

    Word-by-item weights come from bm25s (Lù, 2024) and are kept sparse; nothing of size Q V is ever built,
    a call takes memory in proportion to its distinct queries times V.
    """

    def __init__(self, corpus: Corpus, config: LexicalConfig) -> None:
        index = bm25s.BM25(k1=config.k1, b=config.b, method=config.variant)
        # bm25s needs at least one word overall; the padding item is left out and put back as an empty column.
        index.index([words_of(text) for text in corpus.item_texts[1:]], show_progress=False)
        stored, vocabulary = index.scores, index.vocab_dict
        weights = (stored["data"], stored["indices"], stored["indptr"])
        shape = (corpus.n_items, len(stored["indptr"]) - 1)
        by_word = sp.csc_matrix(weights, shape=shape).T.tocsr()
        self.weights = sp.hstack([sp.csr_matrix((shape[1], 1), dtype=np.float32), by_word], format="csr")
        words = [[vocabulary[w] for w in words_of(t) if w in vocabulary] for t in corpus.query_texts]
        flat = np.array([w for row in words for w in row], dtype=np.int64)
        rows = np.repeat(np.arange(len(words)), [len(row) for row in words])
        ones = np.ones(len(flat), dtype=np.float32)
        self.queries = sp.csr_matrix((ones, (rows, flat)), shape=(len(words), shape[1]))

    def score(self, queries: Tensor, candidates: Tensor) -> Tensor:
        """queries [B], candidates [B, C] -> [B, C] fp32 BM25; query 0 and item 0 score 0."""
        distinct, place = np.unique(queries.cpu().numpy(), return_inverse=True)
        table = (self.queries[distinct] @ self.weights).toarray()
        scores = table[place[:, None], candidates.cpu().numpy()]
        return torch.from_numpy(scores.astype(np.float32)).to(candidates.device)


@register
class Lexical(_Reference):
    """s_c = BM25 of the query on the text of c; search only."""

    card = Card(
        name="Lexical",
        family="reference",
        tasks=("src",),
        paper="Robertson and Zaragoza, The Probabilistic Relevance Framework: BM25 and Beyond, FnTIR 2009",
        signals=("current query", "item text"),
        loss="none",
    )
    Config = LexicalConfig
    presets = {name: (TrainConfig(epochs=0), LexicalConfig()) for name in PRESETS}

    def __init__(self, config: LexicalConfig, corpus: Corpus, *, tables: Tables | None = None) -> None:
        super().__init__(config, corpus, tables=tables)
        self.matcher = Matcher(corpus, config)

    def score(self, batch: Batch) -> Tensor:
        return self.matcher.score(batch.query, batch.candidates)


class LexicalPopularityConfig(LexicalConfig):
    tie_width: float = Field(0.5, ge=0)
    """BM25 units popularity may move a score by: what counts as a near-tie."""


@register
class LexicalPopularity(Lexical):
    """s_c = BM25(q, c) + w log(1 + n_c) / log(1 + max n), n_c the recommendation training events of c.

    w is `tie_width`, so popularity reorders only items whose BM25 differ by less than w: mostly texts that hold
    the same query words and differ in length. The default is the best of 0, .1, .25, .5, .75 and 1 by NDCG@10 on
    the search validation targets of ML-100K.
    """

    card = Card(
        name="Lexical+Popularity",
        family="reference",
        tasks=("src",),
        paper="none: BM25 with near-ties broken by popularity",
        signals=("current query", "item text", "item popularity"),
        loss="none",
    )
    Config = LexicalPopularityConfig
    presets = {name: (TrainConfig(epochs=0), LexicalPopularityConfig()) for name in PRESETS}

    def __init__(self, config: LexicalPopularityConfig, corpus: Corpus, *, tables: Tables | None = None) -> None:
        super().__init__(config, corpus, tables=tables)
        counts = torch.as_tensor(corpus.popularity, dtype=torch.float32).log1p()
        prior = config.tie_width * counts / counts.max().clamp(min=1.0)
        self.register_buffer("prior", prior, persistent=False)

    def score(self, batch: Batch) -> Tensor:
        return super().score(batch) + self.prior[batch.candidates]
