"""JSR: search and recommendation learned jointly over shared item vectors."""

from __future__ import annotations

import torch
from pydantic import Field
from torch import Tensor, nn

from unisr.config import ModelConfig, TrainConfig
from unisr.data.batches import Batch
from unisr.data.corpus import Corpus
from unisr.data.schema import TASKS, Task
from unisr.models.base import Scorer, Tables
from unisr.models.layers import MLP, embedding
from unisr.models.losses import task_bce
from unisr.models.recipe import shared_recipe
from unisr.registry import Card, register


class JSRConfig(ModelConfig):
    width: int = Field(64, ge=1)
    hidden: tuple[int, ...] = (200, 80)
    """Widths of the hidden layers of each task's network."""
    dropout: float = Field(0.3, ge=0, lt=1)
    search_weight: float = Field(1.0, ge=0)
    """Weight of the search loss."""


class WordAverage(nn.Module):
    """q = sum_t softmax_t(a_{w_t}) w_t over a query's words, `[n] -> [n, d]`, a a learned weight per word.

    Query 0 gives zeros.
    """

    def __init__(self, corpus: Corpus, width: int, *, std: float) -> None:
        super().__init__()
        self.register_buffer("words", torch.as_tensor(corpus.query_words), persistent=False)
        self.table = embedding(corpus.n_words, width, std=std)
        self.weights = nn.Parameter(torch.zeros(corpus.n_words + 1))

    def forward(self, queries: Tensor) -> Tensor:
        words = self.words[queries]
        logits = self.weights[words].masked_fill(words == 0, torch.finfo(self.weights.dtype).min)
        # Row 0 of the table is zero, so a query without words is too.
        return (logits.softmax(-1).unsqueeze(-2) @ self.table(words)).squeeze(-2)


@register
class JSR(Scorer):
    """rec: s_c = MLP_r(u * e_c); search: s_c = MLP_s(q * e_c); `*` elementwise, one item table (Zamani and Croft).

    Neither task reads a history, and search does not read the user. Loss: L_rec + search_weight · L_src.
    """

    card = Card(
        name="JSR",
        family="joint",
        tasks=("rec", "src"),
        paper="Zamani and Croft, Joint Modeling and Optimization of Search and Recommendation, DESIRES 2018",
        signals=("current query", "user id"),
        loss="BCE of both tasks over 1 + 4 uniform negatives",
        departures=(
            "no code is public: product, learned word weights, layers 200-80-1 per task, BCE and equal task weights "
            "are our reading of the paper's outline",
            "the item is an id row shared by both tasks; its text is not read",
            "no history: results in the literature stand above SASRec, so the versions compared there may have read "
            "one; their settings are unpublished",
            "not the later model of WSDM 2020, which learns from item descriptions",
        ),
    )
    Config = JSRConfig
    presets = {
        "quick": (TrainConfig(epochs=3, batch_size=128, learning_rate=1e-2, epoch_examples=8000),
                  JSRConfig(width=32, dropout=0.0)),
        # Strong decay: user vectors of a few dozen events each are fitted by heart otherwise.
        "small": (TrainConfig(epochs=6, batch_size=512, learning_rate=1e-2, schedule="cosine"),
                  JSRConfig(dropout=0.0)),
        "full": (TrainConfig(epochs=20, batch_size=512, learning_rate=3e-3, schedule="cosine", weight_decay=1.0,
                             patience=10), JSRConfig(dropout=0.3)),
        # Nothing is published: the recipe, UniSAR's width and the networks of UniSAR and SESRec.
        "paper": (shared_recipe(), JSRConfig(dropout=0.1)),
    }

    def __init__(self, config: JSRConfig, corpus: Corpus, *, tables: Tables | None = None) -> None:
        super().__init__(config, corpus, tables=tables)
        # A product of two vectors must not start near zero, or the networks see nothing but their biases.
        self.items = embedding(corpus.n_items, config.width, std=0.3)
        self.users = embedding(corpus.n_users, config.width, std=0.3)
        self.queries = WordAverage(corpus, config.width, std=0.3)
        sizes = (config.width, *config.hidden, 1)
        self.heads = nn.ModuleDict({task: MLP(*sizes, dropout=config.dropout) for task in TASKS})

    @property
    def history_length(self) -> tuple[int, int]:
        return (0, 0)

    def losses(self, batch: Batch) -> dict[str, Tensor]:
        """`rec`, `src` (weighted): BCE per candidate."""
        terms = task_bce(self.score(batch), batch.labels, batch.task)
        if "src" in terms:
            terms["src"] = terms["src"] * self.config.search_weight
        return terms

    def score(self, batch: Batch) -> Tensor:
        items = self.items(batch.candidates)
        scores = items.new_zeros(batch.candidates.shape)
        for name, task in TASKS.items():
            rows = (batch.task == int(task)).nonzero().squeeze(1)
            if len(rows):
                sides = self.users(batch.user[rows]) if task == Task.REC else self.queries(batch.query[rows])
                part = self.heads[name](sides.unsqueeze(1) * items[rows]).squeeze(-1)
                scores = scores.index_copy(0, rows, part.to(scores.dtype))
        return scores.float()
