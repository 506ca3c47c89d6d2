"""JSR."""

from __future__ import annotations

import pytest
import torch

from tests.contract import ScorerContract, Setting
from unisr.data.schema import Dataset, Task
from unisr.models.base import build
from unisr.models.joint import JSR, JSRConfig


class TestJSR(ScorerContract):
    method = "JSR"


@pytest.fixture(scope="module")
def setting(world: Dataset) -> Setting:
    return Setting(world, JSR)


@pytest.mark.parametrize(
    "task, reached",
    [
        ("rec", {"items.weight", "users.weight", "heads.rec"}),
        ("src", {"items.weight", "queries.table.weight", "queries.weights", "heads.src"}),
    ],
)
def test_each_task_trains_the_items_and_its_own_side(setting: Setting, task: str, reached: set[str]) -> None:
    scorer = setting.build()
    scorer.losses(setting.training_batch(scorer, 64))[task].backward()
    moved = {name for name, p in scorer.named_parameters() if p.grad is not None and p.grad.any()}
    assert {name[:9] if name.startswith("heads") else name for name in moved} == reached


def test_search_reads_no_user_and_recommendation_no_query(setting: Setting) -> None:
    scorer = setting.build()
    batch = setting.batch(scorer)
    before = scorer.score(batch)
    searched = batch.task == int(Task.SRC)
    batch.user = torch.where(searched, batch.user % setting.dataset.n_users + 1, batch.user)
    batch.query = torch.where(searched, batch.query, 1)
    torch.testing.assert_close(scorer.score(batch), before)


def test_a_query_is_the_weighted_average_of_its_words(setting: Setting) -> None:
    scorer = setting.build()
    torch.nn.init.normal_(scorer.queries.weights)
    found = scorer.queries(torch.tensor([3, 0]))
    words = setting.corpus.query_words[3]
    words = words[words > 0]
    shares = scorer.queries.weights[words].exp()
    torch.testing.assert_close(found[0], (shares / shares.sum()) @ scorer.queries.table.weight[words])
    assert len(words) > 1 and not found[1].any()


def test_search_weight_scales_the_search_loss_alone(setting: Setting) -> None:
    plain, light = (build(JSR, JSRConfig(search_weight=w), setting.corpus, seed=0).eval() for w in (1.0, 0.1))
    batch = setting.training_batch(plain, 32)
    torch.testing.assert_close(light.losses(batch)["src"], 0.1 * plain.losses(batch)["src"])
    torch.testing.assert_close(light.losses(batch)["rec"], plain.losses(batch)["rec"])
