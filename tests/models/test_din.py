"""DIN."""

from __future__ import annotations

from dataclasses import replace

import pytest
import torch
import torch.nn.functional as F

from tests.contract import ScorerContract, Setting
from unisr.data.schema import Dataset
from unisr.models.base import build
from unisr.models.recommendation import DIN, DINConfig
from unisr.random import generator


class TestDIN(ScorerContract):
    method = "DIN"


@pytest.fixture(scope="module")
def setting(world: Dataset) -> Setting:
    return Setting(world, DIN)


def test_the_order_of_events_and_the_place_of_padding_do_not_matter(setting: Setting) -> None:
    scorer = setting.build()
    batch = setting.batch(scorer)
    columns = {name: F.pad(getattr(batch, name), (0, 4)) for name in ("items", "tasks", "queries")}
    order = torch.from_numpy(generator(0, "order").permutation(columns["items"].shape[1]))
    shuffled = replace(batch, **{name: column[:, order] for name, column in columns.items()})
    torch.testing.assert_close(scorer.score(shuffled), scorer.score(batch), rtol=1e-5, atol=1e-5)


@pytest.mark.parametrize("activation, apply", [("prelu", lambda x: F.prelu(x, torch.tensor(0.25))),
                                               ("sigmoid", torch.sigmoid)])  # fmt: skip
def test_the_unit_is_the_network_over_the_joined_vectors(setting: Setting, activation: str, apply) -> None:
    unit = build(DIN, DINConfig(width=8, activation=activation), setting.corpus, seed=0).unit
    joined, bias = torch.randn(80, 32), torch.randn(80)
    of_c, of_h, of_difference, of_product = joined.split(8, dim=1)
    with torch.no_grad():
        unit.candidate.weight.copy_(of_c + of_difference)
        unit.candidate.bias.copy_(bias)
        unit.event.weight.copy_(of_h - of_difference)
        unit.product.weight.copy_(of_product)
    candidates, history = torch.randn(2, 3, 8), torch.randn(2, 5, 8)
    valid = torch.tensor([[False, False, True, True, True], [True, False, True, False, True]])
    found = unit(candidates, history, valid)
    assert found.shape == (2, 3, 5)
    second, last = unit.rest[1], unit.rest[3]
    for b in range(2):
        for c in candidates[b]:
            logits = []
            for h in history[b][valid[b]]:
                hidden = apply(joined @ torch.cat([c, h, c - h, c * h]) + bias)
                logits.append(last.weight[0] @ apply(second.weight @ hidden + second.bias) / 8**0.5)
            weights = found[b, (candidates[b] == c).all(1)][0]
            torch.testing.assert_close(weights[valid[b]], torch.stack(logits).softmax(0))
            assert not weights[~valid[b]].any()


def test_the_item_bias_is_added_to_its_candidate_alone(setting: Setting) -> None:
    scorer = setting.build()
    batch = setting.batch(scorer)
    before = scorer.score(batch)
    item = int(batch.candidates[0, 0])
    with torch.no_grad():
        scorer.bias[item] += 2.0
    torch.testing.assert_close(scorer.score(batch) - before, 2.0 * (batch.candidates == item), rtol=1e-4, atol=1e-4)
