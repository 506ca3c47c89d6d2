"""GRU4Rec."""

from __future__ import annotations

from dataclasses import replace

import pytest
import torch
import torch.nn.functional as F

from tests.contract import ScorerContract, Setting
from unisr.data.schema import Dataset
from unisr.models.base import build
from unisr.models.recommendation import GRU4Rec, GRU4RecConfig


class TestGRU4Rec(ScorerContract):
    method = "GRU4Rec"


@pytest.fixture(scope="module")
def setting(world: Dataset) -> Setting:
    return Setting(world, GRU4Rec)


def test_the_state_is_that_of_the_sequence_without_padding(setting: Setting) -> None:
    scorer = setting.build()
    batch = setting.batch(scorer)
    items = torch.tensor([[0, 0, 3, 4], [0, 5, 0, 6], [7, 8, 9, 1], [0, 0, 0, 0]])
    batch = replace(batch, items=items, tasks=(items > 0).long())
    states = scorer.states(batch)
    for row in range(4):
        kept = items[row][items[row] > 0]
        if not len(kept):
            assert not states[row].any()
            continue
        alone = scorer.gru(scorer.items(kept).unsqueeze(0))[0][0]
        torch.testing.assert_close(states[row][items[row] > 0], alone)
        torch.testing.assert_close(states[row, -1], alone[-1])
    torch.testing.assert_close(scorer.states(batch, last=True), states[:, -1:])


def test_states_do_not_see_later_items(setting: Setting) -> None:
    scorer = setting.build()
    batch = setting.training_batch(scorer, 8)
    other = batch.items.clone()
    other[:, 4:] = other[:, 4:] % setting.dataset.n_items + 1
    before, after = scorer.states(batch), scorer.states(replace(batch, items=other))
    torch.testing.assert_close(after[:, :4], before[:, :4])
    assert not torch.allclose(after[:, 4:], before[:, 4:])


def test_one_item_table_serves_input_and_output(setting: Setting) -> None:
    scorer = setting.build()
    tables = [name for name, p in scorer.named_parameters() if p.ndim == 2 and len(p) == setting.dataset.n_items + 1]
    assert tables == ["items.weight"]


def test_softmax_loss_is_the_cross_entropy_of_the_scores(setting: Setting) -> None:
    scorer = setting.build()
    torch.nn.init.normal_(scorer.bias)
    batch = setting.training_batch(scorer, 8)
    states = scorer.states(batch)
    terms = []
    for row, place in (batch.targets > 0).nonzero():
        logits = scorer.items.weight[1:] @ states[row, batch.states[row, place]] + scorer.bias[1:]
        terms.append(-logits.log_softmax(0)[batch.targets[row, place] - 1])
    torch.testing.assert_close(scorer.losses(batch)["rec"], torch.stack(terms).mean())


def test_bpr_max_is_its_formula_over_the_drawn_items(setting: Setting) -> None:
    scorer = build(GRU4Rec, GRU4RecConfig(loss="bpr-max", samples=40, regularizer=0.5), setting.corpus, seed=0)
    torch.nn.init.normal_(scorer.bias)
    targets, states = torch.tensor([1, 2, 3]), torch.randn(3, scorer.config.width)
    torch.manual_seed(3)
    found = scorer._bpr_max(states, targets)
    torch.manual_seed(3)
    drawn = torch.randint(1, setting.dataset.n_items + 1, (40,))
    terms = []
    for target, state in zip(targets, states, strict=True):
        others = drawn[drawn != target]
        score = scorer.items.weight @ state + scorer.bias
        weights = score[others].softmax(0)
        gain = (weights * torch.sigmoid(score[target] - score[others])).sum()
        terms.append(-gain.log() + 0.5 * (weights * score[others] ** 2).sum())
    torch.testing.assert_close(found, torch.stack(terms).mean())


def test_bpr_max_learns_too(setting: Setting) -> None:
    scorer = build(GRU4Rec, GRU4RecConfig(loss="bpr-max", dropout=0.0), setting.corpus, seed=0)
    batch = setting.training_batch(scorer, 16)
    optimizer = torch.optim.Adam(scorer.parameters(), lr=1e-2)
    torch.manual_seed(0)
    row, place = (batch.targets > 0).nonzero(as_tuple=True)

    def likelihood() -> float:
        logits = F.linear(scorer.states(batch)[row, batch.states[row, place]], scorer.items.weight[1:], scorer.bias[1:])
        return -F.cross_entropy(logits, batch.targets[row, place] - 1).item()

    start = likelihood()
    for _ in range(40):
        optimizer.zero_grad()
        scorer.losses(batch)["rec"].backward()
        optimizer.step()
    assert likelihood() > start + 0.5
