"""TIGER: contract, its ids, and that a beam as wide as the catalog returns it whole and in order."""

from __future__ import annotations

from pathlib import Path

import pytest
import torch
from safetensors.torch import load_model, save_model

from tests.contract import ScorerContract, Setting
from unisr.data.schema import Dataset
from unisr.models.base import build
from unisr.models.generative import TIGER, TIGERConfig
from unisr.models.recommendation import IDGenRec

AT_BUILD = "the ids are made of it when the method is built"


class TestTIGER(ScorerContract):
    method = "TIGER"
    not_in_batch = {"item text": AT_BUILD}
    overfit_steps = 100
    overfit_rate = 3e-3
    draws_targets = True


@pytest.fixture(scope="module")
def setting(world: Dataset) -> Setting:
    return Setting(world, TIGER)


@pytest.mark.parametrize("kind", ["kmeans", "rqvae", "atomic"])
def test_ids_are_unique_and_every_softmax_is_over_its_level(setting: Setting, kind: str) -> None:
    config = TIGERConfig(ids=kind, levels=2, codes=8)
    scorer = build(TIGER, config, setting.corpus, seed=0, tables=setting.tables).eval()
    assert len(scorer.id_tokens[1:].unique(dim=0)) == setting.dataset.n_items
    batch = setting.batch(scorer)
    with torch.inference_mode():
        states, mask = scorer.read(batch)
        whole = scorer.score_catalog(batch).exp().sum(1)
        sizes = [scorer.writer.level_logits(level, states).shape[-1] for level in range(len(scorer.levels))]
    assert tuple(sizes) == scorer.ids.sizes
    # Ids of no item hold the rest of the probability.
    assert (whole <= 1 + 1e-4).all() and (kind != "atomic" or torch.allclose(whole, torch.ones(len(batch)), atol=1e-4))


@pytest.mark.parametrize("method", [TIGER, IDGenRec])
def test_a_beam_as_wide_as_the_catalog_returns_every_item_once_in_exact_order(world: Dataset, method: type) -> None:
    setting = Setting(world, method)
    scorer, count = setting.build(), world.n_items
    batch = setting.batch(scorer, rows=setting.targets()[:3])
    with torch.inference_mode():
        exact = scorer.score_catalog(batch)
        items, scores = scorer.generate(batch, count, width=count)
        few, _ = scorer.generate(batch, 5, width=count)
    assert torch.equal(items.sort(1).values, torch.arange(1, count + 1).expand(3, -1))
    torch.testing.assert_close(scores, exact.gather(1, items - 1))
    assert (scores.diff(dim=1) <= 0).all() and torch.equal(few, items[:, :5])


def test_loaded_weights_bring_their_ids(setting: Setting, tmp_path: Path) -> None:
    """As when the fit of the ids ends elsewhere on another machine."""
    scorer, other = setting.build(), setting.build()
    items = torch.arange(len(other.id_tokens))
    items[[1, 2]] = items[[2, 1]]
    other.id_tokens.copy_(other.id_tokens[items])
    other._plant()
    batch = setting.batch(scorer)
    assert not torch.equal(scorer.score(batch), other.score(batch))
    save_model(other, str(tmp_path / "w.safetensors"))
    load_model(scorer, tmp_path / "w.safetensors")
    assert torch.equal(scorer.score(batch), other.score(batch))


def test_user_tokens_are_shared_by_hash(setting: Setting) -> None:
    scorer = build(TIGER, TIGERConfig(user_tokens=7, codes=8), setting.corpus, seed=0, tables=setting.tables)
    assert scorer.prefix(torch.tensor([0, 6, 7, 13])).flatten().tolist() == [1, 7, 1, 7]
    assert scorer.id_tokens[1:].min() == 8
