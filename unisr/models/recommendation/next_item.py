"""Next-item scorers: one item table for input and output, trained on all positions of a window in one pass."""

from __future__ import annotations

from typing import Literal

import torch
import torch.nn.functional as F
from pydantic import Field
from torch import Tensor

from unisr.config import ModelConfig
from unisr.data.batches import Batch, SequenceBatch
from unisr.data.corpus import Corpus
from unisr.models.base import Scorer, Tables
from unisr.models.layers import embedding


class NextItemConfig(ModelConfig):
    width: int = Field(64, ge=1)
    dropout: float = Field(0.2, ge=0, lt=1)
    history: int = Field(50, ge=1)
    """Latest recommendation events read."""
    loss: Literal["softmax", "bce"] = "softmax"
    """Cross-entropy over the catalogue, or BCE with one uniform negative per position."""


class NextItem(Scorer):
    """s_c = e_c · h, h the causal state of the last event; subclasses say how `states` are made."""

    feeds_on = "sequences"

    def __init__(self, config: NextItemConfig, corpus: Corpus, *, tables: Tables | None = None) -> None:
        super().__init__(config, corpus, tables=tables)
        self.items = embedding(corpus.n_items, config.width)

    @property
    def history_length(self) -> tuple[int, int]:
        return (self.config.history, 0)

    def states(self, batch: Batch | SequenceBatch, *, last: bool = False) -> Tensor:
        """Causal states of the history, [B, L, d], or of its `last` column alone, [B, 1, d]."""
        raise NotImplementedError

    def losses(self, batch: SequenceBatch) -> dict[str, Tensor]:
        """`rec`: the mean over all targets of the windows."""
        row, place = (batch.targets > 0).nonzero(as_tuple=True)
        states = self.states(batch)[row, batch.states[row, place]]
        targets = batch.targets[row, place]
        if self.config.loss == "softmax":
            # Item 0 is no item: it is no class either.
            return {"rec": F.cross_entropy(states @ self.items.weight[1:].T, targets - 1)}
        return {"rec": self._bce(states, targets, batch.items[row])}

    def score(self, batch: Batch) -> Tensor:
        if batch.items.shape[1] == 0:
            return self.items.weight.new_zeros(batch.candidates.shape)
        return (self.items(batch.candidates) @ self.states(batch, last=True).transpose(1, 2)).squeeze(-1)

    def score_catalog(self, batch: Batch) -> Tensor:
        if batch.items.shape[1] == 0:
            return self.items.weight.new_zeros(len(batch), self.corpus.n_items)
        return self.states(batch, last=True).squeeze(1) @ self.items.weight[1:].T

    def _bce(self, states: Tensor, targets: Tensor, seen: Tensor) -> Tensor:
        """BCE of states [n, d] on targets [n] and one uniform item each; draws within seen [n, L] are left out."""
        # From torch's own generator, as dropout: the training loop keys, stores and restores it.
        drawn = torch.randint(1, self.corpus.n_items + 1, targets.shape, device=targets.device)
        fair = ((seen != drawn.unsqueeze(1)).all(1) & (drawn != targets)).float()
        positive = (states * self.items(targets)).sum(-1)
        negative = (states * self.items(drawn)).sum(-1)
        return F.softplus(-positive).mean() + (F.softplus(negative) * fair).sum() / fair.sum().clamp(min=1)
