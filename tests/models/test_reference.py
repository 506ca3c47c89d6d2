"""Popularity, Lexical and Lexical+Popularity."""

from __future__ import annotations

from dataclasses import replace

import bm25s
import numpy as np
import pytest
import torch

from tests.contract import ScorerContract
from unisr.data.corpus import Corpus, words_of
from unisr.data.schema import Dataset
from unisr.models.reference import LexicalConfig, LexicalPopularity, LexicalPopularityConfig, Matcher, Popularity


class TestPopularity(ScorerContract):
    method = "Popularity"


class TestLexical(ScorerContract):
    method = "Lexical"


class TestLexicalPopularity(ScorerContract):
    method = "Lexical+Popularity"


@pytest.fixture(scope="module")
def corpus(world: Dataset) -> Corpus:
    return Corpus.of(world)


def test_matcher_equals_bm25s_query_by_query(corpus: Corpus) -> None:
    index = bm25s.BM25()
    index.index([words_of(t) for t in corpus.item_texts[1:]], show_progress=False)
    queries = torch.arange(1, corpus.n_queries + 1)
    items = torch.arange(corpus.n_items + 1).expand(len(queries), -1)
    expected = np.stack([index.get_scores(words_of(t)) for t in corpus.query_texts[1:]])
    found = Matcher(corpus, LexicalConfig()).score(queries, items)
    assert (expected.max(1) > 0).all()
    np.testing.assert_allclose(found[:, 1:], expected, rtol=1e-5)
    assert (found[:, 0] == 0).all()


def test_matcher_takes_queries_without_known_words(corpus: Corpus) -> None:
    texts = ["", "zzz", *corpus.query_texts[2:]]
    found = Matcher(replace(corpus, query_texts=texts), LexicalConfig()).score(
        torch.tensor([0, 1, 2]), torch.tensor([[1, 2]] * 3)
    )
    assert (found[:2] == 0).all()


def test_popularity_counts_training_recommendations(corpus: Corpus) -> None:
    scorer = Popularity(Popularity.Config(), corpus)
    top = int(np.argmax(corpus.popularity))
    assert scorer.counts[top] == (corpus.edges[:, 1] == top).sum()


def test_popularity_moves_a_score_by_the_tie_width_at_most(corpus: Corpus) -> None:
    config = LexicalPopularityConfig(tie_width=0.3)
    scorer = LexicalPopularity(config, corpus)
    assert scorer.prior.min() >= 0 and scorer.prior.max() == pytest.approx(0.3)
    counts = torch.as_tensor(corpus.popularity)
    assert (scorer.prior.argsort(stable=True) == counts.argsort(stable=True)).all()
