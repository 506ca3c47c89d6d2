"""UniSAR."""

from __future__ import annotations

import pytest
import torch
from torch import Tensor

from tests.contract import ScorerContract, Setting
from unisr.data.batches import Batch
from unisr.data.schema import Dataset, Task
from unisr.models.base import build
from unisr.models.joint.unisar import UniSAR, UniSARConfig, cross_type


class TestUniSAR(ScorerContract):
    method = "UniSAR"


@pytest.fixture(scope="module")
def setting(world: Dataset) -> Setting:
    return Setting(world, UniSAR)


@pytest.fixture(scope="module")
def scorer(setting: Setting) -> UniSAR:
    return setting.build()


@pytest.fixture(scope="module")
def batch(setting: Setting, scorer: UniSAR) -> Batch:
    return setting.batch(scorer)


def made(setting: Setting, **config: float) -> UniSAR:
    return build(UniSAR, UniSARConfig.model_validate(config), setting.corpus, seed=0).eval()


def changed_views(scorer: UniSAR, batch: Batch, task: Task) -> dict[str, tuple[Tensor, Tensor]]:
    """The difference in (cross, own) views of each side when the oldest event of one type is another item."""
    column = (batch.tasks == int(task)).long().argmax(1)
    items = batch.items.clone()
    rows = torch.arange(len(items))
    items[rows, column] = items[rows, column] % scorer.corpus.n_items + 1
    other = Batch(**{**vars(batch), "items": items})
    before, after = scorer.encode(batch).views, scorer.encode(other).views
    return {n: (before[n][0] - after[n][0], before[n][1] - after[n][1]) for n in before}


@pytest.mark.parametrize("task, own, other", [(Task.REC, "rec", "src"), (Task.SRC, "src", "rec")])
def test_global_encoder_sees_the_other_type_only(
    scorer: UniSAR, batch: Batch, task: Task, own: str, other: str
) -> None:
    rows = (batch.tasks == 1).any(1) & (batch.tasks == 2).any(1)
    assert rows.any()
    views = changed_views(scorer, batch.select(rows), task)
    # Same type: only the changed event's own residual moves, no other position of that type.
    moved = views[own][0].abs().amax(-1) > 1e-6
    assert (moved.sum(1) == 1).all()
    # Other type: every position of it may see the changed event, and the same-type encoder of it may not.
    assert (views[other][0].abs().amax((1, 2)) > 1e-6).all()
    assert (views[other][1] == 0).all()
    assert (views[own][1].abs().amax((1, 2)) > 1e-6).all()


def test_cross_type_pairs_differ_in_type() -> None:
    allowed = cross_type(torch.tensor([[0, 1, 2, 2]]))[0]
    assert allowed[1].tolist() == [True, False, True, True]
    assert allowed[3].tolist() == [True, True, False, False]


def test_loss_terms_follow_the_config(setting: Setting) -> None:
    plain = made(setting, query_item_weight=0.0, alignment_weight=0.0)
    batch = setting.training_batch(plain, 32)
    assert set(plain.losses(batch)) == {"rec", "src"}
    heavy = made(setting, query_item_weight=0.0, alignment_weight=0.0, search_weight=0.1)
    terms, light = plain.losses(batch), heavy.losses(batch)
    torch.testing.assert_close(light["src"], 0.1 * terms["src"])
    torch.testing.assert_close(light["rec"], terms["rec"])
    assert set(made(setting).losses(batch)) == {"rec", "src", "query_item", "alignment"}


def test_query_item_loss_equals_the_mean_over_all_pairs(setting: Setting) -> None:
    scorer = made(setting, query_item_negatives=5)
    batch = setting.training_batch(scorer, 8)
    torch.manual_seed(1)
    found = scorer._query_item(batch)
    torch.manual_seed(1)
    other_items = torch.randint(1, setting.dataset.n_items + 1, (5,))
    other_queries = torch.randint(1, setting.dataset.n_queries + 1, (5,))
    searched = batch.tasks == 2
    terms = []
    for query, item in zip(batch.queries[searched], batch.items[searched], strict=True):
        q, i = scorer.queries(query[None]), scorer.items(item[None])
        to_items = scorer.contrast(q, scorer.items(torch.cat([item[None], other_items[other_items != item]])))
        to_queries = scorer.contrast(scorer.queries(torch.cat([query[None], other_queries[other_queries != query]])), i)
        terms.append(-(to_items[0].log_softmax(0)[0] + to_queries[:, 0].log_softmax(0)[0]) / 2)
    torch.testing.assert_close(found, torch.stack(terms).mean())


def test_alignment_skips_rows_with_an_empty_side(setting: Setting) -> None:
    scorer = made(setting)
    batch = setting.training_batch(scorer, 16)
    full = (batch.tasks == 1).any(1) & (batch.tasks == 2).any(1)
    assert full.sum() > 2
    empty = torch.zeros_like(batch.tasks)
    lonely = Batch(**{**vars(batch), "tasks": empty, "items": empty, "queries": empty})
    assert scorer._alignment(scorer.encode(lonely)) == 0
    both = scorer._alignment(scorer.encode(batch))
    torch.testing.assert_close(scorer._alignment(scorer.encode(batch.select(full))), both)


def test_recommendation_and_search_have_their_own_heads(scorer: UniSAR, batch: Batch) -> None:
    other = Batch(**{**vars(batch), "task": 3 - batch.task})
    assert not torch.allclose(scorer.score(other), scorer.score(batch))
