"""NRHUB."""

from __future__ import annotations

import pytest
import torch
import torch.nn.functional as F

from tests.contract import ScorerContract, Setting
from unisr.data.batches import Batch
from unisr.data.schema import Dataset
from unisr.models.joint import NRHUB


class TestNRHUB(ScorerContract):
    method = "NRHUB"


@pytest.fixture(scope="module")
def setting(world: Dataset) -> Setting:
    return Setting(world, NRHUB)


@pytest.fixture(scope="module")
def scorer(setting: Setting) -> NRHUB:
    return setting.build()


def row(tasks: list[int], items: list[int], queries: list[int]) -> Batch:
    history = [torch.tensor([x]) for x in (items, tasks, queries)]
    return Batch(torch.tensor([1]), *history, torch.tensor([[4, 5, 6]]), torch.tensor([0]), torch.tensor([1]))


def test_view_weights_sum_to_one(scorer: NRHUB) -> None:
    vector = torch.randn(64)
    for some in ([True, True, True], [True, False, True], [False, True, False]):
        pooled = scorer.across(vector.expand(1, 3, -1), torch.tensor([some]))
        torch.testing.assert_close(pooled[0], vector)


def test_dropping_an_empty_view_equals_masking_it(scorer: NRHUB) -> None:
    vectors, some = scorer.views(row([0, 1, 1], [0, 3, 9], [0, 0, 0]))
    assert some.tolist() == [[True, False, False]]
    garbage = vectors + 5 * torch.randn_like(vectors) * ~some.unsqueeze(-1)
    torch.testing.assert_close(scorer.across(garbage, some), vectors[:, 0])


def test_a_user_is_attention_over_attended_views(scorer: NRHUB) -> None:
    batch = row([1, 2, 1, 2], [3, 7, 9, 2], [0, 5, 0, 6])

    def attend(name: str, rows: torch.Tensor) -> torch.Tensor:
        pool = scorer.across if name == "across" else scorer.within[name]
        logits = [pool.weight.weight[0] @ torch.tanh(pool.map.weight @ x + pool.map.bias) for x in rows]
        shares = torch.stack(logits).exp() / torch.stack(logits).exp().sum()
        return sum(share * x for share, x in zip(shares, rows, strict=True))

    table = scorer.items.weight
    views = [
        attend("item", table[[3, 9]]),
        attend("query", scorer.queries(torch.tensor([5, 6]))),
        attend("click", table[[7, 2]]),
    ]
    user = attend("across", torch.stack(views))
    torch.testing.assert_close(scorer.score(batch)[0], table[[4, 5, 6]] @ user)


def test_a_query_reads_the_order_of_its_words_and_no_padding(setting: Setting) -> None:
    encoder = setting.build().queries
    encoder.words = torch.tensor([[0, 0, 0, 0], [1, 2, 3, 0], [3, 2, 1, 0]])
    first, other = encoder(torch.tensor([1, 2]))
    assert not torch.allclose(first, other)
    encoder.words = F.pad(encoder.words, (0, 4))
    torch.testing.assert_close(encoder(torch.tensor([2, 1])), torch.stack([other, first]))
    assert not encoder(torch.tensor([0])).any()


def test_loss_is_the_surprise_of_the_positive_among_its_candidates(setting: Setting, scorer: NRHUB) -> None:
    batch = setting.training_batch(scorer, 16)
    scores = scorer.score(batch)
    terms = [-scores[i].log_softmax(0)[batch.labels[i].argmax()] for i in range(len(batch))]
    torch.testing.assert_close(scorer.losses(batch)["rec"], torch.stack(terms).mean())
