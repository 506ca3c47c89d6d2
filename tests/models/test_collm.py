"""CoLLM: its slots, its two stages, and the shared prefix."""

from __future__ import annotations

from dataclasses import replace

import pytest
import torch

from tests.contract import ScorerContract, Setting
from unisr.config import TrainConfig
from unisr.data.schema import Dataset
from unisr.errors import ConfigError
from unisr.models.backbone import BackboneConfig
from unisr.models.base import build
from unisr.models.recommendation import CoLLM, CoLLMConfig
from unisr.models.recommendation.collm import BOTH, SLOTS, TEXT
from unisr.training import train
from unisr.training.checkpoint import load_trained, trained_state

ONE_KEY = "the decoder reads one position, so its self-attention has one key and its weights are constant"
UNREACHED = {
    f"backbone.model.decoder.block.{layer}.layer.0.SelfAttention.{part}.weight": ONE_KEY
    for layer, part in [(0, "q"), (0, "k"), (1, "q"), (1, "k"), (0, "relative_attention_bias")]
}


class TestCoLLM(ScorerContract):
    method = "CoLLM"
    no_gradient = UNREACHED
    overfit_steps = 100
    overfit_rate = 3e-3


@pytest.fixture(scope="module")
def setting(world: Dataset) -> Setting:
    return Setting(world, CoLLM)


def made(setting: Setting, **config: object) -> CoLLM:
    return build(CoLLM, CoLLMConfig.model_validate(config), setting.corpus, seed=0, tables=setting.tables).eval()


def gradients(scorer: CoLLM, setting: Setting) -> dict[str, bool]:
    scorer.zero_grad()
    sum(scorer.losses(setting.training_batch(scorer, 16)).values()).backward()
    return {name: p.grad is not None and bool(p.grad.any()) for name, p in scorer.named_parameters()}


def test_text_stage_reads_no_vectors_and_trains_the_language_model_alone(setting: Setting) -> None:
    scorer = made(setting)
    scorer.start_epoch(0, 10)
    assert int(scorer.stage) == TEXT
    batch = setting.batch(scorer)
    other = replace(batch, user=batch.user % setting.dataset.n_users + 1)
    assert torch.equal(scorer.score(batch), scorer.score(other))
    assert {name.split(".")[0] for name, some in gradients(scorer, setting).items() if some} == {"backbone"}


def test_slot_stage_trains_the_map_alone_and_leaves_the_rest_trainable(setting: Setting) -> None:
    scorer = made(setting)
    scorer.start_epoch(7, 10)
    assert int(scorer.stage) == SLOTS
    assert {name.split(".")[0] for name, some in gradients(scorer, setting).items() if some} == {"g"}
    assert all(p.requires_grad for p in scorer.parameters())


def test_with_g_zero_scores_vary_with_titles_only(setting: Setting) -> None:
    scorer = made(setting)
    for parameter in scorer.g.parameters():
        torch.nn.init.zeros_(parameter)
    batch = setting.batch(scorer)
    before = scorer.score(batch)
    scorer.user_cf.normal_()
    scorer.item_cf.normal_()
    assert torch.equal(scorer.score(batch), before)
    scorer.title_tokens[1:] = scorer.title_tokens[1:].flip(0)
    assert not torch.allclose(scorer.score(batch), before)


def test_a_causal_model_scores_as_with_one_prompt_per_candidate(setting: Setting) -> None:
    scorer = made(setting, backbone=BackboneConfig(name="llama"))
    batch = setting.batch(scorer, candidates=3)
    (prefix, mask), blocks = scorer._prefix(batch), scorer._blocks(batch)
    columns = []
    for block in blocks.unbind(1):
        whole = torch.cat([mask, mask.new_ones(block.shape[:2])], 1)
        columns.append(scorer.backbone.logits(scorer.backbone.answers(torch.cat([prefix, block], 1), whole)))
    logits = torch.stack(columns, 1)
    torch.testing.assert_close(scorer.score(batch), logits[..., 0] - logits[..., 1], rtol=1e-4, atol=1e-5)


def test_with_lora_the_first_stage_trains_adapters_alone(setting: Setting) -> None:
    scorer = made(setting, backbone=BackboneConfig(adapter="lora"))
    scorer.start_epoch(0, 10)
    reached = [name for name, some in gradients(scorer, setting).items() if some]
    assert reached and all("lora_" in name for name in reached)


def test_training_passes_through_both_stages_and_stores_the_stage(setting: Setting) -> None:
    scorer = made(setting)
    language = scorer.backbone.embedding.weight.clone()
    batch = setting.training_batch(scorer, 32)

    class Loader:
        steps = 2

        def epoch(self, epoch: int) -> list[object]:
            return [batch] * self.steps

    after = []
    train(scorer, Loader(), TrainConfig(epochs=2), seed=0, on_epoch=lambda _: after.append(
        (int(scorer.stage), scorer.backbone.embedding.weight.clone(), scorer.g[0].weight.clone())))  # fmt: skip
    assert [stage for stage, *_ in after] == [TEXT, SLOTS]
    assert not torch.equal(after[0][1], language) and torch.equal(after[1][1], after[0][1])
    assert not torch.equal(after[1][2], after[0][2])
    again = made(setting)
    assert int(again.stage) == BOTH
    load_trained(again, trained_state(scorer))
    assert int(again.stage) == SLOTS


def test_one_stage_is_a_switch(setting: Setting) -> None:
    scorer = made(setting, two_stages=False)
    scorer.start_epoch(0, 10)
    assert int(scorer.stage) == BOTH
    assert {name for name, some in gradients(scorer, setting).items() if not some} == set(UNREACHED)


def test_tables_of_another_dataset_are_refused(setting: Setting) -> None:
    tables = {"LightGCN": {k: v[:-1] for k, v in setting.tables["LightGCN"].items()}}
    with pytest.raises(ConfigError, match="not the same dataset"):
        CoLLM(CoLLMConfig(), setting.corpus, tables=tables)
    with pytest.raises(ConfigError, match="unisr.run"):
        CoLLM(CoLLMConfig(), setting.corpus)
