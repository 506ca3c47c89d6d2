"""Query-SeqRec."""

from __future__ import annotations

from dataclasses import replace

import pytest
import torch
from torch import Tensor

from tests.contract import ScorerContract, Setting
from unisr.data.batches import SequenceBatch
from unisr.data.schema import Dataset
from unisr.models.base import build
from unisr.models.joint import QuerySeqRec, QuerySeqRecConfig
from unisr.models.joint.query_seqrec import first_clicks, partners
from unisr.models.recommendation import SASRec, SASRecConfig


class TestQuerySeqRec(ScorerContract):
    method = "Query-SeqRec"


@pytest.fixture(scope="module")
def setting(world: Dataset) -> Setting:
    return Setting(world, QuerySeqRec)


def made(setting: Setting, **config: object) -> QuerySeqRec:
    return build(QuerySeqRec, QuerySeqRecConfig.model_validate(config), setting.corpus, seed=0).eval()


def windows(tasks: list[list[int]], items: list[list[int]], queries: list[list[int]]) -> SequenceBatch:
    none = torch.zeros(len(tasks), 1, dtype=torch.long)
    history = [torch.tensor(x) for x in (items, tasks, queries)]
    return SequenceBatch(none[:, 0] + 1, *history, targets=none, states=none - 1)


def test_without_searches_it_is_sasrec(setting: Setting) -> None:
    scorer = made(setting, p_item=0.0, p_query=0.0, dropout=0.0).train()
    batch = setting.training_batch(scorer, 16)
    recommended = batch.tasks == 1
    # Searches in the middle of a window leave gaps, so the items are moved to the right of them.
    order = recommended.long().argsort(dim=1, stable=True)
    items, tasks = ((x * recommended).gather(1, order) for x in (batch.items, batch.tasks))
    kept = recommended.gather(1, batch.states.clamp(min=0)) & (batch.targets > 0)
    moved = order.argsort(1).gather(1, batch.states.clamp(min=0))
    plain = replace(
        batch,
        items=items,
        tasks=tasks,
        queries=torch.zeros_like(items),
        targets=batch.targets * kept,
        states=torch.where(kept, moved, -1),
    )
    sasrec = build(SASRec, SASRecConfig(heads=2, dropout=0.0, history=200), setting.corpus, seed=1).train()
    torch.nn.init.zeros_(scorer.types.weight)
    sasrec.load_state_dict({k: v for k, v in scorer.state_dict().items() if k in sasrec.state_dict()})
    assert kept.sum() > 10
    losses = scorer.losses(plain)
    torch.testing.assert_close(losses["rec"], sasrec.losses(plain)["rec"])
    assert losses["clicks"] == 0
    torch.testing.assert_close(scorer.states(plain), sasrec.states(plain))


def test_a_search_is_the_token_of_its_query_and_then_of_its_item(setting: Setting) -> None:
    scorer = made(setting, layers=0)
    batch = windows([[0, 1, 2, 1], [0, 0, 0, 2]], [[0, 3, 5, 9], [0, 0, 0, 4]], [[0, 0, 7, 0], [0, 0, 0, 8]])
    states, columns = scorer.token_states(batch)

    def token(vector: Tensor, kind: int, age: int) -> Tensor:
        return scorer.encoder.last(8 * vector + scorer.types.weight[kind] + scorer.encoder.positions.weight[age])

    def query(number: int) -> Tensor:
        words = setting.corpus.query_words[number]
        return scorer.words.weight[words[words > 0]].mean(0)

    item = scorer.items.weight
    first = [token(item[3], 1, 3), token(query(7), 0, 2), token(item[5], 1, 1), token(item[9], 1, 0)]
    second = [torch.zeros(64), torch.zeros(64), token(query(8), 0, 1), token(item[4], 1, 0)]
    torch.testing.assert_close(states, torch.stack([torch.stack(first), torch.stack(second)]))
    assert columns[0, 1:, 1].tolist() == [0, 2, 3] and columns[0, 2, 0] == 1
    assert columns[1, 3].tolist() == [2, 3]
    torch.testing.assert_close(scorer.states(batch)[0], torch.stack([torch.zeros(64), first[0], *first[2:]]))


def test_states_do_not_see_later_tokens(setting: Setting) -> None:
    scorer = setting.build()
    batch = setting.training_batch(scorer, 8)
    items, queries = batch.items.clone(), batch.queries.clone()
    items[:, 6:] = torch.where(items[:, 6:] > 0, items[:, 6:] % setting.dataset.n_items + 1, 0)
    queries[:, 6:] = torch.where(queries[:, 6:] > 0, queries[:, 6:] % setting.dataset.n_queries + 1, 0)
    before, after = scorer.states(batch), scorer.states(replace(batch, items=items, queries=queries))
    torch.testing.assert_close(after[:, :6], before[:, :6])
    assert not torch.allclose(after[:, 6:], before[:, 6:])


def test_loss_is_the_mean_over_recommended_and_clicked_targets(setting: Setting) -> None:
    scorer = setting.build()
    batch = setting.training_batch(scorer, 8)
    states, columns = scorer.token_states(batch)
    terms: dict[str, list[Tensor]] = {"rec": [], "clicks": []}

    def surprise(state: Tensor, item: Tensor) -> Tensor:
        return -(scorer.items.weight[1:] @ state).log_softmax(0)[item - 1]

    for row in range(len(batch)):
        for target, at in zip(batch.targets[row], batch.states[row], strict=True):
            if target > 0:
                terms["rec"].append(surprise(states[row, columns[row, at, 1]], target))
        for event in range(batch.items.shape[1]):
            if batch.tasks[row, event] == 2 and batch.items[row, event] not in batch.items[row, :event]:
                terms["clicks"].append(surprise(states[row, columns[row, event, 0]], batch.items[row, event]))
    assert terms["rec"] and terms["clicks"]
    total = sum(map(len, terms.values()))
    losses = scorer.losses(batch)
    for name, parts in terms.items():
        torch.testing.assert_close(losses[name], torch.stack(parts).sum() / total)
    alone = made(setting, predict_clicks=False)
    assert set(alone.losses(batch)) == {"rec"}


def test_clicks_on_items_of_the_window_are_no_targets() -> None:
    batch = windows([[0, 1, 2, 2, 2, 1]], [[0, 3, 3, 4, 4, 4]], [[0, 0, 7, 7, 8, 0]])
    assert first_clicks(batch).tolist() == [[False, False, False, True, False, False]]


def test_partners_are_drawn_among_the_pairs_of_the_key() -> None:
    torch.manual_seed(0)
    keys, values = torch.tensor([5, 2, 5, 9]), torch.tensor([50, 20, 51, 90])
    drawn = partners(keys, values, torch.tensor([5, 2, 1, 9, 99]).repeat(40, 1))
    assert [set(column.tolist()) for column in drawn.T] == [{50, 51}, {20}, {0}, {90}, {0}]
    assert not partners(keys[:0], values[:0], torch.tensor([5, 2])).any()


def test_augmentation_replaces_inputs_in_training_only(setting: Setting) -> None:
    scorer = made(setting, p_item=1.0, p_query=1.0, p_graph=1.0)
    batch = windows([[1, 2, 2, 2]], [[6, 6, 4, 8]], [[0, 3, 3, 9]])
    assert scorer.augmented(batch) is batch
    scorer.train()
    torch.manual_seed(0)
    drawn = [scorer.augmented(batch) for _ in range(60)]
    # The graph: query 3 led to items 6 and 4, query 9 to item 8.
    assert {tuple(d.queries[0].tolist()) for d in drawn} == {(0, 3, 3, 9)}
    assert {d.items[0, 0].item() for d in drawn} == {4, 6} == {d.items[0, 1].item() for d in drawn}
    assert {d.items[0, 3].item() for d in drawn} == {8}
    assert torch.equal(drawn[0].targets, batch.targets)


def test_shares_of_the_augmentation(setting: Setting) -> None:
    batch = windows([[0, 1, 2, 1]] * 2000, [[0, 3, 5, 9]] * 2000, [[0, 0, 7, 0]] * 2000)
    scorer = made(setting, p_item=0.4, p_query=0.0, p_graph=0.0).train()
    torch.manual_seed(0)
    found = scorer.augmented(batch)
    assert torch.equal(found.queries, batch.queries) and not found.items[:, 0].any()
    # A uniform item is the same one now and then.
    expected = 0.4 * (1 - 1 / setting.dataset.n_items)
    assert (found.items != batch.items)[:, 1:].float().mean().item() == pytest.approx(expected, abs=0.02)
    assert found.items.max() == setting.dataset.n_items
