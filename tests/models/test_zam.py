"""ZAM; what it shares with AEM is tested in test_aem.py."""

from __future__ import annotations

import pytest
import torch

from tests.contract import ScorerContract, Setting
from unisr.data.schema import Dataset
from unisr.models.search import ZAM


class TestZAM(ScorerContract):
    method = "ZAM"


@pytest.fixture(scope="module")
def setting(world: Dataset) -> Setting:
    return Setting(world, ZAM)


def test_even_attention_gives_the_null_slot_one_share_of_the_events(setting: Setting) -> None:
    scorer = setting.build()
    torch.nn.init.zeros_(scorer.asks.weight)
    batch = setting.batch(scorer)
    events = (batch.tasks == 2).sum(1)
    assert len(events.unique()) > 1
    torch.testing.assert_close(scorer.null_weight(batch), 1 / (1 + events.float()))


def test_attention_on_the_history_can_vanish(setting: Setting) -> None:
    scorer = setting.build()
    batch = setting.batch(scorer)
    with torch.no_grad():
        # Keys that oppose every query: all history logits far below the null slot's 0.
        scorer.queries.map.weight.zero_()
        scorer.queries.map.bias.fill_(1.0)
        scorer.items.weight[1:] = 1.0
        scorer.asks.weight.copy_(torch.eye(64))
        scorer.keys.weight.copy_(-100 * torch.eye(64))
    torch.testing.assert_close(scorer.null_weight(batch), torch.ones(len(batch)))
    torch.testing.assert_close(scorer.state(batch), scorer.queries(batch.query))
