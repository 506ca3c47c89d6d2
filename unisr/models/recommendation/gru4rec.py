"""GRU4Rec: a recurrent network over the items chosen."""

from __future__ import annotations

from typing import Literal

import torch
import torch.nn.functional as F
from pydantic import Field
from torch import Tensor, nn

from unisr.config import TrainConfig
from unisr.data.batches import Batch, SequenceBatch
from unisr.data.corpus import Corpus
from unisr.data.schema import Task
from unisr.models.base import Tables
from unisr.models.pooling import take_columns
from unisr.models.recipe import shared_recipe
from unisr.models.recommendation.next_item import NextItem, NextItemConfig
from unisr.registry import Card, register


class GRU4RecConfig(NextItemConfig):
    width: int = Field(100, ge=1)
    """Of the item vectors and of the recurrent state."""
    loss: Literal["softmax", "bpr-max"] = "softmax"  # type: ignore[assignment]
    """Cross-entropy over the catalogue, or BPR-max with `samples` uniform negatives shared by the batch."""
    samples: int = Field(512, ge=1)
    regularizer: float = Field(1.0, ge=0)
    """Lambda, the weight of the negatives' squared scores in BPR-max."""


@register
class GRU4Rec(NextItem):
    """s_c = e_c · g_L + b_c with g_t = GRU(g_{t-1}, e_t), g_0 = 0 (Hidasi et al. 2016; tied tables as released).

    Trained on all positions of a window in one pass. No state is carried from one window to the next.
    """

    card = Card(
        name="GRU4Rec",
        family="recommendation",
        tasks=("rec",),
        paper="Hidasi, Karatzoglou, Baltrunas and Tikk, Session-based Recommendations with Recurrent Neural Networks, "
        "ICLR 2016; Hidasi and Karatzoglou, Recurrent Neural Networks with Top-k Gains, CIKM 2018",
        signals=("rec history",),
        loss="cross-entropy over the whole catalogue at every position",
        departures=(
            "every item is a negative, so there is neither sampling by popularity nor its correction; `loss` brings "
            "BPR-max back, with uniform negatives and the logistic function on the scores as they are (released: ELU)",
            "a sequence is the latest items of a user, who has no sessions; no hidden state is carried between windows",
            "AdamW instead of Adagrad, and gradients are clipped",
            "a state predicts the next event at a strictly later time, not one of the same time stamp",
        ),
    )
    Config = GRU4RecConfig
    presets = {
        "quick": (TrainConfig(epochs=10, batch_size=32, learning_rate=5e-3), GRU4RecConfig(history=30)),
        "small": (TrainConfig(epochs=20, batch_size=64, learning_rate=1e-2, weight_decay=0.1, patience=10),
                              GRU4RecConfig(dropout=0.3)),
        "full": (TrainConfig(epochs=100, batch_size=64, learning_rate=1e-2, weight_decay=0.1, patience=15),
                             GRU4RecConfig(dropout=0.3)),
        # As released: 100 units, 64 sequences, BPR-max with 2,048 shared negatives, which also suits a table of
        # 673,415 items. Its Adagrad at a rate of 0.05 does not carry over: rate, epochs and dropout of the recipe.
        "paper": (shared_recipe(batch_size=64), GRU4RecConfig(dropout=0.1, loss="bpr-max", samples=2048)),
    }

    def __init__(self, config: GRU4RecConfig, corpus: Corpus, *, tables: Tables | None = None) -> None:
        super().__init__(config, corpus, tables=tables)
        # Xavier-uniform as released, over the real items.
        nn.init.xavier_uniform_(self.items.weight.data[1:])
        self.bias = nn.Parameter(torch.zeros(corpus.n_items + 1))
        self.gru = nn.GRU(config.width, config.width, batch_first=True)
        for weight in (self.gru.weight_ih_l0, self.gru.weight_hh_l0):
            for gate in weight.data.chunk(3):
                nn.init.xavier_uniform_(gate)
        self.dropout = nn.Dropout(config.dropout)

    def states(self, batch: Batch | SequenceBatch, *, last: bool = False) -> Tensor:
        """g at every column, [B, L, d], or at the `last` one, [B, 1, d]; where nothing is read it stays as it was."""
        seen = batch.tasks == int(Task.REC)
        # Events first, padding behind them: a state depends on earlier columns only, so padding never reaches it.
        order = (~seen).long().argsort(dim=1, stable=True)
        outputs, _ = self.gru(self.dropout(self.items(batch.items.gather(1, order))))
        count = seen.long().cumsum(1)
        count = count[:, -1:] if last else count
        return self.dropout(take_columns(F.pad(outputs, (0, 0, 1, 0)), count))

    def losses(self, batch: SequenceBatch) -> dict[str, Tensor]:
        row, place = (batch.targets > 0).nonzero(as_tuple=True)
        states, targets = self.states(batch)[row, batch.states[row, place]], batch.targets[row, place]
        if self.config.loss == "softmax":
            return {"rec": F.cross_entropy(F.linear(states, self.items.weight[1:], self.bias[1:]), targets - 1)}
        return {"rec": self._bpr_max(states, targets)}

    def score(self, batch: Batch) -> Tensor:
        return super().score(batch) + self.bias[batch.candidates]

    def score_catalog(self, batch: Batch) -> Tensor:
        return super().score_catalog(batch) + self.bias[1:]

    def _bpr_max(self, states: Tensor, targets: Tensor) -> Tensor:
        """-log sum_j w_j sigmoid(s_+ - s_j) + lambda sum_j w_j s_j^2, w = softmax_j(s_j); the mean of states [n, d]."""
        # From torch's own generator, as dropout: the training loop keys, stores and restores it.
        drawn = torch.randint(1, self.corpus.n_items + 1, (self.config.samples,), device=targets.device)
        positive = (states * self.items(targets)).sum(-1, keepdim=True) + self.bias[targets].unsqueeze(1)
        negative = F.linear(states, self.items(drawn), self.bias[drawn])
        other = negative.masked_fill(targets.unsqueeze(1) == drawn, torch.finfo(negative.dtype).min)
        log_w = other.log_softmax(1)
        gain = torch.logsumexp(log_w + F.logsigmoid(positive - negative), dim=1)
        return (-gain + self.config.regularizer * (log_w.exp() * negative.square()).sum(1)).mean()
