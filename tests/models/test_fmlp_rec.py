"""FMLP-Rec."""

from __future__ import annotations

from dataclasses import replace

import pytest
import torch
import torch.nn.functional as F

from tests.contract import ScorerContract, Setting
from unisr.data.batches import Batch
from unisr.data.schema import Dataset
from unisr.models.base import build
from unisr.models.recommendation import FMLPRec, FMLPRecConfig
from unisr.models.recommendation.fmlp_rec import FilterLayer

LENGTHS = (2, 7, 8)


class TestFMLPRec(ScorerContract):
    method = "FMLP-Rec"


@pytest.fixture(scope="module")
def setting(world: Dataset) -> Setting:
    return Setting(world, FMLPRec)


@pytest.mark.parametrize("length", LENGTHS)
def test_a_spectrum_of_ones_is_the_identity(length: int) -> None:
    layer, x = FilterLayer(length, 4), torch.randn(3, length, 4)
    with torch.no_grad():
        layer.spectrum.copy_(torch.tensor([1.0, 0.0]).expand_as(layer.spectrum))
        for p in layer.feed.parameters():
            p.zero_()
    assert layer.filtered(x).shape == x.shape
    torch.testing.assert_close(layer.filtered(x), x)
    twice = F.layer_norm(2 * x, (4,))
    torch.testing.assert_close(layer(x), F.layer_norm(twice, (4,)))


@pytest.mark.parametrize("length", LENGTHS)
def test_filtering_is_a_circular_convolution(length: int) -> None:
    layer, x = FilterLayer(length, 4), torch.randn(3, length, 4)
    impulse = torch.zeros(1, length, 4)
    impulse[:, 0] = 1.0
    kernel = layer.filtered(impulse)[0]
    expected = torch.zeros_like(x)
    for t in range(length):
        for s in range(length):
            expected[:, t] += kernel[(t - s) % length] * x[:, s]
    torch.testing.assert_close(layer.filtered(x), expected)


@pytest.mark.parametrize("length", LENGTHS)
def test_the_last_position_alone_is_that_of_all(length: int) -> None:
    layer, x = FilterLayer(length, 4), torch.randn(3, length, 4)
    torch.testing.assert_close(layer(x, last=True), layer(x)[:, -1:])


def test_shorter_windows_are_padded_to_the_fixed_length(setting: Setting) -> None:
    scorer = build(FMLPRec, FMLPRecConfig(history=9), setting.corpus, seed=0).eval()
    batch = setting.batch(scorer)
    short = _cut(batch, 4)
    long = replace(short, items=F.pad(short.items, (5, 0)), tasks=F.pad(short.tasks, (5, 0)))
    torch.testing.assert_close(scorer.score(short), scorer.score(long))
    items = torch.arange(1, 13).expand(len(batch), -1)
    events = replace(batch, items=items, tasks=torch.ones_like(items))
    torch.testing.assert_close(scorer.score(events), scorer.score(_cut(events, 9)))
    assert not torch.allclose(scorer.score(events), scorer.score(_cut(events, 8)))


def test_softmax_loss_is_the_cross_entropy_of_the_catalog_scores(setting: Setting) -> None:
    scorer = setting.build()
    batch = setting.training_batch(scorer, 8)
    everything = torch.arange(1, setting.dataset.n_items + 1).expand(8, -1)
    chances = scorer.score(replace(batch, candidates=everything)).log_softmax(1)
    positive = batch.candidates[batch.labels == 1]
    expected = -torch.stack([chances[row, item - 1] for row, item in enumerate(positive)]).mean()
    torch.testing.assert_close(scorer.losses(batch)["rec"], expected)


def test_bce_loss_reads_the_candidates(setting: Setting) -> None:
    scorer = build(FMLPRec, FMLPRecConfig(loss="bce"), setting.corpus, seed=0).eval()
    batch = setting.training_batch(scorer, 8)
    scores = scorer.score(batch)
    expected = torch.where(batch.labels == 1, -F.logsigmoid(scores), -F.logsigmoid(-scores)).mean()
    torch.testing.assert_close(scorer.losses(batch)["rec"], expected)


def _cut(batch: Batch, length: int) -> Batch:
    return replace(batch, items=batch.items[:, -length:], tasks=batch.tasks[:, -length:])
