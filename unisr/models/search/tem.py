"""TEM: a transformer over the query and the items clicked."""

from __future__ import annotations

from dataclasses import replace

import torch
from pydantic import Field
from torch import Tensor

from unisr.config import TrainConfig
from unisr.data.batches import Batch
from unisr.data.corpus import Corpus
from unisr.models.base import Tables
from unisr.models.layers import SequenceEncoder
from unisr.models.search.product import PAPER, HistoryConfig, HistorySearch
from unisr.registry import Card, register


class TEMConfig(HistoryConfig):
    layers: int = Field(1, ge=0)
    """0 leaves LN(Q(q) + position): QEM, the non-personalized control, up to the layer norm."""
    heads: int = Field(2, ge=1)
    inner: int = Field(256, ge=1)
    dropout: float = Field(0.1, ge=0, lt=1)


@register
class TEM(HistorySearch):
    """s_c = e_c · h + b_c, h the state of slot 0 of a transformer over [Q(q), i_1 … i_n] (Bi et al., Sec. 3).

    Here the query stands last and positions count from it: position 0 is the query, 1 the latest click.
    """

    card = Card(
        name="TEM",
        family="search",
        tasks=("src",),
        paper="Bi, Teo, Dattatreya, Zhang, Croft and Pantel, "
        "A Transformer-based Embedding Model for Personalized Product Search, SIGIR 2020",
        signals=("search history", "current query", "item text"),
        loss="BCE over 1 + 5 uniform negatives; words of the positive item against 5 sampled words each",
        departures=(
            "positions are learned and count back from the query (the paper: sinusoidal, from the query forward)",
            "initial tables N(0, .02) instead of N(0, 1); width 64 instead of 128",
            "losses are means over candidates and words (the released code: sums)",
            "`history` = merged adds the items of recommendation events",
        ),
    )
    Config = TEMConfig
    presets = {
        "quick": (TrainConfig(epochs=5, batch_size=128, negatives=5, learning_rate=1e-2, epoch_examples=5000),
                  TEMConfig(length=10)),
        "small": (TrainConfig(epochs=12, batch_size=512, negatives=5, learning_rate=1e-2, weight_decay=0.1,
                              schedule="cosine"), TEMConfig(dropout=0.0)),
        "full": (TrainConfig(epochs=20, batch_size=512, negatives=5, learning_rate=1e-2, weight_decay=0.1,
                             schedule="cosine", patience=10), TEMConfig(dropout=0.0)),
        "paper": (PAPER, TEMConfig(width=128, heads=8, inner=512)),
    }

    def __init__(self, config: TEMConfig, corpus: Corpus, *, tables: Tables | None = None) -> None:
        super().__init__(config, corpus, tables=tables)
        self.encoder = SequenceEncoder(
            config.width,
            length=1 + self.most_events,
            layers=config.layers,
            heads=config.heads,
            inner=config.inner,
            dropout=config.dropout,
        )

    def state(self, batch: Batch) -> Tensor:
        """h, the encoded query slot, `[B, d]`."""
        return self.encode(self.items(batch.items), self.seen(batch), self.queries(batch.query))

    def encode(self, history: Tensor, seen: Tensor, query: Tensor) -> Tensor:
        """The query slot over history [B, L, d], of which seen [B, L] is read, and query [B, d], `[B, d]`."""
        sequence = torch.cat([history, query.unsqueeze(1)], dim=1)
        valid = torch.cat([seen, seen.new_ones(len(seen), 1)], dim=1)
        return self.encoder(sequence, valid, last=True).squeeze(1)


@register
class MergedTEM(TEM):
    """TEM over the items of both tasks' events: a control for what recommendation history adds."""

    card = replace(
        TEM.card,
        name="TEM-merged",
        paper=f"control of this suite; {TEM.card.paper}",
        signals=("rec history", *TEM.card.signals),
    )
    presets = {
        "quick": (TEM.presets["quick"][0], TEMConfig(length=10, history="merged")),
        "small": (TrainConfig(epochs=12, batch_size=512, negatives=5, learning_rate=1e-2, weight_decay=0.01,
                              schedule="cosine"), TEMConfig(dropout=0.2, history="merged")),
        "full": (TrainConfig(epochs=20, batch_size=512, negatives=5, learning_rate=1e-2, weight_decay=0.01,
                             schedule="cosine", patience=10), TEMConfig(dropout=0.2, history="merged")),
        "paper": (PAPER, TEM.presets["paper"][1].model_copy(update={"history": "merged"})),
    }
