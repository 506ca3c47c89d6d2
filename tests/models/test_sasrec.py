"""SASRec."""

from __future__ import annotations

from dataclasses import replace

import pytest
import torch

from tests.contract import ScorerContract, Setting
from unisr.data.schema import Dataset
from unisr.models.base import build
from unisr.models.recommendation import MergedSASRec, SASRec, SASRecConfig


class TestSASRec(ScorerContract):
    method = "SASRec"


class TestMergedSASRec(ScorerContract):
    method = "SASRec-merged"


@pytest.fixture(scope="module")
def setting(world: Dataset) -> Setting:
    return Setting(world, SASRec)


def test_states_do_not_see_later_items(setting: Setting) -> None:
    scorer = setting.build()
    batch = setting.training_batch(scorer, 8)
    other = batch.items.clone()
    other[:, 4:] = other[:, 4:] % setting.dataset.n_items + 1
    before, after = scorer.states(batch), scorer.states(replace(batch, items=other))
    torch.testing.assert_close(after[:, :4], before[:, :4])
    assert not torch.allclose(after[:, 4:], before[:, 4:])


def test_softmax_loss_is_the_cross_entropy_of_the_scores(setting: Setting) -> None:
    scorer = setting.build()
    batch = setting.training_batch(scorer, 8)
    states = scorer.states(batch)
    terms = []
    for row, place in (batch.targets > 0).nonzero():
        logits = scorer.items.weight[1:] @ states[row, batch.states[row, place]]
        terms.append(-logits.log_softmax(0)[batch.targets[row, place] - 1])
    torch.testing.assert_close(scorer.losses(batch)["rec"], torch.stack(terms).mean())


def test_bce_loss_learns_too(setting: Setting) -> None:
    scorer = build(SASRec, SASRecConfig(loss="bce", dropout=0.0), setting.corpus, seed=0)
    batch = setting.training_batch(scorer, 16)
    optimizer = torch.optim.Adam(scorer.parameters(), lr=1e-2)
    torch.manual_seed(0)
    terms = []
    for _ in range(60):
        optimizer.zero_grad()
        loss = scorer.losses(batch)["rec"]
        loss.backward()
        optimizer.step()
        terms.append(loss.item())
    assert terms[0] == pytest.approx(2 * 0.693, abs=0.1)
    assert sum(terms[-5:]) < 0.5 * sum(terms[:5])


def test_bce_leaves_seen_items_out(setting: Setting) -> None:
    scorer = build(SASRec, SASRecConfig(loss="bce"), setting.corpus, seed=0)
    everything = torch.arange(1, setting.dataset.n_items + 1).expand(3, -1)
    states = torch.randn(3, 64)
    targets = torch.tensor([1, 2, 3])
    positive = (states * scorer.items(targets)).sum(-1)
    expected = torch.nn.functional.softplus(-positive).mean()
    torch.testing.assert_close(scorer._bce(states, targets, everything), expected)


def test_search_events_are_seen_by_the_merged_control_only(setting: Setting) -> None:
    for method, same in [(SASRec, True), (MergedSASRec, False)]:
        scorer = build(method, SASRecConfig(), setting.corpus, seed=0).eval()
        batch = setting.batch(scorer)
        batch.items, batch.tasks = torch.tensor([[3, 4, 5]]), torch.tensor([[1, 2, 1]])
        other = replace(batch, items=torch.tensor([[3, 9, 5]]))
        assert torch.allclose(scorer.states(batch), scorer.states(other)) == same
