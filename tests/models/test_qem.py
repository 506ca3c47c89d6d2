"""QEM."""

from __future__ import annotations

import pytest
import torch

from tests.contract import ScorerContract, Setting, changed, other_ids
from unisr.data.schema import Dataset
from unisr.models.search import QEM


class TestQEM(ScorerContract):
    method = "QEM"


@pytest.fixture(scope="module")
def setting(world: Dataset) -> Setting:
    return Setting(world, QEM)


def test_two_users_with_one_query_get_the_same_scores(setting: Setting) -> None:
    scorer = setting.build()
    batch = setting.batch(scorer)
    users, queries = batch.user.flip(0), torch.full_like(batch.query, 3)
    rows = batch.candidates[:1].expand(len(batch), -1)
    assert len(users.unique()) > 1
    found = scorer.score(changed(batch, user=users, query=queries, candidates=rows))
    torch.testing.assert_close(found, found[:1].expand_as(found))
    other = scorer.score(changed(batch, query=other_ids(queries, setting.dataset.n_queries), candidates=rows))
    assert not torch.allclose(other, found)


def test_score_is_the_mapped_mean_of_the_words_against_the_item(setting: Setting) -> None:
    scorer = setting.build()
    torch.nn.init.normal_(scorer.bias)
    batch = setting.batch(scorer)
    found = scorer.score(batch)
    for row, query in enumerate(batch.query):
        words = [int(w) for w in setting.corpus.query_words[query] if w]
        mean = sum(scorer.queries.table.weight[w] for w in words) / len(words)
        state = torch.tanh(scorer.queries.map.weight @ mean + scorer.queries.map.bias)
        for column, item in enumerate(batch.candidates[row]):
            expected = scorer.items.weight[item] @ state + scorer.bias[item]
            torch.testing.assert_close(found[row, column], expected)
