"""TEM."""

from __future__ import annotations

import pytest
import torch
import torch.nn.functional as F

from tests.contract import ScorerContract, Setting
from unisr.data.schema import Dataset
from unisr.models.base import build
from unisr.models.search import QEM, TEM, QEMConfig, TEMConfig


class TestTEM(ScorerContract):
    method = "TEM"


class TestMergedTEM(ScorerContract):
    method = "TEM-merged"


@pytest.fixture(scope="module")
def setting(world: Dataset) -> Setting:
    return Setting(world, TEM)


def made(setting: Setting, **config: object) -> TEM:
    return build(TEM, TEMConfig.model_validate(config), setting.corpus, seed=0).eval()


def test_without_layers_it_is_the_normalized_query_against_items(setting: Setting) -> None:
    scorer = made(setting, layers=0)
    torch.nn.init.normal_(scorer.bias)
    batch = setting.batch(scorer)
    query = F.layer_norm(scorer.queries(batch.query) + scorer.encoder.positions.weight[0], (64,))
    expected = torch.einsum("bcd,bd->bc", scorer.items(batch.candidates), query) + scorer.bias[batch.candidates]
    torch.testing.assert_close(scorer.score(batch), expected)


def test_without_layers_it_is_qem_up_to_the_layer_norm(setting: Setting) -> None:
    scorer = made(setting, layers=0)
    torch.nn.init.zeros_(scorer.encoder.positions.weight)
    qem = build(QEM, QEMConfig(), setting.corpus, seed=0).eval()
    qem.load_state_dict({k: v for k, v in scorer.state_dict().items() if not k.startswith("encoder.")})
    batch = setting.batch(scorer)
    state = qem.state(batch)
    scale = (state.var(1, unbiased=False, keepdim=True) + 1e-5).sqrt()
    torch.testing.assert_close(scorer.state(batch) * scale, state - state.mean(1, keepdim=True))


def test_merged_history_reads_recommendation_events(setting: Setting) -> None:
    search, merged = made(setting), made(setting, history="merged")
    assert search.history_length == (0, 20) and merged.history_length == (20, 20)
    batch = setting.batch(merged)
    other = setting.batch(merged)
    other.items = torch.where(batch.tasks == 1, batch.items % setting.dataset.n_items + 1, batch.items)
    assert (batch.tasks == 1).any()
    assert not torch.allclose(merged.score(other), merged.score(batch))
    torch.testing.assert_close(search.score(other), search.score(batch))


def test_word_loss_is_bce_of_words_against_sampled_words(setting: Setting) -> None:
    scorer = made(setting)
    # One word alone can be drawn, so the expectation needs no sampling.
    scorer.word_counts.zero_()
    scorer.word_counts[5] = 1.0
    items = torch.tensor([1, 2])
    found = scorer.word_loss(scorer.items, items, items)
    table, vectors = scorer.queries.table.weight, scorer.items.weight
    terms = []
    for item in items:
        words = scorer.item_words[item]
        for word in words[words > 0]:
            terms.append(F.softplus(-table[word] @ vectors[item]) + 5 * F.softplus(table[5] @ vectors[item]))
    torch.testing.assert_close(found, torch.stack(terms).mean() / 6)


def test_without_word_loss_there_is_no_such_term(setting: Setting) -> None:
    scorer = made(setting, word_loss=False)
    assert set(scorer.losses(setting.training_batch(scorer, 8))) == {"src"}
    assert "word_bias" not in dict(scorer.named_parameters())
