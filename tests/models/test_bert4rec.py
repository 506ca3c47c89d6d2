"""BERT4Rec."""

from __future__ import annotations

from dataclasses import replace

import pytest
import torch
from torch import Tensor

from tests.contract import ScorerContract, Setting
from unisr.data.batches import SequenceBatch
from unisr.data.schema import Dataset
from unisr.models.base import build
from unisr.models.recommendation import BERT4Rec, BERT4RecConfig


class TestBERT4Rec(ScorerContract):
    method = "BERT4Rec"
    # A post-norm encoder does not learn at 1e-2.
    overfit_steps = 125
    overfit_rate = 2e-3
    draws_targets = True


@pytest.fixture(scope="module")
def setting(world: Dataset) -> Setting:
    return Setting(world, BERT4Rec)


def made(setting: Setting, **config: object) -> BERT4Rec:
    scorer = build(BERT4Rec, BERT4RecConfig.model_validate(config), setting.corpus, seed=0).eval()
    torch.nn.init.normal_(scorer.bias)
    return scorer


def test_a_masked_state_sees_both_sides(setting: Setting) -> None:
    scorer = made(setting)
    items = torch.tensor([[0, 3, 4, scorer.mask_id, 5, 6]])
    before = scorer.encode(items)[0, 3]
    for column in (1, 2, 4, 5):
        other = items.clone()
        other[0, column] += 7
        assert not torch.allclose(scorer.encode(other)[0, 3], before), column


def test_the_loss_is_that_of_masked_positions_alone(setting: Setting, monkeypatch: pytest.MonkeyPatch) -> None:
    scorer = made(setting, last=0.0)
    batch = setting.training_batch(scorer, 4)
    batch = replace(batch, items=torch.tensor([[0, 0, 3, 4], [5, 6, 7, 8]]), tasks=torch.ones(2, 4, dtype=torch.long))
    chosen = torch.tensor([[False, False, True, False], [False, True, False, True]])
    monkeypatch.setattr(scorer, "masks", lambda valid: chosen)
    given = torch.tensor([[0, 0, scorer.mask_id, 4], [5, scorer.mask_id, 7, scorer.mask_id]])
    states = scorer.head(scorer.encode(given))
    terms = []
    for row, column, item in [(0, 2, 3), (1, 1, 6), (1, 3, 8)]:
        logits = states[row, column] @ scorer.items.weight[1 : setting.dataset.n_items + 1].T + scorer.bias[1:]
        terms.append(-logits.log_softmax(0)[item - 1])
    batch.targets, batch.states = batch.targets[:2], batch.states[:2]
    torch.testing.assert_close(scorer.losses(batch)["rec"], torch.stack(terms).mean())


@pytest.mark.parametrize("share", [0.1, 0.6])
def test_masks_take_their_share_of_items_and_no_padding(setting: Setting, share: float) -> None:
    scorer = made(setting, mask=share)
    valid = torch.arange(20) >= torch.tensor([[0], [5], [19], [20]]).repeat(500, 1)
    torch.manual_seed(0)
    masked = scorer.masks(valid)
    assert not (masked & ~valid).any()
    assert (masked.any(1) == valid.any(1)).all()
    full = valid.all(1)
    # At least one is masked, which adds the chance that none would be.
    expected = share + (1 - share) ** 20 / 20
    assert masked[full].float().mean().item() == pytest.approx(expected, abs=0.02)


def test_appended_targets_follow_the_events_before_them(setting: Setting) -> None:
    scorer = made(setting)
    mask = scorer.mask_id
    items = torch.tensor([[0, 3, 4, 5], [6, 7, 8, 9], [0, 0, 1, 2], [0, 0, 1, 2]])
    targets = torch.tensor([[0, 11, 0], [12, 0, 0], [13, 0, 0], [0, 0, 0]])
    states = torch.tensor([[-1, 2, -1], [3, -1, -1], [2, -1, -1], [-1, -1, -1]])
    given, labels = scorer.appended(items, targets, states)
    assert given.tolist() == [[0, 3, 4, mask], [7, 8, 9, mask], [0, 0, 1, mask], [0, 0, 0, mask]]
    assert labels[:, -1].tolist() == [11, 12, 13, 0] and not labels[:, :-1].any()


def test_windows_trained_as_in_ranking_have_the_loss_of_the_scores(setting: Setting) -> None:
    scorer = made(setting, last=1.0)
    batch = setting.training_batch(scorer, 8)
    # One target a window, so that there is nothing to draw.
    first = (batch.targets > 0) & ((batch.targets > 0).cumsum(1) == 1)
    some = first.any(1)
    columns = {name: getattr(batch, name)[some] for name in ("user", "items", "tasks", "queries", "targets", "states")}
    first, batch = first[some], SequenceBatch(**columns)
    batch.targets = batch.targets * first
    terms = []
    for row, place in first.nonzero():
        scores = _catalog_scores(setting, scorer, batch.items[row, : batch.states[row, place] + 1])
        terms.append(-scores.log_softmax(0)[batch.targets[row, place] - 1])
    assert len(terms) >= 4
    torch.testing.assert_close(scorer.losses(batch)["rec"], torch.stack(terms).mean())


def test_ranking_drops_the_oldest_event_for_the_mask(setting: Setting) -> None:
    scorer = made(setting, history=6)
    events = torch.tensor([9, 3, 4, 5, 6, 7])
    other = torch.tensor([8, 3, 4, 5, 6, 7])
    torch.testing.assert_close(_catalog_scores(setting, scorer, other), _catalog_scores(setting, scorer, events))
    state = scorer.head(scorer.encode(torch.tensor([[3, 4, 5, 6, 7, scorer.mask_id]])))[0, -1]
    expected = scorer.items.weight[1:-1] @ state + scorer.bias[1:]
    torch.testing.assert_close(_catalog_scores(setting, scorer, events), expected)


def _catalog_scores(setting: Setting, scorer: BERT4Rec, events: Tensor) -> Tensor:
    """Scores of all items, [V], after events [n]."""
    batch = setting.batch(scorer).select(torch.tensor([0]))
    candidates = torch.arange(1, setting.dataset.n_items + 1).unsqueeze(0)
    events = events.unsqueeze(0)
    return scorer.score(replace(batch, items=events, tasks=(events > 0).long(), candidates=candidates))[0]
