"""BERT4Rec: a bidirectional transformer that fills in masked items."""

from __future__ import annotations

import torch
import torch.nn.functional as F
from pydantic import Field
from torch import Tensor, nn

from unisr.config import ModelConfig, TrainConfig
from unisr.data.batches import Batch, SequenceBatch
from unisr.data.corpus import Corpus
from unisr.data.schema import Task
from unisr.models.base import Scorer, Tables
from unisr.models.layers import SequenceEncoder, embedding
from unisr.models.pooling import last_columns
from unisr.registry import Card, register


class BERT4RecConfig(ModelConfig):
    width: int = Field(64, ge=1)
    layers: int = Field(2, ge=1)
    heads: int = Field(2, ge=1)
    inner: int = Field(256, ge=1)
    dropout: float = Field(0.2, ge=0, lt=1)
    history: int = Field(50, ge=2)
    """Length of the sequence; in ranking, [MASK] and the latest history - 1 recommendation events."""
    mask: float = Field(0.2, gt=0, lt=1)
    """Probability that an item is masked."""
    last: float = Field(0.5, ge=0, le=1)
    """Share of the windows trained as in ranking: [MASK] stands for a drawn target, after the events before it."""


@register
class BERT4Rec(Scorer):
    """s_c = e_c · LN(GELU(W h + b)) + b_c, h the state of [MASK] after the history (Sun et al., Eq. 1–8).

    The encoder reads both sides: x = dropout(LN(e + p)), layers x <- LN(x + f(x)).
    """

    card = Card(
        name="BERT4Rec",
        family="recommendation",
        tasks=("rec",),
        paper="Sun, Liu, Wu, Pei, Lin, Ou and Jiang, BERT4Rec: Sequential Recommendation with Bidirectional Encoder "
        "Representations from Transformer, CIKM 2019",
        signals=("rec history",),
        loss="cross-entropy over the whole catalogue at masked positions; no negatives",
        departures=(
            "ReLU instead of GELU in the encoder's feed-forward part (the shared block)",
            "masks are drawn anew for each window and epoch (released: ten stored copies of a sequence)",
            "a share of the windows predicts a drawn target from the events strictly before it (released: one copy of "
            "a sequence with its last item masked)",
            "every masked item becomes [MASK]; at least one item of a window is masked",
            "initial tables from N(0, .02) without truncation, linear maps as torch draws them",
        ),
    )
    Config = BERT4RecConfig
    feeds_on = "sequences"
    presets = {
        "quick": (TrainConfig(epochs=10, batch_size=32, learning_rate=5e-3), BERT4RecConfig(history=30)),
        "small": (TrainConfig(epochs=25, batch_size=32, learning_rate=3e-3, patience=10), BERT4RecConfig()),
        "full": (TrainConfig(epochs=100, batch_size=32, learning_rate=3e-3, patience=15), BERT4RecConfig()),
        # The released settings for Amazon Beauty; its 400,000 steps are 1,500 epochs of Kindle, its copies with the
        # last item masked one in eleven. Ours: schedule and decay (those of BERT's optimizer) and the long patience.
        "paper": (TrainConfig(epochs=1500, batch_size=256, learning_rate=1e-4, schedule="linear", warmup_steps=100,
                              weight_decay=0.01, patience=50), BERT4RecConfig(dropout=0.5, mask=0.6, last=0.09)),
    }

    def __init__(self, config: BERT4RecConfig, corpus: Corpus, *, tables: Tables | None = None) -> None:
        super().__init__(config, corpus, tables=tables)
        self.items = embedding(corpus.n_items + 1, config.width)
        """Row V + 1 is [MASK]."""
        self.bias = nn.Parameter(torch.zeros(corpus.n_items + 1))
        # Position 0 is the last place of the sequence.
        self.positions = nn.Parameter(0.02 * torch.randn(config.history, config.width))
        self.norm = nn.LayerNorm(config.width)
        self.encoder = SequenceEncoder(
            config.width,
            length=None,
            layers=config.layers,
            heads=config.heads,
            inner=config.inner,
            norm="post",
            dropout=config.dropout,
        )
        self.head = nn.Sequential(nn.Linear(config.width, config.width), nn.GELU(), nn.LayerNorm(config.width))

    @property
    def history_length(self) -> tuple[int, int]:
        return (self.config.history, 0)

    @property
    def mask_id(self) -> int:
        return self.corpus.n_items + 1

    def losses(self, batch: SequenceBatch) -> dict[str, Tensor]:
        """`rec`: the mean over all masked positions."""
        items = batch.items * (batch.tasks == int(Task.REC))
        masked = self.masks(items > 0)
        given, labels = items.masked_fill(masked, self.mask_id), items * masked
        next_given, next_labels = self.appended(items, batch.targets, batch.states)
        # From torch's own generator, as dropout: the training loop keys, stores and restores it.
        last = (torch.rand(len(items), 1, device=items.device) < self.config.last) & (batch.targets > 0).any(1, True)
        given, labels = torch.where(last, next_given, given), torch.where(last, next_labels, labels)
        states = self.encode(given)[labels > 0]
        # Neither padding nor [MASK] is a class.
        logits = F.linear(self.head(states), self.items.weight[1:-1], self.bias[1:])
        return {"rec": F.cross_entropy(logits, labels[labels > 0] - 1)}

    def score(self, batch: Batch) -> Tensor:
        state = self.state(batch).unsqueeze(-1)
        return (self.items(batch.candidates) @ state).squeeze(-1) + self.bias[batch.candidates]

    def score_catalog(self, batch: Batch) -> Tensor:
        return F.linear(self.state(batch), self.items.weight[1:-1], self.bias[1:])

    def state(self, batch: Batch) -> Tensor:
        """The state of a [MASK] after the history, `[B, d]`."""
        index, valid = last_columns(batch.tasks == int(Task.REC), self.config.history - 1)
        items = F.pad(batch.items.gather(1, index) * valid, (0, 1), value=self.mask_id)
        return self.head(self.encode(items, last=True)).squeeze(1)

    def encode(self, items: Tensor, *, last: bool = False) -> Tensor:
        """States of items [B, L <= history] with [MASK] among them, [B, L, d], or of the `last` column, [B, 1, d]."""
        positions = self.positions[: items.shape[1]].flip(0)
        return self.encoder(self.norm(self.items(items) + positions), items > 0, last=last)

    def masks(self, valid: Tensor) -> Tensor:
        """Drawn positions to predict among valid [B, L], `[B, L]` bool: at least one in a row that has any."""
        draws = torch.rand(valid.shape, device=valid.device).masked_fill(~valid, 1.0)
        return ((draws < self.config.mask) | (draws == draws.amin(1, keepdim=True))) & valid

    def appended(self, items: Tensor, targets: Tensor, states: Tensor) -> tuple[Tensor, Tensor]:
        """One drawn target of each window, as in ranking: the events before it and [MASK], and its label, [B, L] each.

        A window without targets gives one of padding and [MASK] whose label is 0.
        """
        length = items.shape[1]
        # The small constant lets a row without targets be drawn from.
        drawn = torch.multinomial((targets > 0).float() + 1e-20, 1)
        column = torch.arange(2 - length, 2, device=items.device) + states.gather(1, drawn)
        given = items.gather(1, column.clamp(0, length - 1)) * (column >= 0)
        given[:, -1] = self.mask_id
        return given, F.pad(targets.gather(1, drawn), (length - 1, 0))
