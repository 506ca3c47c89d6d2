"""USER."""

from __future__ import annotations

from dataclasses import replace

import pytest
import torch

from tests.contract import ScorerContract, Setting, other_ids, scores
from unisr.data.batches import Batch
from unisr.data.schema import Dataset, Task
from unisr.models.base import build
from unisr.models.joint.user import USER, ClickedQuery, USERConfig


class TestUSER(ScorerContract):
    method = "USER"


@pytest.fixture(scope="module")
def setting(world: Dataset) -> Setting:
    return Setting(world, USER)


@pytest.fixture(scope="module")
def scorer(setting: Setting) -> USER:
    return setting.build()


@pytest.fixture(scope="module")
def batch(setting: Setting, scorer: USER) -> Batch:
    return setting.batch(scorer)


def made(setting: Setting, **config: float) -> USER:
    return build(USER, USERConfig.model_validate(config), setting.corpus, seed=0).eval()


def test_swapping_the_slot_swaps_the_task(setting: Setting, batch: Batch) -> None:
    """A recommendation row whose user's vector is a query's encoding scores as the search row of that query."""
    scorer = made(setting)
    search = batch.select(batch.task == int(Task.SRC))
    recommend = replace(search, task=torch.full_like(search.task, int(Task.REC)), query=torch.zeros_like(search.query))
    assert not torch.allclose(scores(scorer, recommend), scores(scorer, search))
    _, slot = scorer.read(search)
    with torch.no_grad():
        for user, vector in zip(search.user, slot, strict=True):
            scorer.users.weight[user] = vector
    assert len(search.user.unique()) == len(search)
    torch.testing.assert_close(scores(scorer, recommend), scores(scorer, search))


def test_the_user_is_read_in_recommendation_and_the_query_in_search(
    setting: Setting, scorer: USER, batch: Batch
) -> None:
    rec, same = batch.task == int(Task.REC), scores(scorer, batch)
    other_user = scores(scorer, replace(batch, user=other_ids(batch.user, setting.dataset.n_users)))
    other_query = scores(scorer, replace(batch, query=batch.query % setting.dataset.n_queries + 1))
    for found, rows in ((other_user, rec), (other_query, ~rec)):
        assert ((found != same).all(1) == rows).all()


def test_intents_see_their_own_events(setting: Setting, batch: Batch) -> None:
    """Short: the latest n events; long: all before them; events of a past session see one another alone."""
    scorer = made(setting, session=3, rec_history=5, src_history=5)
    events, slot, items = torch.randn(1, 8, 64), torch.randn(1, 64), torch.randn(1, 2, 64)
    valid = torch.ones(1, 8, dtype=torch.bool)
    encoded: list[torch.Tensor] = []
    scorer.past.register_forward_pre_hook(lambda _, given: encoded.append(given[0]))
    with torch.no_grad():
        short, long, _ = scorer.intents(events, valid, slot, items)
        for column in range(8):
            changed = events.clone()
            changed[0, column] = torch.randn(64)
            other_short, other_long, _ = scorer.intents(changed, valid, slot, items)
            current = column >= 5
            assert torch.equal(other_short, short) != current
            assert torch.equal(other_long, long) == current
            # Eight events and one padded in front: sessions are columns 0-1, 2-4, 5-7; the history has the first two.
            moved = (encoded[-1] != encoded[0]).any(-1)[0, 1:6]
            assert moved.tolist() == [not current and (i < 2) == (column < 2) for i in range(5)]


def test_a_clicked_item_weighs_the_words_of_its_query() -> None:
    torch.manual_seed(0)
    node = ClickedQuery(4)
    words, items = torch.randn(2, 3, 4), torch.randn(2, 4)
    valid = torch.tensor([[True, True, False], [False, False, False]])
    found = node(words, valid, items)
    logits = [torch.tanh(word @ node.affinity.weight @ items[0]) for word in words[0, :2]]
    weights = torch.stack(logits).exp() / torch.stack(logits).exp().sum()
    read = weights[0] * words[0, 0] + weights[1] * words[0, 1]
    torch.testing.assert_close(found[0], node.join(torch.cat([read, items[0]])))
    torch.testing.assert_close(found[1], node.join(torch.cat([torch.zeros(4), items[1]])))


def test_scores_are_weighted_cosines_not_squashed(setting: Setting, scorer: USER, batch: Batch) -> None:
    with torch.no_grad():
        items = scorer.items(batch.candidates)
        short, long, _ = scorer.intents(*scorer._inputs(batch), items)
    cosine = torch.nn.functional.cosine_similarity
    expected = 5 * cosine(short[:, None], items, dim=-1) + 5 * cosine(long[:, None], items, dim=-1)
    torch.testing.assert_close(scores(scorer, batch), expected)


def test_loss_is_softmax_cross_entropy_per_task(setting: Setting, scorer: USER) -> None:
    batch = setting.training_batch(scorer, 24)
    chances = scores(scorer, batch).softmax(1)[batch.labels > 0]
    found = scorer.losses(batch)
    for name, task in (("rec", Task.REC), ("src", Task.SRC)):
        torch.testing.assert_close(found[name], -chances[batch.task == int(task)].log().mean())


def test_contextual_candidates_depend_on_history_and_not_on_one_another(setting: Setting, batch: Batch) -> None:
    scorer = made(setting, contextual=True, session=3)
    assert len(scorer.cosines) == 4
    found = scores(scorer, batch)
    alone = [scores(scorer, replace(batch, candidates=batch.candidates[:, [c]])) for c in range(3)]
    torch.testing.assert_close(found[:, :3], torch.cat(alone, 1))
    events, valid, slot = scorer._inputs(batch)
    items = scorer.items(batch.candidates)
    same = scorer.intents(events, valid, slot, items)
    other = scorer.intents(events.flip(1), valid, slot, items)
    rows = valid[:, :-3].any(1)
    assert rows.any()
    assert (same[2] != other[2]).flatten(1).any(1)[rows].all()
    # The intents are those of the model without contextual candidates.
    plain = made(setting, session=3)
    plain.load_state_dict({k: v for k, v in scorer.state_dict().items() if k != "cosines"}, strict=False)
    for mine, theirs in zip(same[:2], plain.intents(events, valid, slot, items)[:2], strict=True):
        torch.testing.assert_close(mine, theirs)
