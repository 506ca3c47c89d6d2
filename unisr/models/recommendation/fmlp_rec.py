"""FMLP-Rec: learned filters in the frequency domain over the items chosen."""

from __future__ import annotations

from typing import Literal

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
from unisr.models.losses import task_bce
from unisr.models.pooling import last_columns
from unisr.models.recipe import LARGE_TABLE
from unisr.registry import Card, register


class FMLPRecConfig(ModelConfig):
    width: int = Field(64, ge=1)
    layers: int = Field(2, ge=1)
    dropout: float = Field(0.3, ge=0, lt=1)
    history: int = Field(50, ge=2)
    """L, the length every history is cut or padded to: latest recommendation events read."""
    loss: Literal["softmax", "bce"] = "softmax"
    """Cross-entropy over the catalogue, or BCE on the positive and its sampled negatives."""


class FilterLayer(nn.Module):
    """x <- LN(x + dropout(irfft(rfft(x) F))), then x <- LN(x + dropout(FFN(x))), x [B, L, d] (Zhou et al., Eq. 2–6).

    F [L // 2 + 1, d] is complex and learned; the transforms run over the L positions. With `last` the last position
    alone is computed, [B, 1, d].
    """

    def __init__(self, length: int, width: int, *, dropout: float = 0.0) -> None:
        super().__init__()
        self.length = length
        self.spectrum = nn.Parameter(0.02 * torch.randn(length // 2 + 1, width, 2))
        self.feed = nn.Sequential(nn.Linear(width, 4 * width), nn.GELU(), nn.Linear(4 * width, width))
        self.norms = nn.ModuleList(nn.LayerNorm(width) for _ in range(2))
        self.dropout = nn.Dropout(dropout)

    def forward(self, x: Tensor, *, last: bool = False) -> Tensor:
        change = self.filtered(x, last=last)
        x = self.norms[0]((x[:, -1:] if last else x) + self.dropout(change))
        return self.norms[1](x + self.dropout(self.feed(x)))

    def filtered(self, x: Tensor, *, last: bool = False) -> Tensor:
        """irfft(rfft(x) F) over the positions, in fp32 whatever the precision of the rest."""
        x, spectrum = x.float(), torch.view_as_complex(self.spectrum.float())
        if not last:
            return torch.fft.irfft(torch.fft.rfft(x, dim=1) * spectrum, n=self.length, dim=1)
        # A product of spectra is a circular convolution, of which one output is one weighted sum.
        kernel = torch.fft.irfft(spectrum, n=self.length, dim=0)
        return (x * kernel.flip(0)).sum(1, keepdim=True)


@register
class FMLPRec(Scorer):
    """s_c = e_c · x_L, x the output of filter layers over dropout(LN(e_t + p_t)), t = 1 … L (Zhou et al., Eq. 1–9).

    A filter mixes all positions, later ones and padding too, so only the last position's state predicts, and every
    prefix is an example of its own. Padding is a zero vector plus its position.
    """

    card = Card(
        name="FMLP-Rec",
        family="recommendation",
        tasks=("rec",),
        paper="Zhou, Yu, Zhao and Wen, Filter-enhanced MLP is All You Need for Sequential Recommendation, WWW 2022",
        signals=("rec history",),
        loss="cross-entropy over the whole catalogue at the last position",
        departures=(
            "full softmax instead of BCE with one negative (`loss` brings BCE back, on all sampled negatives)",
            "an epoch may draw a part of the prefixes (`epoch_examples`)",
            "linear maps start as torch draws them, not from N(0, .02)",
        ),
    )
    Config = FMLPRecConfig
    presets = {
        "quick": (TrainConfig(epochs=6, batch_size=128, negatives=1, learning_rate=5e-3, epoch_examples=2500),
                  FMLPRecConfig(history=30)),
        "small": (TrainConfig(epochs=8, batch_size=256, negatives=1, learning_rate=3e-3, epoch_examples=15000,
                              patience=10), FMLPRecConfig()),
        "full": (TrainConfig(epochs=25, batch_size=256, negatives=1, learning_rate=3e-3, epoch_examples=25000,
                             patience=10), FMLPRecConfig()),
        # As released: BCE with one negative on the end of each prefix. Ours: the bound on epochs.
        "paper": (TrainConfig(epochs=200, batch_size=256, negatives=1, learning_rate=1e-3, patience=10,
                              sparse_rows=LARGE_TABLE), FMLPRecConfig(dropout=0.5, loss="bce")),
    }  # fmt: skip

    def __init__(self, config: FMLPRecConfig, corpus: Corpus, *, tables: Tables | None = None) -> None:
        super().__init__(config, corpus, tables=tables)
        self.items = embedding(corpus.n_items, config.width)
        self.positions = nn.Parameter(0.02 * torch.randn(config.history, config.width))
        self.norm = nn.LayerNorm(config.width)
        self.dropout = nn.Dropout(config.dropout)
        make = [FilterLayer(config.history, config.width, dropout=config.dropout) for _ in range(config.layers)]
        self.layers = nn.ModuleList(make)

    @property
    def history_length(self) -> tuple[int, int]:
        return (self.config.history, 0)

    def state(self, batch: Batch) -> Tensor:
        """x_L, [B, d]."""
        index, valid = last_columns(batch.tasks == int(Task.REC), self.config.history)
        items = batch.items.gather(1, index) * valid
        items = F.pad(items, (self.config.history - items.shape[1], 0))
        x = self.dropout(self.norm(self.items(items) + self.positions))
        for number, layer in enumerate(self.layers, 1):
            x = layer(x, last=number == len(self.layers))
        return x.squeeze(1)

    def losses(self, batch: Batch) -> dict[str, Tensor]:
        if self.config.loss == "bce":
            return task_bce(self.score(batch), batch.labels, batch.task)
        positive = (batch.candidates * batch.labels.long()).sum(1)
        # Item 0 is no item: it is no class either.
        return {"rec": F.cross_entropy(self.state(batch) @ self.items.weight[1:].T, positive - 1)}

    def score(self, batch: Batch) -> Tensor:
        return (self.items(batch.candidates) @ self.state(batch).unsqueeze(-1)).squeeze(-1)

    def score_catalog(self, batch: Batch) -> Tensor:
        return self.state(batch) @ self.items.weight[1:].T
