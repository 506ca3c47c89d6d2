"""HEM: users, queries and items in one space of words."""

from __future__ import annotations

import torch
from pydantic import Field
from torch import Tensor

from unisr.config import TrainConfig
from unisr.data.batches import Batch
from unisr.data.corpus import Corpus
from unisr.models.base import Tables
from unisr.models.layers import embedding
from unisr.models.search.product import PAPER, ProductConfig, ProductSearch
from unisr.registry import Card, register


class HEMConfig(ProductConfig):
    query_weight: float = Field(0.5, ge=0, le=1)
    """lambda; 1 is QEM, 0 ignores the query."""


@register
class HEM(ProductSearch):
    """s_c = e_c · h + b_c with h = lambda Q(q) + (1 - lambda) u (Ai et al., Sec. 3.2).

    User and item vectors predict the words of what the user bought: `words` and `user_words`.
    """

    card = Card(
        name="HEM",
        family="search",
        tasks=("src",),
        paper="Ai, Zhang, Bi, Chen and Croft, "
        "Learning a Hierarchical Embedding Model for Personalized Product Search, SIGIR 2017",
        signals=("current query", "item text", "user id"),
        loss="BCE over 1 + 5 uniform negatives; words of the positive item from the item's and from the user's vector, "
        "against 5 words each, drawn by frequency ^ .75",
        departures=(
            "no history is read: the user's past is in the user's vector alone, which training clicks shape",
            "a corpus has no reviews: the text of the clicked item stands for the user's review of it, so a user's "
            "words are those of the items of the user's training clicks",
            "the mean over an item's words in each step (the paper: one word a step, frequent ones subsampled)",
            "losses are means over candidates and words (the paper: sums)",
            "items have a bias in the score (the paper: a variant)",
            "users, items and queries' words are drawn from N(0, .02) (the code: users and items zero, words uniform)",
            "Adam and no L2 term (the paper: SGD, L2 .005 on the vectors of a step); width 64 instead of 100",
        ),
    )
    Config = HEMConfig
    presets = {
        "quick": (TrainConfig(epochs=5, batch_size=128, negatives=5, learning_rate=1e-2, epoch_examples=5000),
                  HEMConfig()),
        "small": (TrainConfig(epochs=12, batch_size=512, negatives=5, learning_rate=1e-2, weight_decay=0.01,
                              schedule="cosine"),
                  HEMConfig()),
        "full": (TrainConfig(epochs=20, batch_size=512, negatives=5, learning_rate=1e-2, weight_decay=0.01,
                             schedule="cosine",
                             patience=10), HEMConfig()),
        # Width and epochs as released for Kindle; its SGD at a rate of 0.5 on single words does not carry over: the
        # batch of the other search methods at the recipe's rate.
        "paper": (PAPER.model_copy(update={"learning_rate": 1e-3}), HEMConfig(width=100)),
    }
    word_power = 0.75

    def __init__(self, config: HEMConfig, corpus: Corpus, *, tables: Tables | None = None) -> None:
        super().__init__(config, corpus, tables=tables)
        self.users = embedding(corpus.n_users, config.width)

    def state(self, batch: Batch) -> Tensor:
        """An unknown user, 0, is the zero vector."""
        return torch.lerp(self.users(batch.user), self.queries(batch.query), self.config.query_weight)

    def losses(self, batch: Batch) -> dict[str, Tensor]:
        """The terms of the base and `user_words`: BCE per (word, sampled word) of the item the user clicked."""
        terms = super().losses(batch)
        if self.config.word_loss:
            terms["user_words"] = self.word_loss(self.users, batch.user, batch.candidates[batch.labels > 0])
        return terms
