"""SASRec: a causal transformer over the items chosen; and the same over the merged history."""

from __future__ import annotations

from dataclasses import replace

from pydantic import Field
from torch import Tensor

from unisr.config import TrainConfig
from unisr.data.batches import Batch, SequenceBatch
from unisr.data.corpus import Corpus
from unisr.data.schema import Task
from unisr.models.base import Tables
from unisr.models.layers import SequenceEncoder
from unisr.models.recommendation.next_item import NextItem, NextItemConfig
from unisr.registry import Card, register


class SASRecConfig(NextItemConfig):
    layers: int = Field(2, ge=0)
    heads: int = Field(1, ge=1)


@register
class SASRec(NextItem):
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
    presets = {
        "quick": (TrainConfig(epochs=10, batch_size=32, learning_rate=5e-3), SASRecConfig(history=30)),
        "small": (TrainConfig(epochs=30, batch_size=64, learning_rate=1e-3, patience=10), SASRecConfig()),
        "full": (TrainConfig(epochs=200, batch_size=64, learning_rate=1e-3, patience=15), SASRecConfig()),
        # As released for sparse data: BCE with one negative. Ours: the early stop.
        "paper": (TrainConfig(epochs=201, batch_size=128, learning_rate=1e-3, clip_norm=None, patience=15),
                  SASRecConfig(width=50, dropout=0.5, loss="bce")),
    }

    def __init__(self, config: SASRecConfig, corpus: Corpus, *, tables: Tables | None = None) -> None:
        super().__init__(config, corpus, tables=tables)
        self.encoder = SequenceEncoder(
            config.width,
            length=sum(self.history_length),
            layers=config.layers,
            heads=config.heads,
            causal=True,
            dropout=config.dropout,
        )

    def seen(self, tasks: Tensor) -> Tensor:
        """Which events of tasks [B, L] are read."""
        return tasks == int(Task.REC)

    def states(self, batch: Batch | SequenceBatch, *, last: bool = False) -> Tensor:
        return self.encoder(self.items(batch.items) * self.config.width**0.5, self.seen(batch.tasks), last=last)


@register
class MergedSASRec(SASRec):
    """SASRec over the items of both tasks' events, in order of time: a control for what search history adds."""

    card = replace(
        SASRec.card,
        name="SASRec-merged",
        paper=f"control of this suite; {SASRec.card.paper}",
        signals=("rec history", "search history"),
        departures=(*SASRec.card.departures, "reads the items clicked in searches as events of the same list"),
    )

    @property
    def history_length(self) -> tuple[int, int]:
        return (self.config.history, self.config.history)

    def seen(self, tasks: Tensor) -> Tensor:
        return tasks > 0
