"""SESRec: interests that search and recommendation share, told apart from those they do not."""

from __future__ import annotations

import torch
import torch.nn.functional as F
from pydantic import Field
from torch import Tensor, nn

from unisr.config import ModelConfig, TrainConfig
from unisr.data.batches import Batch
from unisr.data.corpus import Corpus
from unisr.data.schema import TASKS
from unisr.models import layers as L
from unisr.models import losses, pooling
from unisr.models.base import Scorer, Tables
from unisr.models.recipe import LARGE_TABLE
from unisr.registry import Card, register


class SESRecConfig(ModelConfig):
    table_width: int = Field(32, ge=1)
    """Width of the user, item, query and word tables."""
    width: int = Field(64, ge=1)
    layers: int = Field(1, ge=1)
    heads: int = Field(4, ge=1)
    dropout: float = Field(0.1, ge=0, lt=1)
    rec_history: int = Field(15, ge=1)
    """Latest recommendation events read."""
    src_history: int = Field(15, ge=1)
    """Latest search events read."""
    query_item_weight: float = Field(0.1, ge=0)
    """Weight of the query–item contrast; 0 leaves it out."""
    query_item_tau: float = Field(0.1, gt=0)
    """Its initial temperature."""
    query_item_negatives: int = Field(256, ge=1)
    """Random items, and as many queries, contrasted in a step; the paper takes 1,024."""
    triplet_weight: float = Field(0.001, ge=0)
    """Weight of the triplet loss; 0 leaves disentangling out: all events stand in both sets."""
    triplet_margin: float = Field(0.1, gt=0)


class QueryVectors(nn.Module):
    """e_q = W [id_q; mean_t w_t] + b, `[...] -> [..., width]`; query 0 gives zeros.

    Each distinct query of a call is encoded once.
    """

    def __init__(self, corpus: Corpus, table_width: int, width: int) -> None:
        super().__init__()
        self.register_buffer("query_words", torch.as_tensor(corpus.query_words), persistent=False)
        self.ids = L.embedding(corpus.n_queries, table_width)
        self.words = L.embedding(corpus.n_words, table_width)
        self.map = nn.Linear(2 * table_width, width)

    def forward(self, queries: Tensor) -> Tensor:
        distinct, place = queries.unique(return_inverse=True)
        means = L.mean_embedding(self.words, self.query_words[distinct])
        vectors = self.map(torch.cat([self.ids(distinct), means], dim=-1)) * (distinct > 0).unsqueeze(-1)
        return F.embedding(place, vectors)


class CoAttention(nn.Module):
    """How much each event has in common with the other task's history.

    A = tanh(R W S^T); weights of R: softmax_t (A S v_S)_t, of S: softmax_t (A^T R v_R)_t.
    R [B, n, d], S [B, m, d], zero where not valid -> weights [B, n], [B, m], zero where not valid.
    """

    def __init__(self, width: int) -> None:
        super().__init__()
        self.affinity = nn.Linear(width, width, bias=False)
        self.value = nn.ModuleDict({task: nn.Linear(width, 1, bias=False) for task in TASKS})

    def forward(self, rec: Tensor, rec_valid: Tensor, src: Tensor, src_valid: Tensor) -> tuple[Tensor, Tensor]:
        affinity = torch.tanh(rec @ self.affinity(src).transpose(1, 2))
        of_rec = affinity @ self.value["src"](src)
        of_src = affinity.transpose(1, 2) @ self.value["rec"](rec)
        return _softmax(of_rec.squeeze(-1), rec_valid), _softmax(of_src.squeeze(-1), src_valid)


class History:
    """One task's encoded events [B, n, d], which exist, and which are similar or dissimilar to the other task's."""

    def __init__(self, events: Tensor, valid: Tensor) -> None:
        self.events, self.valid = events, valid
        self.similar = self.dissimilar = valid
        self.weights: Tensor | None = None

    def divide(self, weights: Tensor) -> None:
        """Similar: a weight of at least 1 / (number of events). A set that would be empty takes all events."""
        self.weights = weights
        # Equal weights are all similar: rounding must not divide them.
        similar = self.valid & (weights * self.valid.sum(1, keepdim=True) >= 1 - 1e-5)
        for name, chosen in (("similar", similar), ("dissimilar", self.valid & ~similar)):
            setattr(self, name, torch.where(chosen.any(1, keepdim=True), chosen, self.valid))

    def triplet(self, margin: float) -> Tensor:
        """max(0, |a - p| - |a - n| + margin), `[B]`: a weighted sum, p and n means of the similar and dissimilar."""
        anchor = (self.weights.unsqueeze(1) @ self.events).squeeze(1)
        sets = (pooling.masked_mean(self.events, chosen) for chosen in (self.similar, self.dissimilar))
        return F.triplet_margin_loss(anchor, *sets, margin=margin, reduction="none")


@register
class SESRec(Scorer):
    """Two encoded histories, each divided by co-attention into similar and dissimilar events (Si et al., Sec. 4).

    - A recommendation event is its item's vector, a search event the query's plus the clicked item's; a post-norm
      transformer each. Query–item: InfoNCE over the (query, clicked item) pairs of the histories, both directions.
    - Events whose co-attention weight is at least 1/n are similar to the other history; a triplet loss draws the
      weighted sum of all towards the mean of the similar and away from that of the dissimilar.
    - Each history is pooled bilinearly against the candidate over all, similar and dissimilar events, with one
      matrix per history; head: [six pools; item; user] -> 200-80-1.
    - Loss: L_rec + query_item_weight · L_qi + triplet_weight · L_triplet.
    """

    card = Card(
        name="SESRec",
        family="joint",
        tasks=("rec",),
        paper="Si, Sun, Zhang, Xu, Zang, Song, Gai and Wen, When Search Meets Recommendation: "
        "Learning Disentangled Search Representation for Recommendation, SIGIR 2023",
        signals=("rec history", "search history", "past queries", "user id"),
        loss="BCE over 1 + 4 uniform negatives; query-item InfoNCE; triplet loss of disentangling",
        departures=(
            "raw logits instead of sigmoids",
            "negatives uniform instead of drawn by popularity",
            "query-item negatives: 256 instead of 1,024, a pair's own item or query left out",
            "width 64 instead of 32; ReLU instead of LeakyReLU in the encoders; queries have no source feature",
            "an empty history pools to zero; rows with one are left out of the triplet loss",
            "positions count from the latest event; the temperature is learned as a logarithm",
        ),
    )
    Config = SESRecConfig
    presets = {
        "quick": (TrainConfig(epochs=3, batch_size=64, learning_rate=1e-2, epoch_examples=4000, validation_users=50),
                  SESRecConfig(rec_history=5, src_history=5, width=32, heads=2, dropout=0.0, query_item_negatives=32,
                               # Untrained weights meet a margin of .1 on nearly all rows, which then teach nothing.
                               triplet_margin=10.0)),
        "small": (TrainConfig(epochs=8, batch_size=128, learning_rate=2e-3, weight_decay=0.01, epoch_examples=20000,
                              validation_users=300),
                  SESRecConfig(dropout=0.0)),
        "full": (TrainConfig(epochs=20, batch_size=128, learning_rate=2e-3, weight_decay=0.01, epoch_examples=25000,
                             schedule="cosine",
                             warmup_steps=50, validation_users=400, patience=10), SESRecConfig(dropout=0.0)),
        # As released for Amazon, but decay is decoupled and the rate falls after 3 epochs without gain, not 5.
        "paper": (TrainConfig(epochs=30, batch_size=256, learning_rate=1e-3, weight_decay=1e-5, schedule="plateau",
                              clip_norm=None, sparse_rows=LARGE_TABLE), SESRecConfig(query_item_negatives=1024)),
    }

    def __init__(self, config: SESRecConfig, corpus: Corpus, *, tables: Tables | None = None) -> None:
        super().__init__(config, corpus, tables=tables)
        width, narrow = config.width, config.table_width
        self.users = L.embedding(corpus.n_users, narrow)
        self.table = L.embedding(corpus.n_items, narrow)
        self.map = nn.Linear(narrow, width)
        self.queries = QueryVectors(corpus, narrow, width)
        self.encoders = nn.ModuleDict({task: self._encoder(task) for task in TASKS})
        self.pools = nn.ModuleDict({task: pooling.TargetAttention(width) for task in TASKS})
        self.attention = CoAttention(width) if config.triplet_weight else None
        self.contrast = losses.Similarity(width, config.query_item_tau) if config.query_item_weight else None
        self.head = L.MLP(7 * width + narrow, 200, 80, 1, dropout=config.dropout)
        L.xavier_(self)

    @property
    def history_length(self) -> tuple[int, int]:
        return (self.config.rec_history, self.config.src_history)

    def items(self, items: Tensor) -> Tensor:
        """Item vectors, `[...] -> [..., d]`."""
        return self.map(self.table(items))

    def encode(self, batch: Batch) -> dict[str, History]:
        """The two histories, once per row."""
        events = self.items(batch.items) + self.queries(batch.queries)
        found = {}
        for (name, task), length in zip(TASKS.items(), self.history_length, strict=True):
            index, valid = pooling.last_columns(batch.tasks == int(task), length)
            found[name] = History(self.encoders[name](pooling.take_columns(events, index), valid), valid)
        if self.attention is not None:
            rec, src = found["rec"], found["src"]
            weights = self.attention(rec.events, rec.valid, src.events, src.valid)
            rec.divide(weights[0])
            src.divide(weights[1])
        return found

    def losses(self, batch: Batch) -> dict[str, Tensor]:
        """`rec`, `query_item`, `triplet`."""
        histories = self.encode(batch)
        terms = losses.task_bce(self._score(batch, histories), batch.labels, batch.task)
        if self.contrast is not None:
            contrast = losses.query_item(
                self.contrast,
                self.queries,
                self.items,
                batch,
                corpus=self.corpus,
                negatives=self.config.query_item_negatives,
            )
            terms["query_item"] = self.config.query_item_weight * contrast
        if self.attention is not None:
            both = histories["rec"].valid.any(1) & histories["src"].valid.any(1)
            each = sum(history.triplet(self.config.triplet_margin) for history in histories.values())
            terms["triplet"] = self.config.triplet_weight * (each * both).sum() / both.sum().clamp(min=1)
        return terms

    def score(self, batch: Batch) -> Tensor:
        return self._score(batch, self.encode(batch))

    def _score(self, batch: Batch, histories: dict[str, History]) -> Tensor:
        items = self.items(batch.candidates)
        pools = [
            self.pools[name](history.events, chosen, items)
            for name, history in histories.items()
            for chosen in (history.valid, history.similar, history.dissimilar)
        ]
        user = self.users(batch.user).unsqueeze(1).expand(-1, items.shape[1], -1)
        return self.head(torch.cat([*pools, items, user], dim=-1)).squeeze(-1).float()

    def _encoder(self, task: str) -> L.SequenceEncoder:
        config = self.config
        return L.SequenceEncoder(
            config.width,
            length=config.rec_history if task == "rec" else config.src_history,
            layers=config.layers,
            heads=config.heads,
            inner=config.width,
            norm="post",
            dropout=config.dropout,
        )


def _softmax(logits: Tensor, valid: Tensor) -> Tensor:
    """softmax over the valid cells [B, n]; zeros elsewhere and in rows without one."""
    return logits.masked_fill(~valid, torch.finfo(logits.dtype).min).softmax(-1) * valid
