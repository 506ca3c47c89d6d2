"""AEM."""

from __future__ import annotations

import pytest
import torch
from torch import Tensor, nn

from tests.contract import ScorerContract, Setting, changed
from unisr.data.batches import Batch
from unisr.data.schema import Dataset
from unisr.errors import ConfigError
from unisr.models.base import build
from unisr.models.search import AEM, QEM, ZAM, AEMConfig, QEMConfig
from unisr.random import generator


class TestAEM(ScorerContract):
    method = "AEM"


@pytest.fixture(scope="module")
def setting(world: Dataset) -> Setting:
    return Setting(world, AEM)


def made(setting: Setting, kind: type[AEM] = AEM, **config: object) -> AEM:
    """With weights so large that attention is far from even."""
    scorer = build(kind, AEMConfig.model_validate(config), setting.corpus, seed=0).eval()
    for parameter in scorer.parameters():
        nn.init.normal_(parameter, std=0.5)
    return scorer


def unread(batch: Batch) -> Batch:
    none = torch.zeros_like(batch.items)
    return changed(batch, items=none, tasks=none, queries=none)


@torch.no_grad()
def torch_attention(scorer: AEM, batch: Batch, *, null_slot: bool) -> tuple[Tensor, Tensor]:
    """Torch's multi-head attention with the scorer's maps: what it reads [B, d] and its mean weights [B, L (+ 1)]."""
    width, heads = scorer.config.width, scorer.config.heads
    attention = nn.MultiheadAttention(width, heads, bias=False, add_zero_attn=null_slot, batch_first=True)
    maps = [scorer.asks.weight, scorer.keys.weight, scorer.values.weight]
    attention.load_state_dict({"in_proj_weight": torch.cat(maps), "out_proj.weight": scorer.out.weight})
    history = scorer.items(batch.items)
    query = scorer.queries(batch.query).unsqueeze(1)
    read, weights = attention(query, history, history, key_padding_mask=batch.tasks != 2)
    return read.squeeze(1), weights.squeeze(1)


@pytest.mark.parametrize("kind", [AEM, ZAM])
def test_attention_is_torch_multi_head_attention(setting: Setting, kind: type[AEM]) -> None:
    scorer = made(setting, kind)
    batch = setting.batch(scorer)
    batch = batch.select((batch.tasks == 2).any(1))
    assert len(batch)
    read, weights = torch_attention(scorer, batch, null_slot=kind.null_slot)
    torch.testing.assert_close(scorer.state(batch), scorer.queries(batch.query) + read, rtol=1e-4, atol=1e-4)
    null = weights[:, -1] if kind.null_slot else torch.zeros(len(batch))
    torch.testing.assert_close(scorer.null_weight(batch), null, rtol=1e-4, atol=1e-5)


@pytest.mark.parametrize("kind", [AEM, ZAM])
def test_without_history_it_scores_as_qem_with_the_same_tables(setting: Setting, kind: type[AEM]) -> None:
    scorer = made(setting, kind)
    qem = build(QEM, QEMConfig(), setting.corpus, seed=0).eval()
    qem.load_state_dict({k: v for k, v in scorer.state_dict().items() if k in qem.state_dict()})
    batch = setting.batch(scorer)
    torch.testing.assert_close(scorer.score(unread(batch)), qem.score(batch))
    assert not torch.allclose(scorer.score(batch), qem.score(batch))
    torch.testing.assert_close(scorer.null_weight(unread(batch)), torch.ones(len(batch)))


def test_permuting_the_history_leaves_scores_unchanged(setting: Setting) -> None:
    scorer = made(setting, history="merged")
    batch = setting.batch(scorer)
    order = torch.from_numpy(generator(0, "order").permutation(batch.items.shape[1]))
    moved = {name: getattr(batch, name)[:, order] for name in ("items", "tasks", "queries")}
    torch.testing.assert_close(scorer.score(changed(batch, **moved)), scorer.score(batch), rtol=1e-4, atol=1e-4)


def test_merged_history_reads_recommendation_events(setting: Setting) -> None:
    merged, search = made(setting, history="merged"), made(setting)
    assert merged.history_length == (20, 20) and search.history_length == (0, 20)
    batch = setting.batch(merged)
    other = torch.where(batch.tasks == 1, batch.items % setting.dataset.n_items + 1, batch.items)
    assert not torch.allclose(merged.score(changed(batch, items=other)), merged.score(batch))
    torch.testing.assert_close(search.score(changed(batch, items=other)), search.score(batch))


def test_heads_that_do_not_divide_the_width_are_refused(setting: Setting) -> None:
    with pytest.raises(ConfigError, match="heads"):
        build(AEM, AEMConfig(width=60), setting.corpus, seed=0)
