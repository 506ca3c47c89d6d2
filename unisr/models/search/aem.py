"""AEM and ZAM: attention of the query over the items clicked, without and with a null slot."""

from __future__ import annotations

from dataclasses import replace
from typing import ClassVar

import torch
from pydantic import Field
from torch import Tensor, nn

from unisr.config import TrainConfig
from unisr.data.batches import Batch
from unisr.data.corpus import Corpus
from unisr.errors import ConfigError
from unisr.models.base import Tables
from unisr.models.search.product import PAPER, HistoryConfig, HistorySearch
from unisr.registry import Card, register


class AEMConfig(HistoryConfig):
    heads: int = Field(8, ge=1)
    dropout: float = Field(0.1, ge=0, lt=1)
    """Of the attention weights."""


@register
class AEM(HistorySearch):
    """s_c = e_c · h + b_c with h = Q(q) + u, u the heads' sums_j a_j V e_j over the items clicked, joined by a map O.

    a_j = exp f_j / (z + sum_k exp f_k), f_j = (W Q(q)) · (K e_j) / sqrt(d / heads); z is 0 for AEM and 1 for ZAM
    (Ai et al., Sec. 4). No map has a bias, so a row without history has u = 0 and scores as QEM.

    Raises:
        ConfigError: the width is not a multiple of the heads.
    """

    card = Card(
        name="AEM",
        family="search",
        tasks=("src",),
        paper="the attention baseline of Ai, Hill, Vishwanathan and Croft, "
        "A Zero Attention Model for Personalized Product Search, CIKM 2019",
        signals=("search history", "current query", "item text"),
        loss="BCE over 1 + 5 uniform negatives; words of the positive item against 5 sampled words each",
        departures=(
            "the history is the items clicked in searches; `history` = merged adds the items of recommendation events",
            "attention is the multi-head form of the authors' later code (kepingbi/ProdSearch); the paper's own code "
            "is not public and its attention is e_j · tanh(W q + b), summed over hidden units",
            "h = Q(q) + u instead of half of each: a row without history scores as QEM, item biases included",
            "the maps of the attention have no biases",
            "initial tables N(0, .02) instead of N(0, 1); width 64 instead of 128",
            "losses are means over candidates and words (the code: sums)",
        ),
    )
    Config = AEMConfig
    presets = {
        "quick": (TrainConfig(epochs=5, batch_size=128, negatives=5, learning_rate=1e-2, epoch_examples=5000),
                  AEMConfig(length=10)),
        "small": (TrainConfig(epochs=12, batch_size=512, negatives=5, learning_rate=5e-3, schedule="cosine"),
                  AEMConfig(dropout=0.3)),
        "full": (TrainConfig(epochs=20, batch_size=512, negatives=5, learning_rate=5e-3, schedule="cosine",
                             patience=10), AEMConfig(dropout=0.3)),
        "paper": (PAPER, AEMConfig(width=128)),
    }
    null_slot: ClassVar[bool] = False
    """Whether one more key with logit 0 and value 0 competes with the history."""

    def __init__(self, config: AEMConfig, corpus: Corpus, *, tables: Tables | None = None) -> None:
        super().__init__(config, corpus, tables=tables)
        width = config.width
        if width % config.heads:
            raise ConfigError(f"width {width} is not a multiple of heads {config.heads}; choose heads that divide it")
        self.asks, self.keys, self.values, self.out = (nn.Linear(width, width, bias=False) for _ in range(4))
        self.dropout = nn.Dropout(config.dropout)

    def state(self, batch: Batch) -> Tensor:
        query, history = self.queries(batch.query), self.items(batch.items)
        weights = self.dropout(self._weights(query, history, self.seen(batch)))
        read = torch.einsum("bhl,blhk->bhk", weights, self._heads(self.values(history)))
        return query + self.out(read.flatten(1))

    def null_weight(self, batch: Batch) -> Tensor:
        """Attention that no event gets, the mean over the heads, `[B]`: how little a row is personalized.

        Without history it is 1; with history it is 0 unless there is a null slot.
        """
        weights = self._weights(self.queries(batch.query), self.items(batch.items), self.seen(batch))
        return 1 - weights.sum(-1).mean(1)

    def _weights(self, query: Tensor, history: Tensor, seen: Tensor) -> Tensor:
        """a for query [B, d], history [B, L, d] and seen [B, L], `[B, heads, L]`; zeros where nothing is seen."""
        asks, keys = self._heads(self.asks(query)), self._heads(self.keys(history))
        logits = torch.einsum("bhk,blhk->bhl", asks, keys) / asks.shape[-1] ** 0.5
        # The most negative number, not -inf: a row without history stays finite and is zeroed below.
        least = torch.finfo(logits.dtype).min
        logits = logits.masked_fill(~seen.unsqueeze(1), least)
        null = logits.new_full((*logits.shape[:2], 1), 0.0 if self.null_slot else least)
        return torch.cat([null, logits], dim=-1).softmax(-1)[..., 1:] * seen.unsqueeze(1)

    def _heads(self, x: Tensor) -> Tensor:
        return x.unflatten(-1, (self.config.heads, -1))


@register
class ZAM(AEM):
    """AEM with a null slot: attention on the history is below 1 and can vanish, query by query."""

    card = replace(
        AEM.card,
        name="ZAM",
        paper="Ai, Hill, Vishwanathan and Croft, "
        "A Zero Attention Model for Personalized Product Search, CIKM 2019",
        departures=(
            *AEM.card.departures,
            "the null slot has logit 0 and value 0 exactly (the code projects a zero vector with biases)",
        ),
    )
    null_slot = True
    presets = {
        "quick": AEM.presets["quick"],
        "small": (TrainConfig(epochs=12, batch_size=512, negatives=5, learning_rate=1e-2, weight_decay=0.1,
                              schedule="cosine"), AEMConfig(dropout=0.0)),
        "full": (TrainConfig(epochs=20, batch_size=512, negatives=5, learning_rate=1e-2, weight_decay=0.1,
                             schedule="cosine", patience=10), AEMConfig(dropout=0.0)),
        "paper": AEM.presets["paper"],
    }
