"""UniSAR: transitions between search and recommendation behavior."""

from __future__ import annotations

import torch
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


class UniSARConfig(ModelConfig):
    table_width: int = Field(32, ge=1)
    """Width of the user, item and word tables."""
    width: int = Field(64, ge=1)
    layers: int = Field(1, ge=1)
    heads: int = Field(2, ge=1)
    dropout: float = Field(0.1, ge=0, lt=1)
    rec_history: int = Field(30, ge=1)
    """Latest recommendation events read."""
    src_history: int = Field(30, ge=1)
    """Latest search events read."""
    experts: int = Field(4, ge=1)
    """Shared experts, and as many of each task's own."""
    search_weight: float = Field(1.0, ge=0)
    """Weight of the search loss."""
    query_item_weight: float = Field(0.1, ge=0)
    """Weight of the query–item contrast; 0 leaves it out."""
    query_item_tau: float = Field(0.1, gt=0)
    """Its initial temperature."""
    query_item_negatives: int = Field(256, ge=1)
    """Random items, and as many queries, contrasted in a step; the paper takes 1,024."""
    alignment_weight: float = Field(0.01, ge=0)
    """Weight of the contrast of transitions; 0 leaves it out."""
    alignment_tau: float = Field(0.1, gt=0)
    """Its initial temperature."""


class Side(nn.Module):
    """One behavior's encoder, fusion and pooling (recommendation or search).

    own = encoder(x); fused = decoder(own, memory = cross); pooled against each candidate.
    """

    def __init__(self, config: UniSARConfig, length: int) -> None:
        super().__init__()
        width, heads, dropout = config.width, config.heads, config.dropout
        self.encoder = _encoder(config, length)
        self.fusion = nn.ModuleList(
            L.Block(width, heads, width, norm="post", dropout=dropout, cross=True) for _ in range(config.layers)
        )
        self.pool = pooling.TargetAttention(width)
        self.align = losses.Similarity(width, config.alignment_tau) if config.alignment_weight else None

    def forward(self, x: Tensor, cross: Tensor, valid: Tensor) -> tuple[Tensor, Tensor]:
        """x, cross [B, n, d], valid [B, n] -> the same-type encoding and its fusion with `cross`, both [B, n, d]."""
        own = self.encoder(x, valid)
        fused, allowed = own, valid.unsqueeze(1)
        for block in self.fusion:
            fused = block(fused, allowed, cross, allowed)
        return own, fused


class Encoded:
    """What the user tower hands on: per task the fused events, their mask, and the two views to align."""

    def __init__(self) -> None:
        self.fused: dict[str, Tensor] = {}
        self.valid: dict[str, Tensor] = {}
        self.views: dict[str, tuple[Tensor, Tensor]] = {}


@register
class UniSAR(Scorer):
    """Three transformers over the merged history, fused per behavior, and a multi-task head (Shi et al., Sec. 4).

    - A recommendation event is its item's vector, a search event the query's plus the clicked item's.
    - The global encoder blocks pairs of the same type, so its output at recommendation positions is
      search-to-recommendation (s2r) and the reverse at search positions (r2s); two more encoders give
      r2r and s2s.
    - Alignment: NT-Xent between the means of s2r and r2r, and of r2s and s2s. Query–item: InfoNCE over
      the (query, clicked item) pairs of the histories, both directions.
    - Fusion: decoder(r2r, memory s2r) and decoder(s2s, memory r2s), each pooled bilinearly against the
      candidate; head: [two interests; item; user; query] -> PLE -> 64-128-64 -> 200-80-1 per task.
    - Loss: L_rec + search_weight · L_src + query_item_weight · L_qi + alignment_weight · L_align.

    The paper weights search by .01 (Amazon) or .1 (KuaiSAR) with one large batch per task; the batches
    here hold both tasks in proportion to their events, so the default is 1.
    """

    card = Card(
        name="UniSAR",
        family="joint",
        tasks=("rec", "src"),
        paper="Shi, Si, Xu, Zhang, Zang, Song, Leng, Niu and Song, "
        "UniSAR: Modeling User Transition Behaviors between Search and Recommendation, SIGIR 2024",
        signals=("rec history", "search history", "current query", "past queries", "user id"),
        loss="BCE of both tasks over sampled negatives; NT-Xent alignment; query-item InfoNCE",
        departures=(
            "raw logits instead of sigmoids; PLE head as in the released code (the paper's text: MMoE)",
            "search weight 1 (the paper: .01 or .1)",
            "both contrasts are taken once per step over the whole batch, not once per task; their search part is "
            "not scaled by the search weight",
            "query-item negatives: drawn uniformly, 256 instead of 1,024, a pair's own item or query left out",
            "rows with an empty side: attention to nothing is zero, and they are left out of the alignment "
            "(the paper drops such rows from the data)",
            "positions count from the latest event; temperatures are learned as logarithms",
            "ids are the only user and item features (as on Amazon)",
        ),
    )
    Config = UniSARConfig
    presets = {
        "quick": (TrainConfig(epochs=2, batch_size=64, learning_rate=1e-2, epoch_examples=5000, validation_users=50),
                  UniSARConfig(rec_history=5, src_history=5, width=32, experts=2, dropout=0.0,
                               query_item_negatives=32)),
        "small": (TrainConfig(epochs=8, batch_size=128, learning_rate=2e-3, epoch_examples=20000, validation_users=300),
                  UniSARConfig(rec_history=10, src_history=10, dropout=0.0)),
        "full": (TrainConfig(epochs=20, batch_size=128, learning_rate=2e-3, epoch_examples=25000, schedule="cosine",
                             warmup_steps=50, validation_users=400),
                 UniSARConfig(rec_history=10, src_history=10, dropout=0.0)),
        # As released for Amazon, but for decoupled decay. Its batches are 1,024 positives of recommendation and as many
        # of search as end with them: 2,048 of both on Kindle. For KuaiSAR: search_weight .1, query_item_tau .5,
        # query_item_weight .001, alignment_weight .1, weight_decay 3e-5, batch_size 1112.
        "paper": (TrainConfig(epochs=100, batch_size=2048, learning_rate=1e-3, weight_decay=1e-5, schedule="plateau",
                              clip_norm=None, sparse_rows=LARGE_TABLE),
                  UniSARConfig(search_weight=0.01, query_item_negatives=1024)),
    }

    def __init__(self, config: UniSARConfig, corpus: Corpus, *, tables: Tables | None = None) -> None:
        super().__init__(config, corpus, tables=tables)
        width, narrow = config.width, config.table_width
        self.users = L.Feature(corpus.n_users, narrow, width, zero_padding=False)
        self.items = L.Feature(corpus.n_items, narrow, width)
        self.queries = L.QueryEncoder(corpus.query_words, corpus.n_words, narrow, width)
        self.no_query = nn.Parameter(torch.empty(1, width))
        self.merged = _encoder(config, config.rec_history + config.src_history)
        lengths = {"rec": config.rec_history, "src": config.src_history}
        self.sides = nn.ModuleDict({name: Side(config, n) for name, n in lengths.items()})
        self.contrast = losses.Similarity(width, config.query_item_tau) if config.query_item_weight else None
        self.ple = L.PLE(5 * width, width, experts=config.experts, dropout=config.dropout)
        self.heads = nn.ModuleList(
            nn.Sequential(
                L.MLP(width, 128, 64, dropout=config.dropout, last=True),
                L.MLP(64, 200, 80, 1, dropout=config.dropout),
            )
            for _ in TASKS
        )
        L.xavier_(self)
        nn.init.xavier_normal_(self.no_query)

    @property
    def history_length(self) -> tuple[int, int]:
        return (self.config.rec_history, self.config.src_history)

    def encode(self, batch: Batch) -> Encoded:
        """The user tower, once per row: events -> s2r, r2s, r2r, s2s -> fused sides."""
        events = self.items(batch.items) + self.queries(batch.queries)
        merged = self.merged(events, batch.tasks > 0, cross_type(batch.tasks))
        out = Encoded()
        for name, side in self.sides.items():
            index, valid = pooling.last_columns(batch.tasks == int(TASKS[name]), self._length(name))
            cross = pooling.take_columns(merged, index) * valid.unsqueeze(-1)
            own, out.fused[name] = side(pooling.take_columns(events, index), cross, valid)
            out.valid[name], out.views[name] = valid, (cross, own)
        return out

    def losses(self, batch: Batch) -> dict[str, Tensor]:
        """`rec`, `src` (weighted), `query_item`, `alignment`."""
        encoded = self.encode(batch)
        terms = losses.task_bce(self._score(batch, encoded), batch.labels, batch.task)
        if "src" in terms:
            terms["src"] = terms["src"] * self.config.search_weight
        if self.contrast is not None:
            terms["query_item"] = self.config.query_item_weight * self._query_item(batch)
        if self.config.alignment_weight:
            terms["alignment"] = self.config.alignment_weight * self._alignment(encoded)
        return terms

    def score(self, batch: Batch) -> Tensor:
        return self._score(batch, self.encode(batch))

    def _length(self, name: str) -> int:
        return self.config.rec_history if name == "rec" else self.config.src_history

    def _score(self, batch: Batch, encoded: Encoded) -> Tensor:
        candidates = self.items(batch.candidates)
        query = torch.where((batch.query > 0).unsqueeze(-1), self.queries(batch.query), self.no_query)
        interests = [side.pool(encoded.fused[n], encoded.valid[n], candidates) for n, side in self.sides.items()]
        row = torch.cat([self.users(batch.user), query], dim=-1).unsqueeze(1)
        x = torch.cat([*interests, candidates, row.expand(-1, candidates.shape[1], -1)], dim=-1)
        scores = x.new_zeros(batch.candidates.shape)
        for number, task in enumerate(TASKS.values()):
            rows = (batch.task == int(task)).nonzero().squeeze(1)
            if len(rows):
                part = self.heads[number](self.ple(x[rows], number)).squeeze(-1)
                scores = scores.index_copy(0, rows, part.to(scores.dtype))
        return scores.float()

    def _query_item(self, batch: Batch) -> Tensor:
        return losses.query_item(
            self.contrast,
            self.queries,
            self.items,
            batch,
            corpus=self.corpus,
            negatives=self.config.query_item_negatives,
        )

    def _alignment(self, encoded: Encoded) -> Tensor:
        """The sum over both sides of NT-Xent between their two views, over rows that have both behaviors."""
        rows = encoded.valid["rec"].any(1) & encoded.valid["src"].any(1)
        total = encoded.fused["rec"].new_zeros(())
        for name, side in self.sides.items():
            cross, own = (pooling.masked_mean(view, encoded.valid[name])[rows] for view in encoded.views[name])
            total = total + losses.nt_xent(side.align, cross, own)
        return total


def cross_type(tasks: Tensor) -> Tensor:
    """Which pairs of events differ in type, tasks [B, L] -> [B, L, L] bool: the global encoder's mask."""
    return tasks.unsqueeze(2) != tasks.unsqueeze(1)


def _encoder(config: UniSARConfig, length: int) -> L.SequenceEncoder:
    return L.SequenceEncoder(
        config.width,
        length=length,
        layers=config.layers,
        heads=config.heads,
        inner=config.width,
        norm="post",
        dropout=config.dropout,
    )
