"""HEM."""

from __future__ import annotations

import pytest
import torch
import torch.nn.functional as F

from tests.contract import ScorerContract, Setting, changed, other_ids
from unisr.data.schema import Dataset
from unisr.models.base import build
from unisr.models.search import HEM, QEM, HEMConfig, QEMConfig


class TestHEM(ScorerContract):
    method = "HEM"


@pytest.fixture(scope="module")
def setting(world: Dataset) -> Setting:
    return Setting(world, HEM)


def made(setting: Setting, **config: object) -> HEM:
    scorer = build(HEM, HEMConfig.model_validate(config), setting.corpus, seed=0).eval()
    torch.nn.init.normal_(scorer.bias)
    return scorer


def test_with_lambda_one_it_is_qem(setting: Setting) -> None:
    scorer = made(setting, query_weight=1.0)
    qem = build(QEM, QEMConfig(), setting.corpus, seed=0).eval()
    qem.load_state_dict({k: v for k, v in scorer.state_dict().items() if not k.startswith("users.")})
    batch = setting.batch(scorer)
    assert torch.equal(scorer.score(batch), qem.score(batch))


def test_with_lambda_zero_the_query_is_ignored_and_the_user_is_not(setting: Setting) -> None:
    scorer = made(setting, query_weight=0.0)
    batch = setting.batch(scorer)
    found = scorer.score(batch)
    assert torch.equal(scorer.score(changed(batch, query=other_ids(batch.query, setting.dataset.n_queries))), found)
    assert not torch.allclose(scorer.score(changed(batch, user=other_ids(batch.user, setting.dataset.n_users))), found)


def test_user_words_are_those_of_the_item_clicked(setting: Setting) -> None:
    scorer = made(setting)
    # One word alone can be drawn, so the expectation needs no sampling.
    scorer.word_counts.zero_()
    scorer.word_counts[5] = 1.0
    batch = setting.training_batch(scorer, 8)
    table, terms = scorer.queries.table.weight, []
    for row, user in enumerate(batch.user):
        item = batch.candidates[row, batch.labels[row].argmax()]
        for word in setting.corpus.item_words[item]:
            if word:
                x = scorer.users.weight[user]
                terms.append(F.softplus(-table[word] @ x) + 5 * F.softplus(table[5] @ x))
    torch.testing.assert_close(scorer.losses(batch)["user_words"], torch.stack(terms).mean() / 6)


def test_words_are_drawn_by_frequency_to_the_three_quarters(setting: Setting) -> None:
    words = setting.corpus.item_words.ravel()
    counts = made(setting).word_counts
    assert counts[0] == 0
    for word in (1, 2, 3):
        assert counts[word].item() == pytest.approx((words == word).sum() ** 0.75)
