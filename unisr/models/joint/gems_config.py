"""GEMS' settings, prompts and presets."""

from __future__ import annotations

from typing import Literal

from pydantic import Field

from unisr.config import ModelConfig, NullSpaceConfig, Settings, SubspaceConfig, TrainConfig
from unisr.models.causal_lm import Adapter, CausalLMConfig
from unisr.training.pretraining import TestbedConfig

PROMPT = {
    "history": "The history of a user:",
    "rec": ". Recommend the next item:",
    "src": ". The user searches for:",
    "find": ". Predict the next item:",
}
"""history, item tokens, then rec; or src, the query, find."""


class SemanticConfig(Settings):
    """How semantic ids are made, see `unisr.models.identifiers.semantic_ids`."""

    ids: Literal["kmeans", "rqvae"] = "kmeans"
    levels: int = Field(2, ge=1)
    """Besides the last code, which counts the items of equal ids."""
    codes: int = Field(32, ge=2)
    """Of each level."""
    text_encoder: str = "lsa"
    """See `unisr.data.text_vectors`."""


class GEMSConfig(ModelConfig):
    lm: CausalLMConfig = CausalLMConfig()
    identifiers: Literal["atomic", "semantic"] = "atomic"
    """An item is one token (released), or the codes of its semantic id, one token each."""
    semantic: SemanticConfig = SemanticConfig()
    """Of identifiers='semantic' alone."""
    history: int = Field(20, ge=1)
    """Latest events of both tasks together, the item of each."""
    query_tokens: int = Field(16, ge=1)
    """Tokens kept of a query."""
    title_tokens: int = Field(16, ge=1)
    """Tokens of an item's text that its vector starts from."""
    item_start: Literal["random", "title"] = "title"
    """An item's vector starts at the mean of the LM's vectors of the tokens of its text, a code's at the mean over the
    items that have it; or both at random (released)."""
    history_weight: float = Field(1.0, ge=0)
    """Weight of a loss on every event of a recommendation's history, which learns more from a row; released: 0."""
    trained: Literal["covered", "all"] = "covered"
    """covered: item vectors and the linear layers of the blocks, on which a subspace or a null space acts; all that the
    model knows else stays as it was. all: token vectors and norms too (released)."""
    norms: bool = False
    """Whether `covered` trains the norms' gains too, which change the states of all text whatever the null space."""
    adapter: Adapter = "none"
    """Other than none: peft's low-rank updates of the covered layers are trained in their place."""
    adapter_rank: int = Field(8, ge=1)
    adapter_alpha: int = Field(16, ge=1)

    @property
    def text_encoder(self) -> str | None:
        """Of the text vectors that semantic ids are made from."""
        return self.semantic.text_encoder if self.identifiers == "semantic" else None


def _training(epochs: int, examples: int, *, rank: int, **changes: object) -> TrainConfig:
    settings = dict(epochs=epochs, epoch_examples=examples, batch_size=16, negatives=1, learning_rate=3e-3,
                    schedule="cosine", warmup_steps=20, clip_norm=1.0, patience=epochs, validation_users=200,
                    subspace=SubspaceConfig(rank=rank, null_space=NullSpaceConfig()))  # fmt: skip
    return TrainConfig.model_validate({**settings, **changes})


TINY = TestbedConfig(width=32, layers=2, heads=2, feed_forward=64, vocabulary=1024, steps=200, block=64)
"""Pretrained in seconds."""

PAPER = (
    TrainConfig(
        epochs=50, batch_size=32, accumulation=4, negatives=1, learning_rate=5e-4, weight_decay=0.01, schedule="cosine",
        warmup_steps=400, clip_norm=1.0, patience=5, precision="bf16", validation_users=1000,
        subspace=SubspaceConfig(
            rank=1024, gap=200, task_weights="shares", null_space=NullSpaceConfig(tokens=50_000),
        ),
    ),
    GEMSConfig(lm=CausalLMConfig(name="google/flan-t5-base"), history=100, query_tokens=64, item_start="random",
               history_weight=0.0, trained="all"),
)  # fmt: skip
"""The released script's settings for Qilin, where 400 steps are its 1 % of warm-up; at flan-t5-base's width of 768 its
rank of 1,024 is all of a square weight. Ours: bf16 (released: fp32), clipping, the cuts of the prompt (released: 512
tokens in all), and a null space of the inputs by energy, from fewer tokens: the released one (side='output',
energy=None, threshold=2e-2) leaks and is a variant of the study `subspace`."""

PRESETS: dict[str, tuple[TrainConfig, ModelConfig]] = {
    "quick": (
        _training(2, 1000, rank=8, warmup_steps=5, validation_users=50), GEMSConfig(lm=CausalLMConfig(testbed=TINY)),
    ),
    "small": (_training(2, 2500, rank=16), GEMSConfig()),
    "full": (_training(3, 2000, rank=72, precision="bf16"), GEMSConfig(lm=CausalLMConfig(name="smollm2"))),
    "paper": PAPER,
}
