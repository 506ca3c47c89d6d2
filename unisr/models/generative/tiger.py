"""TIGER: the next item's semantic id, written from the semantic ids of the history."""

from __future__ import annotations

from typing import Literal

import torch
from pydantic import Field
from torch import Tensor

from unisr.config import TrainConfig
from unisr.data.corpus import Corpus
from unisr.models.base import Tables
from unisr.models.generative.next_id import NextId, NextIdConfig
from unisr.models.identifiers import semantic_ids
from unisr.registry import Card, register


class TIGERConfig(NextIdConfig):
    ids: Literal["kmeans", "rqvae", "atomic"] = "kmeans"
    """Residual k-means of the text vectors (GRID's recipe), an RQ-VAE on them (the paper's), or one token per item."""
    levels: int = Field(3, ge=1)
    codes: int = Field(64, ge=2)
    """Of each level; the paper has 256 for catalogs ten times as large."""
    text_encoder: str = "minilm"
    """See `unisr.data.text_vectors`."""
    user_tokens: int = Field(2000, ge=1)
    """Users are hashed to so many tokens."""


@register
class TIGER(NextId):
    """s_c = sum_t log p(z_t(c) | z_<t(c), user token, z(history)), z(c) the codes of c's text vector (Rajput et al.).

    Items of equal codes are told apart by a last code that counts them.
    """

    card = Card(
        name="TIGER",
        family="generative",
        tasks=("rec",),
        paper="Rajput et al., Recommender Systems with Generative Retrieval, NeurIPS 2023",
        signals=("rec history", "item text", "user id"),
        loss="cross-entropy over the codes of a level at every token of the target's id; no negatives",
        departures=(
            "residual k-means codes by default (`ids` brings the RQ-VAE back), 64 a level in place of 256",
            "MiniLM sentence vectors in place of Sentence-T5's",
            "softmax over the codes of the level; every item is scored exactly (the paper: beams over the whole "
            "vocabulary, which may write ids of no item)",
            "causal encoder, trained on all events of a window in one pass (`encoder` brings the paper's back)",
            "a smaller T5 (the paper: 4 + 4 layers, width 128), AdamW with a linear schedule in place of the inverse "
            "square root",
        ),
    )
    Config = TIGERConfig

    def __init__(self, config: TIGERConfig, corpus: Corpus, *, tables: Tables | None = None) -> None:
        super().__init__(config, corpus, tables=tables)
        self.ids = semantic_ids(config, corpus, self.tables).with_counter()
        first = 1 + config.user_tokens
        starts = first + torch.tensor((0, *self.ids.sizes)).cumsum(0)
        levels = list(zip(starts[:-1].tolist(), self.ids.sizes, strict=True))
        self.build_model(self.ids.tokens(first), levels, int(starts[-1]), fitted=True)

    def prefix(self, user: Tensor) -> Tensor:
        return 1 + user.unsqueeze(1) % self.config.user_tokens


def _training(epochs: int, **changes: object) -> TrainConfig:
    """Few windows in a batch: a window trains on all of its targets."""
    settings = dict(epochs=epochs, batch_size=8, learning_rate=3e-3, schedule="linear", warmup_steps=100,
                    clip_norm=1.0, patience=epochs, validation_users=200, evaluation_batch=64)  # fmt: skip
    return TrainConfig.model_validate({**settings, **changes})


PAPER = TIGERConfig(width=128, layers=4, feed_forward=1024, dropout=0.1, codes=256, encoder="bidirectional")
"""The paper's sizes, with MiniLM for Sentence-T5 and 4 heads of 32 for 6 of 64. Ids and training are GRID's, a public
reproduction: k-means and a constant rate (the paper: RQ-VAE and an inverse square root). The paper's 200,000 steps of
256 windows are 750 epochs of Kindle. Ours: the early stop."""

TIGER.presets = {
    "quick": (_training(4, warmup_steps=10), TIGERConfig(text_encoder="lsa", codes=16)),
    "small": (_training(8), TIGERConfig()),
    "full": (_training(30, validation_users=400), TIGERConfig()),
    "paper": (_training(750, batch_size=256, learning_rate=5e-4, weight_decay=1e-6, schedule="constant",
                        warmup_steps=0, patience=20, validation_users=1000), PAPER),
}
