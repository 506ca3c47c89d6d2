"""NRHUB: a user as attention over views of heterogeneous behavior."""

from __future__ import annotations

import torch
import torch.nn.functional as F
from pydantic import Field
from torch import Tensor, nn

from unisr.config import ModelConfig, TrainConfig
from unisr.data.batches import Batch
from unisr.data.corpus import Corpus
from unisr.data.schema import Task
from unisr.models.base import Scorer, Tables
from unisr.models.layers import embedding
from unisr.models.pooling import AdditivePool, last_columns
from unisr.models.recipe import LARGE_TABLE
from unisr.registry import Card, register


class NRHUBConfig(ModelConfig):
    width: int = Field(64, ge=1)
    """Width of items, words, filters and users."""
    dropout: float = Field(0.2, ge=0, lt=1)
    """On words, filter outputs and items of the history."""
    rec_history: int = Field(20, ge=1)
    """Latest recommendation events read."""
    src_history: int = Field(20, ge=1)
    """Latest search events read."""


class TextEncoder(nn.Module):
    """Query vectors, `[...] -> [..., d]`: words -> ReLU(convolution of width 3) -> tanh(Linear) -> additive attention.

    Each distinct query of a call is encoded once; query 0 gives zeros.
    """

    def __init__(self, corpus: Corpus, width: int, *, dropout: float = 0.0) -> None:
        super().__init__()
        self.register_buffer("words", torch.as_tensor(corpus.query_words), persistent=False)
        self.table = embedding(corpus.n_words, width)
        self.filters = nn.Conv1d(width, width, 3, padding=1)
        self.map = nn.Linear(width, width)
        self.pool = AdditivePool(width)
        self.dropout = nn.Dropout(dropout)

    def forward(self, queries: Tensor) -> Tensor:
        distinct, place = queries.unique(return_inverse=True)
        words = self.words[distinct]
        context = self.filters(self.dropout(self.table(words)).transpose(1, 2)).relu().transpose(1, 2)
        return F.embedding(place, self.pool(torch.tanh(self.map(self.dropout(context))), words > 0))


@register
class NRHUB(Scorer):
    """s_c = u · e_c, u additive attention over three views, each the same over its events (Wu et al., Sec. 3).

    Views: items of recommendation events; past queries; items clicked in searches. A view without events is
    masked; users without any event share one learned vector.
    """

    card = Card(
        name="NRHUB",
        family="joint",
        tasks=("rec",),
        paper="Wu, Wu, An, Qi, Huang, Huang and Xie, "
        "Neural News Recommendation with Heterogeneous User Behavior, EMNLP 2019",
        signals=("rec history", "search history", "past queries"),
        loss="softmax cross-entropy over 1 + 4 uniform negatives",
        departures=(
            "an item's vector is a row of a table instead of its encoded title, as in reuses of the method with id "
            "features",
            "the third view is the items clicked in searches, in the same table (the paper: titles of web pages)",
            "attention leaves padding out and pools what it reads, as the paper's equations do (the released code has "
            "no mask and pools the attention's hidden layer)",
            "a learned vector for users without a history",
            "negatives uniform instead of the unclicked news of the same impression",
            "width 64 instead of 300-d words, 400 filters and 200-d vectors; 20 events a task instead of 50 news, "
            "300 queries and 300 pages",
        ),
    )
    Config = NRHUBConfig
    presets = {
        "quick": (TrainConfig(epochs=3, batch_size=128, learning_rate=1e-2, epoch_examples=5000),
                  NRHUBConfig(dropout=0.0)),
        "small": (TrainConfig(epochs=12, batch_size=256, learning_rate=3e-3, epoch_examples=20000, schedule="cosine"),
                  NRHUBConfig()),
        "full": (TrainConfig(epochs=30, batch_size=256, learning_rate=3e-3, schedule="cosine", patience=10),
                 NRHUBConfig()),
        # As released: batches of 30, 2 epochs, vectors of 200 (words 300, filters 400, here 200 too), histories of 50
        # and of 300 queries.
        "paper": (TrainConfig(epochs=2, batch_size=30, learning_rate=1e-3, clip_norm=None, sparse_rows=LARGE_TABLE),
                  NRHUBConfig(width=200, rec_history=50, src_history=300)),
    }

    def __init__(self, config: NRHUBConfig, corpus: Corpus, *, tables: Tables | None = None) -> None:
        super().__init__(config, corpus, tables=tables)
        self.items = embedding(corpus.n_items, config.width, std=0.1)
        self.queries = TextEncoder(corpus, config.width, dropout=config.dropout)
        self.within = nn.ModuleDict({name: AdditivePool(config.width) for name in ("item", "query", "click")})
        self.across = AdditivePool(config.width)
        self.newcomer = nn.Parameter(0.1 * torch.randn(config.width))
        self.dropout = nn.Dropout(config.dropout)

    @property
    def history_length(self) -> tuple[int, int]:
        return (self.config.rec_history, self.config.src_history)

    def views(self, batch: Batch) -> tuple[Tensor, Tensor]:
        """Vectors [B, 3, d] of the views and which of them hold events, [B, 3]."""
        (items, recommended), (clicks, searched) = (
            self._latest(batch, batch.items, task, length)
            for task, length in zip((Task.REC, Task.SRC), self.history_length, strict=True)
        )
        queries, _ = self._latest(batch, batch.queries, Task.SRC, self.config.src_history)
        parts = {
            "item": (self.dropout(self.items(items)), recommended),
            "query": (self.queries(queries), searched),
            "click": (self.dropout(self.items(clicks)), searched),
        }
        vectors = [self.within[name](x, valid) for name, (x, valid) in parts.items()]
        return torch.stack(vectors, 1), torch.stack([valid.any(1) for _, valid in parts.values()], 1)

    @staticmethod
    def _latest(batch: Batch, ids: Tensor, task: Task, length: int) -> tuple[Tensor, Tensor]:
        """ids [B, L] of the last `length` events of one task, left-padded, and which exist, both [B, n]."""
        index, valid = last_columns(batch.tasks == int(task), length)
        return ids.gather(1, index) * valid, valid

    def losses(self, batch: Batch) -> dict[str, Tensor]:
        """`rec`: -log softmax of the positive among the candidates, the mean over rows."""
        return {"rec": F.cross_entropy(self.score(batch), batch.labels)}

    def score(self, batch: Batch) -> Tensor:
        return (self.items(batch.candidates) @ self.state(batch).unsqueeze(-1)).squeeze(-1).float()

    def score_catalog(self, batch: Batch) -> Tensor:
        return (self.state(batch) @ self.items.weight[1:].T).float()

    def state(self, batch: Batch) -> Tensor:
        """The user's vector from all views, `[B, d]`; one learned vector for users without any."""
        vectors, some = self.views(batch)
        return torch.where(some.any(1, keepdim=True), self.across(vectors, some), self.newcomer)
