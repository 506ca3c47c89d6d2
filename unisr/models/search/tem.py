"""TEM: a transformer over the query and the items clicked."""

from __future__ import annotations

from dataclasses import replace
from typing import Literal

import numpy as np
import torch
import torch.nn.functional as F
from pydantic import Field
from torch import Tensor, nn

from unisr.config import ModelConfig, TrainConfig
from unisr.data.batches import Batch
from unisr.data.corpus import Corpus
from unisr.data.schema import Task
from unisr.models.base import Scorer, Tables
from unisr.models.layers import QueryEncoder, SequenceEncoder, embedding
from unisr.models.losses import task_bce
from unisr.registry import Card, register


class TEMConfig(ModelConfig):
    width: int = Field(64, ge=1)
    layers: int = Field(1, ge=0)
    """0 leaves LN(Q(q) + position): QEM, the non-personalized control, up to the layer norm."""
    heads: int = Field(2, ge=1)
    inner: int = Field(256, ge=1)
    dropout: float = Field(0.1, ge=0, lt=1)
    length: int = Field(20, ge=1)
    """Latest events read of each kind that `history` names."""
    history: Literal["search", "merged"] = "search"
    """Items clicked in searches, or those and the items of recommendation events."""
    word_loss: bool = True
    """Item vectors also predict the words of the item's text."""
    word_negatives: int = Field(5, ge=1)


@register
class TEM(Scorer):
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
        "small": (TrainConfig(epochs=12, batch_size=512, negatives=5, learning_rate=3e-3, schedule="cosine"),
                  TEMConfig()),
        "full": (TrainConfig(epochs=20, batch_size=512, negatives=5, learning_rate=3e-3, schedule="cosine",
                             patience=10), TEMConfig()),
    }

    def __init__(self, config: TEMConfig, corpus: Corpus, *, tables: Tables | None = None) -> None:
        super().__init__(config, corpus, tables=tables)
        width = config.width
        self.items = embedding(corpus.n_items, width)
        self.bias = nn.Parameter(torch.zeros(corpus.n_items + 1))
        self.queries = QueryEncoder(corpus.query_words, corpus.n_words, width, width)
        self.encoder = SequenceEncoder(
            width,
            length=1 + config.length * (2 if config.history == "merged" else 1),
            layers=config.layers,
            heads=config.heads,
            inner=config.inner,
            dropout=config.dropout,
        )
        if config.word_loss:
            self.word_bias = nn.Parameter(torch.zeros(corpus.n_words + 1))
            self.register_buffer("item_words", torch.as_tensor(corpus.item_words), persistent=False)
            counts = np.bincount(corpus.item_words.ravel(), minlength=corpus.n_words + 1).astype(np.float32)
            counts[0] = 0.0
            self.register_buffer("word_counts", torch.from_numpy(counts), persistent=False)

    @property
    def history_length(self) -> tuple[int, int]:
        return (self.config.length if self.config.history == "merged" else 0, self.config.length)

    def state(self, batch: Batch) -> Tensor:
        """h, the encoded query slot, `[B, d]`."""
        seen = batch.tasks > 0 if self.config.history == "merged" else batch.tasks == int(Task.SRC)
        sequence = torch.cat([self.items(batch.items), self.queries(batch.query).unsqueeze(1)], dim=1)
        valid = torch.cat([seen, seen.new_ones(len(seen), 1)], dim=1)
        return self.encoder(sequence, valid, last=True).squeeze(1)

    def losses(self, batch: Batch) -> dict[str, Tensor]:
        """`src`: BCE per candidate; `words`: BCE per (word, sampled word) of the positive item."""
        terms = task_bce(self.score(batch), batch.labels, batch.task)
        if self.config.word_loss:
            terms["words"] = self._word_loss(batch.candidates[batch.labels > 0])
        return terms

    def score(self, batch: Batch) -> Tensor:
        products = (self.items(batch.candidates) @ self.state(batch).unsqueeze(-1)).squeeze(-1)
        return products + self.bias[batch.candidates]

    def _word_loss(self, items: Tensor) -> Tensor:
        """For items [n]: the mean over their words w of BCE(e_i · w + b_w), w against words drawn by frequency."""
        words = self.item_words[items]
        size = (len(items), words.shape[1] * self.config.word_negatives)
        # From torch's own generator, as dropout: the training loop keys, stores and restores it.
        drawn = torch.multinomial(self.word_counts, size[0] * size[1], replacement=True).view(size)
        valid = (words > 0).float()
        terms = F.softplus(-self._word_logits(items, words)) * valid
        against = F.softplus(self._word_logits(items, drawn)).view(*words.shape, -1).sum(-1) * valid
        return (terms + against).sum() / (valid.sum().clamp(min=1) * (1 + self.config.word_negatives))

    def _word_logits(self, items: Tensor, words: Tensor) -> Tensor:
        return (self.queries.table(words) @ self.items(items).unsqueeze(-1)).squeeze(-1) + self.word_bias[words]


@register
class MergedTEM(TEM):
    """TEM over the items of both tasks' events: a control for what recommendation history adds."""

    card = replace(
        TEM.card,
        name="TEM-merged",
        paper=f"control of this suite; {TEM.card.paper}",
        signals=("rec history", *TEM.card.signals),
    )
    presets = {n: (t, m.model_copy(update={"history": "merged"})) for n, (t, m) in TEM.presets.items()}
