"""Recommendation-only methods: SASRec."""

from __future__ import annotations

from typing import Literal

import torch
import torch.nn.functional as F
from pydantic import Field
from torch import Tensor

from unisr.config import ModelConfig, TrainConfig
from unisr.data.batches import Batch, SequenceBatch
from unisr.data.corpus import Corpus
from unisr.data.schema import Task
from unisr.models.base import Scorer, Tables
from unisr.models.layers import SequenceEncoder, embedding
from unisr.registry import Card, register


class SASRecConfig(ModelConfig):
    width: int = Field(64, ge=1)
    layers: int = Field(2, ge=0)
    heads: int = Field(1, ge=1)
    dropout: float = Field(0.2, ge=0, lt=1)
    history: int = Field(50, ge=1)
    """Latest recommendation events read."""
    loss: Literal["softmax", "bce"] = "softmax"
    """Cross-entropy over the catalogue, or the paper's BCE with one uniform negative per position."""


@register
class SASRec(Scorer):
    """s_c = e_c · h_L, h the states of a causal transformer over x_t = sqrt(d) e_t + p_t (Kang and McAuley, Eq. 2–6).

    Trained on all positions of a window in one pass; one item table serves input and output.
    """

    card = Card(
        name="SASRec",
        family="recommendation",
        tasks=("rec",),
        paper="Kang and McAuley, Self-Attentive Sequential Recommendation, ICDM 2018",
        signals=("rec history",),
        loss="cross-entropy over the whole catalogue at every position",
        departures=(
            "full softmax instead of BCE with one negative (`loss` brings it back)",
            "the usual pre-norm residual x + f(LN(x)); the released code adds the normalized query stream",
            "a state predicts the next event at a strictly later time, not one of the same time stamp",
        ),
    )
    Config = SASRecConfig
    feeds_on = "sequences"
    presets = {
        "quick": (TrainConfig(epochs=10, batch_size=32, learning_rate=5e-3), SASRecConfig(history=30)),
        "small": (TrainConfig(epochs=30, batch_size=64, learning_rate=1e-3, patience=10), SASRecConfig()),
        "full": (TrainConfig(epochs=200, batch_size=64, learning_rate=1e-3, patience=15), SASRecConfig()),
    }

    def __init__(self, config: SASRecConfig, corpus: Corpus, *, tables: Tables | None = None) -> None:
        super().__init__(config, corpus, tables=tables)
        self.items = embedding(corpus.n_items, config.width)
        self.encoder = SequenceEncoder(
            config.width,
            length=config.history,
            layers=config.layers,
            heads=config.heads,
            causal=True,
            dropout=config.dropout,
        )

    @property
    def history_length(self) -> tuple[int, int]:
        return (self.config.history, 0)

    def states(self, items: Tensor, tasks: Tensor, *, last: bool = False) -> Tensor:
        """The causal states of a merged history, items and tasks [B, L] -> [B, L, d], or the `last` one [B, 1, d].

        Search events are not seen.
        """
        valid = tasks == int(Task.REC)
        return self.encoder(self.items(items) * self.config.width**0.5, valid, last=last)

    def losses(self, batch: SequenceBatch) -> dict[str, Tensor]:
        """`rec`: the mean over all targets of the windows."""
        row, place = (batch.targets > 0).nonzero(as_tuple=True)
        states = self.states(batch.items, batch.tasks)[row, batch.states[row, place]]
        targets = batch.targets[row, place]
        if self.config.loss == "softmax":
            # Item 0 is no item: it is no class either.
            return {"rec": F.cross_entropy(states @ self.items.weight[1:].T, targets - 1)}
        return {"rec": self._bce(states, targets, batch.items[row])}

    def score(self, batch: Batch) -> Tensor:
        if batch.items.shape[1] == 0:
            return self.items.weight.new_zeros(batch.candidates.shape)
        state = self.states(batch.items, batch.tasks, last=True)
        return (self.items(batch.candidates) @ state.transpose(1, 2)).squeeze(-1)

    def _bce(self, states: Tensor, targets: Tensor, seen: Tensor) -> Tensor:
        """BCE of states [n, d] on targets [n] and one uniform item each; draws within seen [n, L] are left out."""
        # From torch's own generator, as dropout: the training loop keys, stores and restores it.
        drawn = torch.randint(1, self.corpus.n_items + 1, targets.shape, device=targets.device)
        fair = ((seen != drawn.unsqueeze(1)).all(1) & (drawn != targets)).float()
        positive = (states * self.items(targets)).sum(-1)
        negative = (states * self.items(drawn)).sum(-1)
        return F.softplus(-positive).mean() + (F.softplus(negative) * fair).sum() / fair.sum().clamp(min=1)
