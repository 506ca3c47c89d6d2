"""Hyper-parameters and switches of GenSR."""

from __future__ import annotations

from typing import Literal

from pydantic import Field, model_validator

from unisr.config import ModelConfig, TrainConfig, later
from unisr.models.backbone import BackboneConfig
from unisr.models.prompts import Wording


class GenSRConfig(ModelConfig):
    """Hyper-parameters and switches; every default is the paper's form, `released()` the published code's."""

    backbone: BackboneConfig = BackboneConfig()
    views: Literal["both", "cf", "semantic"] = later("both")
    """The paper's ablation: with one view, the other's encoder, filter and slots and the contrastive term, which needs
    both, are left out; the words of the prompt stay."""
    layout: Literal["joint", "packed"] = "packed"
    """joint: one prompt per candidate, as in the paper; packed: one prefix per user and a block per candidate."""
    history: int = Field(20, ge=1)
    """N, the latest events of both tasks that are read."""
    item_tokens: int = Field(32, ge=1)
    """Tokens kept of an item's text."""
    cf_table: Literal["propagated", "ego"] = "propagated"
    """Which LightGCN table: after propagation, or the layer-0 weights the released code loads."""
    freeze_cf: bool = True
    encoder_layers: int = Field(1, ge=1)
    encoder_heads: int = Field(2, ge=1)
    positions: bool = True
    """Learned positions in the history encoders; the released code has none."""
    dropout: float = Field(0.1, ge=0, lt=1)
    semantic_unit: Literal["item", "token"] = "item"
    """One vector per history item (Eq. 6), or the first ten tokens of each as in the released code."""
    filter: Literal["multihead", "bilinear", "none"] = "multihead"
    """Soft filtering: Eq. 7–8, the released bilinear form, or the mean of the history."""
    slots: Literal["filtered", "sequence", "sequence+filtered"] = "filtered"
    """What stands in the two history slots of Eq. 9: the filtered vectors of Eq. 8 (also the released form), the
    sequences C_u, S_u that Eq. 9 prints, or both. Eq. 8's vectors have no other place in the model."""
    wording: Wording = "concise"
    task_prompts: bool = later(True)
    """Whether the tasks have a wording each; without, both have that of recommendation, and only a query tells them
    apart."""
    query: bool = True
    """Whether the search prompt holds the query; the released code never fills it in."""
    contrastive: Literal["paper", "released", "none"] = "paper"
    temperature: float = Field(0.07, gt=0)
    beta: float = Field(0.01, ge=0)
    """Weight of the contrastive term, Eq. 11."""
    answers: Literal["two", "vocabulary"] = "two"
    """Softmax of Eq. 12 over {Yes, No} (constrained generation) or over the whole vocabulary."""
    ranking: Literal["margin", "probability"] = "margin"
    """Score: logit(Yes) - logit(No), or P(Yes) over the vocabulary, which underflows to ties."""

    @model_validator(mode="after")
    def _possible(self) -> GenSRConfig:
        if self.semantic_unit == "token" and self.slots != "filtered":
            raise ValueError("semantic_unit='token' has 10 positions per item: it needs slots='filtered'")
        return self

    @classmethod
    def released(cls, **changes: object) -> GenSRConfig:
        """Every switch as in the released code (reference/gensr.md section 6)."""
        switches = dict(
            layout="joint", cf_table="ego", positions=False, semantic_unit="token", filter="bilinear", slots="filtered",
            wording="released", query=False, contrastive="released", answers="vocabulary", ranking="probability",
        )  # fmt: skip
        return cls.model_validate({**switches, **changes})


def _training(epochs: int, examples: int, **changes: float) -> TrainConfig:
    """From scratch: a linear schedule that ends with the epochs; few queries at once, each has 100 candidates."""
    settings = dict(
        epochs=epochs, epoch_examples=examples, batch_size=64, learning_rate=2e-3, schedule="linear", warmup_steps=100,
        clip_norm=1.0, validation_users=200, evaluation_batch=16,
    )  # fmt: skip
    return TrainConfig.model_validate({**settings, **changes})


PAPER = (
    TrainConfig(
        epochs=200, batch_size=40, negatives=4, learning_rate=1e-4, weight_decay=1e-3, schedule="linear",
        warmup_steps=200, clip_norm=1.0, patience=5, precision="bf16", validation_users=34_000, evaluation_batch=14,
    ),
    GenSRConfig(backbone=BackboneConfig(name="google/flan-t5-base"), wording="paper"),
)  # fmt: skip
"""The released settings for Amazon Kindle. Its batches of 200 rows are 40 positives with 4 negatives each, its 1,400
ranked rows 14 users with 100 candidates, its 34,000 users the half of Kindle's that it validates on. History 20, 32
title tokens of a candidate, and 10 of a history item where `semantic_unit` is the token. Ours: bf16 (released: fp32),
one validation an epoch on NDCG@5 (released: two, on HR@5), and layout='packed', which reads a user's prompt once and
not once per candidate. Scores are then not those of 'joint', since the prompt does not see the candidate; on ML-100K
they rank no worse at 3.6 times the rows/s (`unisr bench layouts`). Of KuaiSAR nothing is published."""

PRESETS: dict[str, tuple[TrainConfig, ModelConfig]] = {
    "quick": (_training(2, 800, warmup_steps=5, validation_users=50), GenSRConfig()),
    "small": (_training(10, 12_000), GenSRConfig()),
    "full": (_training(12, 25_000, validation_users=400), GenSRConfig()),
    "paper": PAPER,
}
