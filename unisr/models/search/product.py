"""What the search methods share: an item table with biases, a query encoder, the word loss, the history read."""

from __future__ import annotations

from typing import ClassVar, Literal

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
from unisr.models.layers import QueryEncoder, embedding
from unisr.models.losses import task_bce
from unisr.models.recipe import LARGE_TABLE


class ProductConfig(ModelConfig):
    width: int = Field(64, ge=1)
    word_loss: bool = True
    """Item vectors also predict the words of the item's text."""
    word_negatives: int = Field(5, ge=1)


PAPER = TrainConfig(epochs=20, batch_size=384, negatives=5, learning_rate=5e-4, sparse_rows=LARGE_TABLE)
"""Of the released code that has QEM, AEM, ZAM and TEM (kepingbi/ProdSearch), from its README's example; the early stop
is ours."""


class ProductSearch(Scorer):
    """s_c = e_c · h + b_c; subclasses say how the `state` h of a row is made.

    One table holds the words of queries and item texts (HEM, AEM, ZAM and TEM do the same).
    """

    word_power: ClassVar[float] = 1.0
    """Words to predict against are drawn in proportion to (count over the item texts) ^ word_power."""

    def __init__(self, config: ProductConfig, corpus: Corpus, *, tables: Tables | None = None) -> None:
        super().__init__(config, corpus, tables=tables)
        self.items = embedding(corpus.n_items, config.width)
        self.bias = nn.Parameter(torch.zeros(corpus.n_items + 1))
        self.queries = QueryEncoder(corpus.query_words, corpus.n_words, config.width, config.width)
        if config.word_loss:
            self.word_bias = nn.Parameter(torch.zeros(corpus.n_words + 1))
            self.register_buffer("item_words", torch.as_tensor(corpus.item_words), persistent=False)
            counts = np.bincount(corpus.item_words.ravel(), minlength=corpus.n_words + 1).astype(np.float32)
            counts[0] = 0.0
            self.register_buffer("word_counts", torch.from_numpy(counts**self.word_power), persistent=False)

    @property
    def history_length(self) -> tuple[int, int]:
        return (0, 0)

    def state(self, batch: Batch) -> Tensor:
        """h, `[B, d]`."""
        raise NotImplementedError

    def losses(self, batch: Batch) -> dict[str, Tensor]:
        """`src`: BCE per candidate; `words`: BCE per (word, sampled word) of the positive item."""
        return self.terms(batch, self.ranked(batch)[0])

    def score(self, batch: Batch) -> Tensor:
        return self.ranked(batch)[0]

    def score_catalog(self, batch: Batch) -> Tensor:
        return F.linear(self.state(batch), self.items.weight[1:], self.bias[1:])

    def ranked(self, batch: Batch) -> tuple[Tensor, Tensor]:
        """Scores [B, C] and states [B, d]."""
        candidates, state = self.items(batch.candidates), self.state(batch)
        return (candidates @ state.unsqueeze(-1)).squeeze(-1) + self.bias[batch.candidates], state

    def terms(self, batch: Batch, scores: Tensor) -> dict[str, Tensor]:
        """The losses of a batch with scores [B, C]."""
        terms = task_bce(scores, batch.labels, batch.task)
        if self.config.word_loss:
            items = batch.candidates[batch.labels > 0]
            terms["words"] = self.word_loss(self.items, items, items)
        return terms

    def word_loss(self, table: nn.Embedding, ids: Tensor, items: Tensor) -> Tensor:
        """How badly the vectors x of ids [n] in `table` predict the words of items [n], nats.

        The mean over the words w of softplus(-(x · w + b_w)) + sum over drawn words v of softplus(x · v + b_v),
        divided by 1 + `word_negatives`.
        """
        words = self.item_words[items]
        size = (len(items), words.shape[1] * self.config.word_negatives)
        # From torch's own generator, as dropout: the training loop keys, stores and restores it.
        drawn = torch.multinomial(self.word_counts, size[0] * size[1], replacement=True).view(size)
        valid = (words > 0).float()
        terms = F.softplus(-self._word_logits(table(ids), words)) * valid
        against = F.softplus(self._word_logits(table(ids), drawn)).view(*words.shape, -1).sum(-1) * valid
        return (terms + against).sum() / (valid.sum().clamp(min=1) * (1 + self.config.word_negatives))

    def _word_logits(self, vectors: Tensor, words: Tensor) -> Tensor:
        return torch.einsum("nwd,nd->nw", self.queries.table(words), vectors) + self.word_bias[words]


class HistoryConfig(ProductConfig):
    length: int = Field(20, ge=1)
    """Latest events read of each kind that `history` names."""
    history: Literal["search", "merged"] = "search"
    """Items clicked in searches, or those and the items of recommendation events."""


class HistorySearch(ProductSearch):
    """A product search that reads the items of past events."""

    @property
    def history_length(self) -> tuple[int, int]:
        return (self.config.length if self.config.history == "merged" else 0, self.config.length)

    @property
    def most_events(self) -> int:
        """Events a history holds at most."""
        return sum(self.history_length)

    def seen(self, batch: Batch) -> Tensor:
        """Which cells of the history are read, `[B, L]`."""
        return batch.tasks > 0 if self.config.history == "merged" else batch.tasks == int(Task.SRC)
