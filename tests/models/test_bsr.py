"""BSR: the contract; ranking against the restricted full softmax; inputs; backbones."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path

import pytest
import torch

from tests.contract import ScorerContract, Setting, scores
from unisr.data.schema import Dataset, Split, Task
from unisr.models.backbone import BackboneConfig
from unisr.models.base import build
from unisr.models.joint.bsr import BSR, BSRConfig

ONE_KEY = "the decoder reads one token: its self-attention has one key, of weight 1"


class TestBSR(ScorerContract):
    method = "BSR"
    no_gradient = {
        f"backbone.model.decoder.block.{layer}.layer.0.SelfAttention.{part}.weight": ONE_KEY
        for layer, part in [(0, "q"), (0, "k"), (1, "q"), (1, "k"), (0, "relative_attention_bias")]
    }


@pytest.fixture(scope="module")
def setting(world: Dataset) -> Setting:
    return Setting(world, BSR)


@pytest.fixture(scope="module")
def scorer(setting: Setting) -> BSR:
    return setting.build()


@pytest.mark.parametrize("task", ["rec", "src"])
def test_candidates_are_ordered_as_in_the_restricted_full_softmax(setting: Setting, scorer: BSR, task: str) -> None:
    batch = setting.batch(scorer, rows=setting.dataset.rows(Split.TEST, Task[task.upper()])[:8])
    with torch.inference_mode():
        scorer.bias.normal_()
        full = scorer.catalog_logits(scorer.states(batch, task)).softmax(-1)
        found = scorer.score(batch)
        scorer.bias.zero_()
    torch.testing.assert_close(full.sum(1), torch.ones(len(batch)))
    for row, items in enumerate(batch.candidates):
        chances = torch.tensor([full[row, item - 1] for item in items])
        torch.testing.assert_close(found[row].softmax(0), chances / chances.sum())
        assert torch.equal(found[row].argsort(stable=True), chances.argsort(stable=True))


def test_loss_is_the_mean_of_each_tasks_rows(setting: Setting, scorer: BSR) -> None:
    batch = setting.training_batch(scorer, 24)
    terms = {Task.REC: [], Task.SRC: []}
    for row in range(len(batch)):
        one, task = batch.select(torch.tensor([row])), Task(int(batch.task[row]))
        everything = torch.arange(1, setting.dataset.n_items + 1).unsqueeze(0)
        chances = scores(scorer, replace(one, candidates=everything))[0].softmax(0)
        positive = one.candidates[0, one.labels[0].argmax()]
        terms[task].append(-chances[positive - 1].log())
    found = scorer.losses(batch)
    torch.testing.assert_close(found["rec"], torch.stack(terms[Task.REC]).mean())
    torch.testing.assert_close(found["src"], torch.stack(terms[Task.SRC]).mean())


def test_each_task_reads_its_own_input_alone(setting: Setting, scorer: BSR) -> None:
    batch = setting.batch(scorer)
    none = torch.zeros_like(batch.items)
    without_history = scores(scorer, replace(batch, items=none, tasks=none, queries=none))
    without_query = scores(scorer, replace(batch, query=torch.zeros_like(batch.query)))
    same = scores(scorer, batch)
    rec, src = batch.task == int(Task.REC), batch.task == int(Task.SRC)
    torch.testing.assert_close(without_query[rec], same[rec])
    torch.testing.assert_close(without_history[src], same[src])
    assert not torch.allclose(without_history[rec], same[rec])
    assert not torch.allclose(without_query[src], same[src])


def test_item_rows_start_about_the_mean_token(setting: Setting) -> None:
    scorer = build(BSR, BSRConfig(noise=0.01), setting.corpus, seed=0)
    words, items = scorer.backbone.embedding.weight, scorer.items.weight[1:]
    torch.testing.assert_close(items.mean(0), words.mean(0), atol=0.005, rtol=0)
    assert items.std(0).mean().item() == pytest.approx(0.01 * words.std(0).mean().item(), rel=0.1)
    assert not scorer.items.weight[0].any()


@pytest.mark.parametrize("tied", [True, False])
def test_a_backbone_in_a_folder_takes_its_place(setting: Setting, tmp_path: Path, tied: bool) -> None:
    """As a hub model is loaded: flan-t5's head is untied and its vectors are large."""
    from transformers import T5Config, T5ForConditionalGeneration

    tokenizer = build(BSR, BSRConfig(), setting.corpus, seed=0).backbone.tokenizer
    shape = T5Config(vocab_size=len(tokenizer), d_model=32, d_kv=8, d_ff=64, num_layers=1, num_heads=4,
                     feed_forward_proj="gated-gelu", decoder_start_token_id=0)  # fmt: skip
    model = T5ForConditionalGeneration(shape)
    with torch.no_grad():
        model.shared.weight.mul_(20)
    if not tied:
        model.lm_head.weight = torch.nn.Parameter(torch.randn(len(tokenizer), 32))
    model.save_pretrained(tmp_path)
    tokenizer.save_pretrained(tmp_path)
    config = BSRConfig(backbone=BackboneConfig(name=str(tmp_path)))
    scorer = build(BSR, config, setting.corpus, seed=0).eval()
    assert scorer.backbone.width == 32
    assert scorer.items.weight[1:].std(0).mean().item() == pytest.approx(2, rel=0.1)
    assert scorer.backbone.model.lm_head.weight.requires_grad == tied
    found = scores(scorer, setting.batch(scorer))
    assert torch.isfinite(found).all() and found.abs().max() < 10


def test_a_causal_backbone_answers_too(setting: Setting) -> None:
    config = BSRConfig(backbone=BackboneConfig(name="llama"))
    scorer = build(BSR, config, setting.corpus, seed=0).eval()
    batch = setting.batch(scorer)
    padded = {name: torch.nn.functional.pad(getattr(batch, name), (4, 0)) for name in ("items", "tasks", "queries")}
    torch.testing.assert_close(scores(scorer, replace(batch, **padded)), scores(scorer, batch), atol=1e-5, rtol=1e-5)
