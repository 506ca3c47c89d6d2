"""GenRet's settings and presets."""

from __future__ import annotations

from pydantic import Field

from unisr.config import ModelConfig, TrainConfig
from unisr.models.backbone import BackboneConfig


class GenRetConfig(ModelConfig):
    backbone: BackboneConfig = BackboneConfig(layers=1)
    """A small T5 built here, or any hub id or folder of the T5 family; the paper has T5-base."""
    levels: int = Field(3, ge=1)
    """M, the learned codes of an id."""
    codes: int = Field(32, ge=2)
    """K of each level; the paper has 512 for catalogs of 100,000 items and more."""
    counter: int = Field(32, ge=1)
    """Codes of the last level, which counts the items of one id; the items beyond share the last."""
    final_share: float = Field(0.5, gt=0, lt=1)
    """Share of the epochs that trains query -> id after all codes; the levels divide the others among them."""
    warmup_share: float = Field(0.4, gt=0, lt=1)
    """Share of a level's epochs before its codes start."""
    epsilon: float = Field(0.05, ge=0.003)
    """Of the balanced assignment; see `sinkhorn`."""
    contrast: float = Field(0.5, ge=0)
    """Weight of telling the query's item from others by their states."""
    code: float = Field(0.5, ge=0)
    """Weight of the code being learned."""
    earlier: float = Field(0.5, ge=0)
    """Weight of the codes before it."""
    reconstruction: float = Field(0.1, ge=0)
    """Weight of telling an item by its code's vector."""
    commitment: float = Field(0.5, ge=0)
    """Weight of the item's own id, written from its text, while query -> id is trained."""
    pseudo: float = Field(0.5, ge=0, le=1)
    """Share of training queries replaced by pseudo queries of the item."""
    query_tokens: int = Field(16, ge=1)
    """Tokens kept of a query, and most tokens of a pseudo query."""
    item_tokens: int = Field(32, ge=1)
    """Tokens kept of an item's text."""


def _training(epochs: int, examples: int | None, **changes: object) -> TrainConfig:
    """No early stop: it could end before the ids are whole."""
    settings = dict(epochs=epochs, epoch_examples=examples, batch_size=256, negatives=1, learning_rate=3e-3,
                    schedule="linear", warmup_steps=50, clip_norm=1.0, patience=epochs, validation_users=200,
                    evaluation_batch=64)  # fmt: skip
    return TrainConfig.model_validate({**settings, **changes})


PAPER = (
    _training(162, 62_000, batch_size=128, learning_rate=5e-4, schedule="constant", warmup_steps=0, precision="bf16",
              validation_users=1000),
    GenRetConfig(backbone=BackboneConfig(name="google-t5/t5-base"), codes=512, final_share=0.62, warmup_share=0.05,
                 query_tokens=32, item_tokens=128),
)  # fmt: skip
"""As released, with its 1,621 passes over a 128th of the data (1 to 10 of warm-up and 200 for each code, 1,000 for the
whole id) as 162 epochs of ten passes over Kindle's searches. Ours: bf16, and `epsilon` for states scaled by 1 / sqrt(d)
(released: 1)."""

PRESETS: dict[str, tuple[TrainConfig, ModelConfig]] = {
    "quick": (_training(7, 1000, batch_size=64, warmup_steps=5, validation_users=50), GenRetConfig(codes=16)),
    "small": (_training(20, 13_000, learning_rate=5e-3, weight_decay=0.1), GenRetConfig()),
    "full": (_training(40, 20_000, learning_rate=5e-3, weight_decay=0.1, validation_users=400), GenRetConfig()),
    "paper": PAPER,
}
