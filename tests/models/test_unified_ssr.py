"""UnifiedSSR."""

from __future__ import annotations

from dataclasses import replace

import pytest
import torch
from torch import Tensor

from tests.contract import ScorerContract, Setting, other_ids, scores
from unisr.data.batches import Batch
from unisr.data.schema import Dataset, Task
from unisr.models.base import build
from unisr.models.joint.unified_ssr import UnifiedSSR, UnifiedSSRConfig, Windows, intent_loss


class TestUnifiedSSR(ScorerContract):
    method = "UnifiedSSR"


@pytest.fixture(scope="module")
def setting(world: Dataset) -> Setting:
    return Setting(world, UnifiedSSR)


@pytest.fixture(scope="module")
def scorer(setting: Setting) -> UnifiedSSR:
    return setting.build()


@pytest.fixture(scope="module")
def batch(setting: Setting, scorer: UnifiedSSR) -> Batch:
    return setting.batch(scorer)


def made(setting: Setting, **config: float) -> UnifiedSSR:
    return build(UnifiedSSR, UnifiedSSRConfig.model_validate(config), setting.corpus, seed=0).eval()


def states(scorer: UnifiedSSR, batch: Batch, count: int) -> list[Tensor]:
    """The encoder's states of the first `count` branches."""
    inputs, valid = scorer.branches(batch)
    with torch.inference_mode():
        return scorer.encoder(inputs[:count], valid)


@pytest.mark.parametrize("count", [1, 2])
def test_changing_a_later_event_leaves_earlier_states_unchanged(
    setting: Setting, scorer: UnifiedSSR, batch: Batch, count: int
) -> None:
    """Item t enters the item branch at step t + 1, query t the query branch at step t."""
    full = batch.select((batch.tasks > 0).all(1) & (batch.tasks[:, -5] == int(Task.SRC)))
    assert len(full)
    column, before = full.items.shape[1] - 5, states(scorer, full, count)
    counts = {"items": setting.dataset.n_items, "queries": setting.dataset.n_queries}
    for name, step in (("items", column + 1), ("queries", column)):
        ids = getattr(full, name).clone()
        ids[:, column] = other_ids(ids[:, column], counts[name])
        for old, new in zip(before, states(scorer, replace(full, **{name: ids}), count), strict=True):
            assert torch.equal(old[:, :step], new[:, :step])
            read = name == "items" or count == 2
            assert ((old[:, step:] != new[:, step:]).any(-1) == read).all()


def test_the_item_branch_stands_one_step_behind_the_queries(scorer: UnifiedSSR, batch: Batch) -> None:
    """Beside query t, and the current one, stands the item before it; the first step has none."""
    (items, queries), valid = scorer.branches(batch)
    for row in range(len(batch)):
        events = [i for i, task in enumerate(batch.tasks[row]) if task]
        assert valid[row].tolist() == [False] * (valid.shape[1] - len(events) - 1) + [True] * (len(events) + 1)
        before = [scorer.start / 32**0.5, *scorer.items(batch.items[row, events])]
        for step, vector in zip(range(-len(before), 0), before, strict=True):
            shared = scorer.users(batch.user[row]) + scorer.positions.weight[-step - 1]
            torch.testing.assert_close(items[row, step], 32**0.5 * vector + shared)
        asked = torch.cat([batch.queries[row, events], batch.query[row, None]])
        for step, query in zip(range(-len(asked), 0), asked, strict=True):
            words = scorer.query_words[query]
            shared = scorer.users(batch.user[row]) + scorer.positions.weight[-step - 1]
            mean = scorer.words(words[words > 0]).mean(0) if query else torch.zeros(32)
            torch.testing.assert_close(queries[row, step], 32**0.5 * mean + shared)


def test_every_layer_counts(setting: Setting, batch: Batch) -> None:
    """The released loop feeds all layers the input, so that changing the first of two layers changes nothing."""
    scorer = made(setting, layers=2)
    before = scores(scorer, batch)
    with torch.no_grad():
        scorer.encoder.blocks[0].feed[-1].weight.add_(torch.randn(64, 128))
    assert (scores(scorer, batch) != before).any(1).all()


def test_recommendation_reads_no_query(setting: Setting, scorer: UnifiedSSR, batch: Batch) -> None:
    other = replace(batch, queries=other_ids(batch.queries, setting.dataset.n_queries))
    same = (scores(scorer, other) == scores(scorer, batch)).all(1)
    searched = ((batch.queries > 0).any(1)) & (batch.task == int(Task.SRC))
    assert torch.equal(same, ~searched)


def test_search_mixes_the_branches_within_bounds(setting: Setting, scorer: UnifiedSSR, batch: Batch) -> None:
    search = batch.select(batch.task == int(Task.SRC))
    assert scorer.item_share.item() == pytest.approx(0.5)
    other = setting.build()
    parts = {}
    for value, share in ((-100.0, 0.1), (100.0, 0.9)):
        with torch.no_grad():
            other.mixture.fill_(value)
        assert other.item_share.item() == pytest.approx(share)
        parts[share] = scores(other, search)
    torch.testing.assert_close(scores(scorer, search), (parts[0.1] + parts[0.9]) / 2)
    assert not torch.allclose(parts[0.1], parts[0.9])


def test_windows_start_as_segments_and_have_soft_edges() -> None:
    windows = Windows(3, 2, softness=1e-3)
    x = torch.randn(3, 6, 3)
    valid = torch.tensor([[1, 1, 1, 1, 1, 1], [0, 0, 1, 1, 1, 1], [0, 0, 0, 0, 0, 0]]).bool()
    means, members = windows(x, valid)
    torch.testing.assert_close(means[0], torch.stack([x[0, :3].mean(0), x[0, 3:].mean(0)]))
    torch.testing.assert_close(means[1], torch.stack([x[1, 2:4].mean(0), x[1, 4:].mean(0)]))
    assert not means[2].any() and not members[~valid].any()
    soft = Windows(3, 2, softness=0.5)
    with torch.no_grad():
        soft.shape.weight.copy_(torch.tensor([[0.3, -0.2, 0.1], [0.2, 0.4, -0.3]]))
    means, members = soft(x, valid)
    for k in range(2):
        segment = x[1, 2:][2 * k : 2 * k + 2].mean(0)
        center = 2 * (k + 0.5 + torch.tanh(soft.shape.weight[0] @ segment))
        half = torch.relu(1 + soft.shape.weight[1] @ segment)
        chances = torch.stack([torch.sigmoid((half - (t + 0.5 - center).abs()) / 0.5) for t in range(4)])
        torch.testing.assert_close(members[1, 2:, k], chances)
        torch.testing.assert_close(means[1, k], (chances.unsqueeze(1) * x[1, 2:]).sum(0) / chances.sum())


def test_the_ranking_loss_moves_the_windows(setting: Setting) -> None:
    scorer = setting.build()
    scorer.losses(setting.training_batch(scorer, 16))["rec"].backward()
    assert scorer.windows.shape.weight.grad.abs().sum(1).gt(0).all()


def test_intent_loss_parts_neighbors_and_joins_branches() -> None:
    p, q = torch.randn(2, 3, 4), torch.randn(2, 3, 4)

    def cos(a: Tensor, b: Tensor) -> Tensor:
        return (a @ b) / (a.norm() * b.norm())

    for row, found in enumerate(intent_loss([p, q])):
        parted = sum(cos(v[row, k], v[row, k + 1]).abs() / 2 for v in (p, q) for k in range(2))
        joined = sum(cos(p[row, k], q[row, k]) / 3 for k in range(3))
        torch.testing.assert_close(found, parted - joined)
    for row, found in enumerate(intent_loss([p])):
        torch.testing.assert_close(found, sum(cos(p[row, k], p[row, k + 1]).abs() / 2 for k in range(2)))


def test_loss_terms_follow_the_config(setting: Setting) -> None:
    plain, heavy = made(setting, intent_weight=0.0), made(setting, search_weight=0.5, intent_weight=0.2)
    batch = setting.training_batch(plain, 24)
    terms, weighted = plain.losses(batch), heavy.losses(batch)
    assert set(terms) == {"rec", "src"}
    torch.testing.assert_close(weighted["src"], 0.5 * terms["src"])
    torch.testing.assert_close(weighted["intent"], 2 * made(setting).losses(batch)["intent"])
