"""DIN: a user vector per candidate, by attention of the candidate to the items chosen."""

from __future__ import annotations

from typing import Literal

import torch
from pydantic import Field
from torch import Tensor, nn

from unisr.config import ModelConfig, TrainConfig
from unisr.data.batches import Batch
from unisr.data.corpus import Corpus
from unisr.data.schema import Task
from unisr.models.base import Scorer, Tables
from unisr.models.layers import embedding, xavier_
from unisr.models.losses import task_bce
from unisr.models.recipe import shared_recipe
from unisr.registry import Card, register


class DINConfig(ModelConfig):
    width: int = Field(64, ge=1)
    dropout: float = Field(0.1, ge=0, lt=1)
    history: int = Field(50, ge=1)
    """Latest recommendation events read."""
    activation: Literal["sigmoid", "prelu"] = "sigmoid"
    """Of the hidden layers."""


class ActivationUnit(nn.Module):
    """a_j = MLP([c; h_j; c - h_j; c * h_j]) of candidates [B, C, d] and history [B, L, d].

    The first linear map is a sum of one of c, one of h and one of c * h (c - h adds nothing to the first two), so that
    nothing wider than the layer itself is made per pair. Gives weights softmax_j(a_j / sqrt(d)), [B, C, L], 0 where
    valid [B, L] is false.
    """

    def __init__(self, width: int, activation: type[nn.Module], sizes: tuple[int, int] = (80, 40)) -> None:
        super().__init__()
        self.candidate = nn.Linear(width, sizes[0])
        self.event = nn.Linear(width, sizes[0], bias=False)
        self.product = nn.Linear(width, sizes[0], bias=False)
        # Without a last bias: softmax takes it out again.
        self.rest = nn.Sequential(
            activation(), nn.Linear(*sizes), activation(), nn.Linear(sizes[1], 1, bias=False), nn.Flatten(2)
        )

    def forward(self, candidates: Tensor, history: Tensor, valid: Tensor) -> Tensor:
        c, h = candidates.unsqueeze(2), history.unsqueeze(1)
        hidden = self.product(c * h).add_(self.candidate(c)).add_(self.event(h))
        logits = self.rest(hidden) / candidates.shape[-1] ** 0.5
        logits = logits.masked_fill(~valid.unsqueeze(1), torch.finfo(logits.dtype).min)
        return logits.softmax(-1) * valid.unsqueeze(1)


@register
class DIN(Scorer):
    """s_c = MLP([u; c; u * c]) + b_c, u = W sum_j a_j h_j with a from the activation unit (Zhou et al., Eq. 3)."""

    card = Card(
        name="DIN",
        family="recommendation",
        tasks=("rec",),
        paper="Zhou, Zhu, Song, Fan, Zhu, Ma, Yan, Jin, Li and Gai, Deep Interest Network for Click-Through Rate "
        "Prediction, KDD 2018",
        signals=("rec history",),
        loss="BCE over 1 + 4 uniform negatives",
        departures=(
            "attention weights are a softmax, as in the released code (the paper: not normalized)",
            "items alone: no category and no user profile; width 64 instead of 128",
            "layer norm instead of batch norm, whose statistics would differ between 1 + 4 and 1 + 99 candidates",
            "sigmoid hidden layers as in the released code's base model; `activation` brings PReLU, Dice is left out",
            "four negatives instead of one; AdamW instead of SGD",
        ),
    )
    Config = DINConfig
    presets = {
        "quick": (TrainConfig(epochs=4, batch_size=128, learning_rate=1e-2, epoch_examples=2500, evaluation_batch=32),
                  DINConfig(history=20)),
        "small": (TrainConfig(epochs=12, batch_size=256, learning_rate=1e-2, epoch_examples=12000, patience=10,
                              validation_users=400, evaluation_batch=32), DINConfig(history=30)),
        "full": (TrainConfig(epochs=30, batch_size=256, learning_rate=1e-2, epoch_examples=25000, patience=10,
                             validation_users=400, evaluation_batch=32), DINConfig(history=30)),
        # The released width, 64 of an item and 64 of its category. Its SGD at a rate of 1 does not carry over to
        # AdamW: the shared recipe.
        "paper": (shared_recipe(evaluation_batch=32), DINConfig(width=128)),
    }  # fmt: skip

    def __init__(self, config: DINConfig, corpus: Corpus, *, tables: Tables | None = None) -> None:
        super().__init__(config, corpus, tables=tables)
        width = config.width
        self.items = embedding(corpus.n_items, width)
        self.bias = nn.Parameter(torch.zeros(corpus.n_items + 1))
        activation = {"prelu": nn.PReLU, "sigmoid": nn.Sigmoid}[config.activation]
        self.unit = ActivationUnit(width, activation)
        self.pooled = nn.Sequential(nn.LayerNorm(width), nn.Linear(width, width))
        self.head = nn.Sequential(
            nn.LayerNorm(3 * width), nn.Dropout(config.dropout),
            nn.Linear(3 * width, 80), activation(), nn.Dropout(config.dropout),
            nn.Linear(80, 40), activation(), nn.Dropout(config.dropout),
            nn.Linear(40, 1), nn.Flatten(1),
        )  # fmt: skip
        xavier_(self)

    @property
    def history_length(self) -> tuple[int, int]:
        return (self.config.history, 0)

    def losses(self, batch: Batch) -> dict[str, Tensor]:
        return task_bce(self.score(batch), batch.labels, batch.task)

    def score(self, batch: Batch) -> Tensor:
        candidates, history = self.items(batch.candidates), self.items(batch.items)
        user = self.pooled(self.unit(candidates, history, batch.tasks == int(Task.REC)) @ history)
        return self.head(torch.cat([user, candidates, user * candidates], dim=-1)) + self.bias[batch.candidates]
