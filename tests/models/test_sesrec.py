"""SESRec."""

from __future__ import annotations

import pytest
import torch
from torch import Tensor

from tests.contract import ScorerContract, Setting
from unisr.data.batches import Batch
from unisr.data.schema import Dataset
from unisr.models.base import build
from unisr.models.joint import SESRec, SESRecConfig
from unisr.models.joint.sesrec import History


class TestSESRec(ScorerContract):
    method = "SESRec"


@pytest.fixture(scope="module")
def setting(world: Dataset) -> Setting:
    return Setting(world, SESRec)


@pytest.fixture(scope="module")
def scorer(setting: Setting) -> SESRec:
    return setting.build()


def made(setting: Setting, **config: float) -> SESRec:
    return build(SESRec, SESRecConfig.model_validate(config), setting.corpus, seed=0).eval()


def divided(weights: list[float], valid: list[bool]) -> History:
    history = History(torch.zeros(1, len(valid), 2), torch.tensor([valid]))
    history.divide(torch.tensor([weights]))
    return history


def test_similar_and_dissimilar_events_partition_the_valid_ones(setting: Setting, scorer: SESRec) -> None:
    found = 0
    for history in scorer.encode(setting.training_batch(scorer, 64)).values():
        for weights, *masks in zip(history.weights, history.valid, history.similar, history.dissimilar, strict=True):
            valid, similar, dissimilar = (set(mask.nonzero().squeeze(1).tolist()) for mask in masks)
            assert sum(weights[list(valid)].tolist()) == pytest.approx(1 if valid else 0, abs=1e-5)
            heavy = {i for i in valid if weights[i] >= (1 - 1e-5) / len(valid)}
            assert similar == heavy and dissimilar == ((valid - heavy) or valid)
            found += bool(valid - heavy)
    assert found > 20


def test_equal_weights_are_all_similar_and_an_empty_set_takes_all() -> None:
    for n in (1, 3, 7, 11):
        history = divided([0.0] + [1 / n] * n, [False] + [True] * n)
        assert torch.equal(history.similar, history.valid) and torch.equal(history.dissimilar, history.valid)
    history = divided([0.0, 0.5, 0.2, 0.3], [False, True, True, True])
    assert history.similar.tolist() == [[False, True, False, False]]
    assert history.dissimilar.tolist() == [[False, False, True, True]]
    assert not divided([0.0, 0.0], [False, False]).dissimilar.any()


def test_co_attention_weighs_events_by_their_affinity_to_the_other_history(scorer: SESRec) -> None:
    torch.manual_seed(0)
    attention = scorer.attention
    rec, src = torch.randn(1, 3, 32), torch.randn(1, 4, 32)
    rec[:, 0] = 0
    valid = torch.tensor([[False, True, True]]), torch.ones(1, 4, dtype=torch.bool)
    of_rec, of_src = attention(rec, valid[0], src, valid[1])
    affinity = torch.tanh(torch.einsum("id,de,je->ij", rec[0], attention.affinity.weight, src[0]))
    first = [sum(affinity[t, s] * (attention.value["src"].weight[0] @ src[0, s]) for s in range(4)) for t in (1, 2)]
    second = [sum(affinity[t, s] * (attention.value["rec"].weight[0] @ rec[0, t]) for t in (1, 2)) for s in range(4)]
    torch.testing.assert_close(of_rec[0], torch.cat([torch.zeros(1), torch.stack(first).softmax(0)]))
    torch.testing.assert_close(of_src[0], torch.stack(second).softmax(0))


def test_triplet_compares_the_weighted_sum_with_the_means_of_both_sets() -> None:
    torch.manual_seed(0)
    history = History(torch.randn(1, 4, 8), torch.tensor([[False, True, True, True]]))
    history.divide(torch.tensor([[0.0, 0.5, 0.1, 0.4]]))
    events = history.events[0]
    anchor = 0.5 * events[1] + 0.1 * events[2] + 0.4 * events[3]
    near, far = (anchor - (events[1] + events[3]) / 2).norm(), (anchor - events[2]).norm()
    torch.testing.assert_close(history.triplet(5.0)[0], near - far + 5, atol=1e-4, rtol=1e-4)
    assert near < far and history.triplet(0.01) == 0


def test_rows_with_an_empty_side_are_left_out_of_the_triplet_loss(setting: Setting, scorer: SESRec) -> None:
    batch = setting.training_batch(scorer, 64)
    full = (batch.tasks == 1).any(1) & (batch.tasks == 2).any(1)
    assert 2 < full.sum() < len(full)
    both = scorer.losses(batch)["triplet"]
    torch.testing.assert_close(scorer.losses(batch.select(full))["triplet"], both)
    assert scorer.losses(batch.select(~full))["triplet"] == 0


def test_without_auxiliary_losses_it_is_target_attention_over_two_histories(setting: Setting) -> None:
    scorer = made(setting, query_item_weight=0.0, triplet_weight=0.0)
    batch = setting.training_batch(scorer, 8)
    losses = scorer.losses(batch)
    assert set(losses) == {"rec"}
    row = next(i for i in range(8) if len(set(batch.tasks[i].tolist()) - {0}) == 2)
    histories, candidate = scorer.encode(batch), batch.candidates[row, 0]
    item = scorer.items(candidate)
    pools: list[Tensor] = []
    for name, history in histories.items():
        events = history.events[row, history.valid[row]]
        shares = torch.stack([item @ scorer.pools[name].map.weight @ event for event in events]).softmax(0)
        pools += 3 * [shares @ events]
    expected = scorer.head(torch.cat([*pools, item, scorer.users(batch.user[row])]))
    torch.testing.assert_close(scorer.score(batch)[row, 0], expected[0])


def test_each_set_is_pooled_for_itself(setting: Setting, scorer: SESRec) -> None:
    batch = setting.batch(scorer)
    histories = scorer.encode(batch)
    before = scorer._score(batch, histories)
    for history in histories.values():
        for name in ("similar", "dissimilar"):
            kept = getattr(history, name)
            setattr(history, name, history.valid)
            assert not torch.allclose(scorer._score(batch, histories), before)
            setattr(history, name, kept)
    torch.testing.assert_close(scorer._score(batch, histories), before)


def test_a_search_event_is_its_query_and_its_item(setting: Setting, scorer: SESRec) -> None:
    history = [torch.tensor([x]) for x in ([4, 9], [2, 1], [6, 0])]
    batch = Batch(torch.tensor([1]), *history, torch.tensor([[1, 2]]), torch.tensor([0]), torch.tensor([1]))
    words = setting.corpus.query_words[6]
    mean = scorer.queries.words.weight[words[words > 0]].mean(0)
    query = scorer.queries.map(torch.cat([scorer.queries.ids.weight[6], mean]))
    valid = torch.ones(1, 1, dtype=torch.bool)
    found = scorer.encode(batch)
    src = scorer.encoders["src"]((query + scorer.items(torch.tensor(4)))[None, None], valid)
    rec = scorer.encoders["rec"](scorer.items(torch.tensor([[9]])), valid)
    torch.testing.assert_close(found["src"].events[:, -1:], src)
    torch.testing.assert_close(found["rec"].events[:, -1:], rec)
