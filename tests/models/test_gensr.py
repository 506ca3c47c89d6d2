"""GenSR: the contract, each equation against a plain form of it, both layouts, every switch, backbones."""

from __future__ import annotations

import math
import subprocess
import sys
from pathlib import Path

import pytest
import torch
from torch import Tensor, nn

from tests.contract import ScorerContract, Setting, scores
from unisr import registry
from unisr.benchmarks import ranking
from unisr.data.batches import Batch
from unisr.data.schema import Dataset
from unisr.errors import ConfigError
from unisr.models.backbone import Backbone, BackboneConfig
from unisr.models.base import build
from unisr.models.dual_view import BilinearFilter, MultiHeadFilter, ReleasedContrastive, contrastive_loss
from unisr.models.joint import GenSR, GenSRConfig
from unisr.models.joint.gensr import PARTS
from unisr.models.tokenizer import token_table, train_tokenizer

TEXTS = ["", "toy story animation comedy 1990s", "heat crime thriller 1990s", "a comedy of errors"]
ONE_KEY = "the decoder reads one token: its self-attention has one key, of weight 1"


class TestGenSR(ScorerContract):
    method = "GenSR"
    overfit_rate = 3e-3
    overfit_steps = 150
    no_gradient = {
        f"backbone.model.decoder.block.{layer}.layer.0.SelfAttention.{part}.weight": ONE_KEY
        for layer, part in [(0, "q"), (0, "k"), (1, "q"), (1, "k"), (0, "relative_attention_bias")]
    }


@pytest.fixture(scope="module")
def setting(world: Dataset) -> Setting:
    return Setting(world, GenSR)


def make(setting: Setting, config: GenSRConfig) -> GenSR:
    return build(GenSR, config, setting.corpus, seed=0, tables=setting.tables).eval()


def training_batch(setting: Setting, model: GenSR, size: int = 12) -> Batch:
    return setting.training_batch(model, size)


# Equations.


def test_soft_filtering_is_multi_head_attention_with_value_projection() -> None:
    """Eq. 7–8 against torch's own multi-head attention with the same weights."""
    torch.manual_seed(0)
    ours, theirs = MultiHeadFilter(8, 2), nn.MultiheadAttention(8, 2, batch_first=True)
    parts = (ours.query, ours.key, ours.value)
    with torch.no_grad():
        theirs.in_proj_weight.copy_(torch.cat([p.weight for p in parts]))
        theirs.in_proj_bias.copy_(torch.cat([p.bias for p in parts]))
        theirs.out_proj.load_state_dict(ours.out.state_dict())
    candidates, history = torch.randn(3, 4, 8), torch.randn(3, 5, 8)
    mask = torch.tensor([[0, 0, 1, 1, 1], [1, 1, 1, 1, 1], [0, 0, 0, 0, 1]]).bool()
    expected, weights = theirs(candidates, history, history, key_padding_mask=~mask)
    found, found_weights = ours(candidates, history, mask)
    torch.testing.assert_close(found, expected)
    torch.testing.assert_close(found_weights, weights)


@pytest.mark.parametrize("kind", [lambda: MultiHeadFilter(8, 2), lambda: BilinearFilter(8)])
def test_filter_weights_sum_to_one_or_to_zero_without_history(kind: type[nn.Module]) -> None:
    mask = torch.tensor([[False, True, True], [False, False, False]])
    out, weights = kind()(torch.randn(2, 4, 8), torch.randn(2, 3, 8), mask)
    torch.testing.assert_close(weights.sum(-1), torch.tensor([[1.0] * 4, [0.0] * 4]))
    assert not weights[:, :, 0].any() and torch.isfinite(out).all()


def test_contrastive_loss_is_equation_10_term_by_term() -> None:
    torch.manual_seed(0)
    cf, semantic, tau = torch.randn(5, 8), torch.randn(5, 8), 0.07

    def sim(a: Tensor, b: Tensor) -> float:
        return math.exp(float(torch.cosine_similarity(a, b, dim=0)) / tau)

    total = 0.0
    for u in range(5):
        below = sum(sim(cf[u], semantic[v]) for v in range(5)) + sum(sim(semantic[u], cf[v]) for v in range(5))
        total -= math.log(sim(cf[u], semantic[u]) / below) / 5
    found = contrastive_loss(cf, semantic, torch.arange(5), temperature=tau)
    assert float(found) == pytest.approx(total, rel=1e-5)


def test_contrastive_loss_leaves_out_other_rows_of_the_same_user_and_is_at_least_ln_2() -> None:
    cf, semantic = torch.randn(2, 3, 8)
    alone = contrastive_loss(cf[:1], semantic[:1], torch.tensor([7]), temperature=0.1)
    assert float(alone) == pytest.approx(math.log(2), rel=1e-5)
    same_user = contrastive_loss(cf, semantic, torch.tensor([7, 7, 7]), temperature=0.1)
    assert float(same_user) == pytest.approx(math.log(2), rel=1e-5)
    assert float(contrastive_loss(cf, semantic, torch.arange(3), temperature=0.1)) > math.log(2)


def test_released_contrastive_is_two_cross_entropies_on_normalised_views() -> None:
    torch.manual_seed(0)
    cf, semantic = torch.randn(2, 4, 8)
    u, v = (nn.functional.layer_norm(x / x.norm(dim=-1, keepdim=True), (8,)) for x in (cf, semantic))
    logits = u @ v.T / 0.07
    rows, columns = logits.log_softmax(1).diagonal().mean(), logits.log_softmax(0).diagonal().mean()
    found = ReleasedContrastive(8)(cf, semantic, temperature=0.07)
    torch.testing.assert_close(found, -(rows + columns) / 2, rtol=1e-4, atol=1e-4)


def test_losses_are_the_mean_yes_no_cross_entropy_of_all_candidates(setting: Setting) -> None:
    model = make(setting, GenSRConfig(beta=0.0))
    batch = training_batch(setting, model)
    margin = scores(model, batch)
    expected = nn.functional.binary_cross_entropy_with_logits(margin, batch.labels)
    terms = model.losses(batch)
    assert set(terms) == {"rec", "src"}
    torch.testing.assert_close(sum(terms.values()), expected)


# Layouts.


@pytest.mark.parametrize("family", ["t5", "llama"])
def test_a_packed_block_scores_as_if_alone_behind_the_prefix(family: str) -> None:
    """The packed pass against the library's own pass over [prefix, block], one candidate at a time."""
    torch.manual_seed(0)
    backbone = Backbone(BackboneConfig(name=family, width=16, heads=2, feed_forward=32), TEXTS).eval()
    prefix, blocks = torch.randn(3, 9, 16), torch.randn(3, 4, 5, 16)
    mask = torch.ones(3, 9, dtype=torch.bool)
    mask[0, :4] = mask[1, 3:6] = False
    with torch.inference_mode():
        found = backbone.packed_answers(prefix, mask, blocks)
        for c in range(4):
            alone = torch.cat([prefix, blocks[:, c]], dim=1), torch.cat([mask, mask.new_ones(3, 5)], dim=1)
            expected = backbone.answers(*alone) if family == "llama" else _t5_prefix_pass(backbone, *alone, length=9)
            torch.testing.assert_close(found[:, c], expected, rtol=1e-4, atol=1e-5)


def _t5_prefix_pass(backbone: Backbone, embeds: Tensor, mask: Tensor, *, length: int) -> Tensor:
    """transformers' T5 with a mask by which the first `length` positions see only themselves."""
    seen = mask[:, None, None, :].expand(-1, 1, embeds.shape[1], -1).clone()
    seen[:, :, :length, length:] = False
    states = backbone.model.get_encoder()(inputs_embeds=embeds, attention_mask=seen).last_hidden_state
    start = torch.zeros(len(embeds), 1, dtype=torch.long)
    decoder = backbone.model.get_decoder()
    out = decoder(input_ids=start, encoder_hidden_states=states, encoder_attention_mask=mask.long(), use_cache=False)
    return out.last_hidden_state[:, -1]


@pytest.mark.parametrize("semantic_unit", ["item", "token"])
def test_joint_scores_equal_generation_over_the_whole_vocabulary(setting: Setting, semantic_unit: str) -> None:
    """log P(Yes) - log P(No) from generate(), one full prompt per candidate, is the joint margin."""
    model = make(setting, GenSRConfig(layout="joint", slots="filtered", semantic_unit=semantic_unit))
    batch = setting.batch(model, candidates=4)
    with torch.inference_mode():
        torch.testing.assert_close(ranking.rank_naive(model, batch), model.score(batch), rtol=1e-4, atol=1e-4)


# Switches.

SWITCHES = [
    dict(layout="joint"), dict(slots="sequence"), dict(slots="sequence+filtered"),
    dict(filter="bilinear"), dict(filter="none"),
    dict(positions=False), dict(cf_table="ego"), dict(freeze_cf=False), dict(contrastive="released"),
    dict(contrastive="none"), dict(answers="vocabulary"), dict(wording="paper"), dict(query=False),
    dict(semantic_unit="token", slots="filtered"), dict(ranking="probability"),
    dict(backbone=BackboneConfig(name="llama")), dict(backbone=BackboneConfig(name="llama"), layout="joint"),
    dict(backbone=BackboneConfig(adapter="lora")), dict(backbone=BackboneConfig(name="llama", adapter="dora")),
]  # fmt: skip


@pytest.mark.parametrize("changes", SWITCHES, ids=lambda c: ",".join(f"{k}={v}" for k, v in c.items())[:60])
def test_every_switch_trains_and_changes_something(setting: Setting, changes: dict) -> None:
    model, plain = make(setting, GenSRConfig(**changes)), make(setting, GenSRConfig())
    batch = training_batch(setting, model)
    sum(model.losses(batch).values()).backward()
    grads = [p.grad for p in model.parameters() if p.grad is not None]
    assert grads and all(torch.isfinite(g).all() for g in grads)
    found = scores(model, batch)
    assert torch.isfinite(found).all()
    if changes.keys() & {"freeze_cf"}:
        assert model.cf_table.weight.grad.any()
    elif changes.keys() & {"contrastive", "answers"}:
        assert sum(model.losses(batch).values()) != sum(plain.losses(batch).values())
    else:
        assert not torch.allclose(found, scores(plain, batch))


def test_the_released_form_never_reads_the_query_and_the_default_does(setting: Setting) -> None:
    for config, reads in [(GenSRConfig.released(), False), (GenSRConfig(), True)]:
        model = make(setting, config)
        batch = setting.batch(model)
        other = Batch(**{**vars(batch), "query": batch.query.roll(1) * (batch.query > 0)})
        assert torch.equal(scores(model, batch), scores(model, other)) != reads


def test_explain_gives_the_weights_of_the_history_columns_read(setting: Setting) -> None:
    for config in (GenSRConfig(history=6), GenSRConfig.released(history=6)):
        model = make(setting, config)
        batch = setting.batch(model)
        for weights in model.explain(batch).values():
            assert weights.shape == (*batch.candidates.shape, batch.items.shape[1])
            assert not weights[..., :-6].any()
            assert not (weights * (batch.tasks == 0)[:, None, :]).any()


def test_a_missing_or_foreign_cf_table_is_refused(setting: Setting) -> None:
    with pytest.raises(ConfigError, match="unisr.run"):
        GenSR(GenSRConfig(), setting.corpus)
    with pytest.raises(ConfigError, match="not the same dataset"):
        GenSR(GenSRConfig(), setting.corpus, tables={"LightGCN": {"item_propagated": torch.zeros(3, 8)}})


def test_token_histories_with_sequences_are_refused() -> None:
    with pytest.raises(ValueError, match="slots='filtered'"):
        GenSRConfig(semantic_unit="token", slots="sequence")


# Backbones.


@pytest.mark.parametrize("family", ["t5", "llama"])
def test_a_local_folder_in_the_hub_format_is_loaded(family: str, tmp_path: Path, setting: Setting) -> None:
    made = Backbone(BackboneConfig(name=family, width=16, heads=2, feed_forward=32), TEXTS)
    made.model.save_pretrained(tmp_path)
    made.tokenizer.save_pretrained(tmp_path)
    loaded = Backbone(BackboneConfig(name=str(tmp_path)), TEXTS)
    assert torch.equal(loaded.embedding.weight, made.embedding.weight)
    assert torch.equal(loaded.answer_ids, made.answer_ids)
    model = make(setting, GenSRConfig(backbone=BackboneConfig(name=str(tmp_path))))
    assert torch.isfinite(scores(model, setting.batch(model))).all()


def test_an_unusable_backbone_says_what_to_give(tmp_path: Path) -> None:
    with pytest.raises(ConfigError, match="safetensors weights"):
        Backbone(BackboneConfig(name=str(tmp_path)), TEXTS)
    with pytest.raises(ConfigError, match="no linear layer"):
        Backbone(BackboneConfig(adapter="lora", adapter_targets=("nothing",)), TEXTS)


@pytest.mark.parametrize("family", ["t5", "llama"])
def test_adapters_start_as_the_base_model_and_train_alone(family: str) -> None:
    def answers(adapter: str) -> tuple[Backbone, Tensor]:
        torch.manual_seed(0)
        backbone = Backbone(BackboneConfig(name=family, adapter=adapter), TEXTS).eval()
        g = torch.Generator().manual_seed(1)
        embeds = torch.randn(2, 6, backbone.width, generator=g)
        return backbone, backbone.answers(embeds, torch.ones(2, 6, dtype=torch.bool))

    _, base = answers("none")
    for adapter in ("lora", "dora"):
        backbone, found = answers(adapter)
        torch.testing.assert_close(found, base, rtol=1e-4, atol=1e-5)
        trainable = {n for n, p in backbone.named_parameters() if p.requires_grad}
        assert trainable and all("lora" in name for name in trainable)


# Tokenizer.


def test_token_tables_are_left_padded_and_empty_texts_fully_masked() -> None:
    tokenizer = train_tokenizer(TEXTS, vocabulary=200, keep=["yes"])
    tokens, mask = token_table(tokenizer, TEXTS, limit=4)
    assert tokens.shape == mask.shape == (4, 4)
    assert not mask[0].any() and mask[:, -1].tolist() == [False, True, True, True]
    assert tokenizer.decode(tokens[2][mask[2]]) == "heat crime thriller 1990s"
    assert len(tokenizer("yes", add_special_tokens=False)["input_ids"]) == 1


def test_the_tokenizer_is_the_same_in_every_process() -> None:
    code = (
        "from unisr.models.tokenizer import train_tokenizer; import json;"
        "texts = [f'word{i % 37} thing{i % 11} {i} comedy' for i in range(500)];"
        "print(json.dumps(sorted(train_tokenizer(texts, vocabulary=150).get_vocab().items())))"
    )
    command = [sys.executable, "-c", code]
    first, second = (subprocess.run(command, capture_output=True, text=True, check=True).stdout for _ in range(2))
    assert first == second


def test_the_card_requires_the_table_it_reads() -> None:
    assert registry.method("gensr").card.requires == ("LightGCN",)


# What the ablation takes away.


def silent(model: GenSR, batch: Batch) -> set[str]:
    """Trainable parameters that the losses do not reach."""
    sum(model.losses(batch).values()).backward()
    trained = {n: p for n, p in model.named_parameters() if p.requires_grad}
    return {n for n, p in trained.items() if p.grad is None or not p.grad.any()}


@pytest.mark.parametrize("view", ["cf", "semantic"])
@pytest.mark.parametrize("slots", ["filtered", "sequence+filtered"])
@pytest.mark.parametrize("layout", ["packed", "joint"])
def test_a_single_view_leaves_out_the_other_and_the_alignment(
    setting: Setting, view: str, slots: str, layout: str
) -> None:
    shared = {"slots": slots, "layout": layout, "freeze_cf": False}
    whole, single = (make(setting, GenSRConfig(views=v, **shared)) for v in ("both", view))
    batch = training_batch(setting, single, 24)
    assert set(single.losses(batch)) == {"rec", "src"} and "contrastive" in whole.losses(batch)
    assert silent(single, batch) == set(TestGenSR.no_gradient)
    ours, theirs = single.state_dict(), whole.state_dict()
    (other,) = set(PARTS) - {view}
    assert {name.split(".")[0] for name in theirs.keys() - ours.keys()} == set(PARTS[other])
    assert all(torch.equal(ours[name], theirs[name]) for name in ours), "what is kept starts as in the whole model"
    lost = 2 + (single.config.history if "sequence" in slots else 0)
    assert single.prompts(batch)[0].shape[1] == whole.prompts(batch)[0].shape[1] - lost
    assert set(single.explain(batch)) == {view}


def test_a_single_view_reads_its_own_source_alone(setting: Setting) -> None:
    tables = {"LightGCN": {"item_propagated": setting.tables["LightGCN"]["item_propagated"].flip(0)}}
    for views, by_table, by_text in [("both", True, True), ("cf", True, False), ("semantic", False, True)]:
        config = GenSRConfig(views=views)
        model = make(setting, config)
        batch = setting.batch(model)
        before = scores(model, batch)
        other = build(GenSR, config, setting.corpus, seed=0, tables=tables).eval()
        assert torch.equal(scores(other, batch), before) != by_table
        model.item_tokens[1:] = model.item_tokens[1:].flip(0)
        assert torch.equal(scores(model, batch), before) != by_text


@pytest.mark.parametrize("view", ["cf", "semantic"])
def test_a_single_view_keeps_the_contract(setting: Setting, view: str) -> None:
    model = make(setting, GenSRConfig(views=view))
    batch = setting.batch(model)
    found = scores(model, batch)
    order = torch.randperm(batch.candidates.shape[1], generator=torch.Generator().manual_seed(0))
    permuted = Batch(**{**vars(batch), "candidates": batch.candidates[:, order]})
    torch.testing.assert_close(scores(model, permuted), found[:, order], rtol=2e-5, atol=2e-5)
    alone = torch.cat([scores(model, batch.select(torch.tensor([row]))) for row in range(len(batch))])
    torch.testing.assert_close(alone, found, rtol=2e-5, atol=2e-5)
    none = torch.zeros_like(batch.items)
    empty = Batch(**{**vars(batch), "items": none, "tasks": none, "queries": none})
    assert torch.isfinite(scores(model, empty)).all()
    with torch.inference_mode():
        catalog = model.score_catalog(batch)
    torch.testing.assert_close(catalog.gather(1, batch.candidates - 1), found, rtol=2e-5, atol=2e-5)


def test_without_task_prompts_only_the_query_tells_the_tasks_apart(setting: Setting) -> None:
    for prompts in (True, False):
        model = make(setting, GenSRConfig(task_prompts=prompts))
        batch = setting.batch(model)
        swapped = Batch(**{**vars(batch), "task": 3 - batch.task})
        assert torch.equal(scores(model, swapped), scores(model, batch)) != prompts
        searched = batch.select(batch.query > 0)
        other = Batch(**{**vars(searched), "query": searched.query % setting.dataset.n_queries + 1})
        assert not torch.allclose(scores(model, other), scores(model, searched))
    assert silent(model, training_batch(setting, model, 24)) == set(TestGenSR.no_gradient)


def test_without_soft_filtering_history_weighs_the_same_for_every_candidate(setting: Setting) -> None:
    model = make(setting, GenSRConfig(filter="none"))
    batch = setting.batch(model)
    read = ((batch.tasks > 0) & (torch.arange(batch.items.shape[1]) >= batch.items.shape[1] - 20)).float()
    for weights in model.explain(batch).values():
        torch.testing.assert_close(weights, (read / read.sum(1, keepdim=True)).unsqueeze(1).expand_as(weights))
    assert silent(model, training_batch(setting, model, 24)) == set(TestGenSR.no_gradient)


@pytest.mark.parametrize("changes", [dict(contrastive="none"), dict(beta=0.0), dict(contrastive="released", beta=0.0)])
def test_without_contrastive_learning_there_is_no_such_term_and_no_idle_parameter(
    setting: Setting, changes: dict
) -> None:
    model = make(setting, GenSRConfig(**changes))
    batch = training_batch(setting, model, 24)
    assert set(model.losses(batch)) == {"rec", "src"}
    assert silent(model, batch) == set(TestGenSR.no_gradient)


def test_the_full_ranking_variant_has_the_same_switches(world: Dataset) -> None:
    setting = Setting(world, registry.method("GenSR-full"))
    for changes in ({"views": "cf"}, {"views": "semantic"}, {"task_prompts": False}):
        config = setting.method.Config(history=5, **changes)
        model = build(setting.method, config, setting.corpus, seed=0, tables=setting.tables).eval()
        terms = model.losses(setting.training_batch(model, 8))
        assert ("contrastive" in terms) == ("views" not in changes)
        assert torch.isfinite(scores(model, setting.batch(model))).all()
