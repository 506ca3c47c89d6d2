"""IDGenRec: a T5 reads the textual ids of the items chosen and writes the next item's."""

from __future__ import annotations

from typing import Literal

import torch
from pydantic import Field
from torch import Tensor

from unisr.config import TrainConfig
from unisr.data.batches import Batch
from unisr.data.corpus import Corpus
from unisr.models.base import Tables
from unisr.models.generative.next_id import NextId, NextIdConfig
from unisr.models.textual_ids import id_tokens, textual_ids
from unisr.registry import Card, register

PROMPT = "what does the user choose after"
PAD, END = "<pad>", "</s>"


class IDGenRecConfig(NextIdConfig):
    least_words: int = Field(2, ge=1)
    most_words: int = Field(5, ge=1)
    """Words of an item's id; shorter texts give shorter ids, equal texts longer ones."""
    normalize: Literal["sum", "mean"] = "sum"
    """Score: log p of the whole id, or per token, as beams with a length penalty of 1 rank."""


@register
class IDGenRec(NextId):
    """s_c = sum_t log p(z_t(c) | z_<t(c), x), z(c) the words of c's textual id and an end token, x the prompt.

    The prompt is a fixed wording and the ids of the latest history items (Tan et al., Eq. 1 and 4).
    """

    card = Card(
        name="IDGenRec",
        family="recommendation",
        tasks=("rec",),
        paper="Tan et al., IDGenRec: LLM-RecSys Alignment with Textual ID Learning, SIGIR 2024",
        signals=("rec history", "item text"),
        loss="cross-entropy over the words at every token of the target's id; no negatives",
        departures=(
            "no user id in the prompt: the released one is generated from the whole sequence, test item included",
            "the id generator is fixed and not learned: the words of highest tf-idf in place of a T5 trained for tags "
            "(the released id_lr of 1e-8 hardly moves it), so there are no alternating rounds",
            "words of letters and digits in the order of the text; equal texts are told apart by a running number",
            "the recommender is a small T5 built from a config, trained from scratch, one token per word, "
            "in place of t5-small",
            "causal encoder, trained on all events of a window in one pass (`encoder` brings the paper's back)",
            "one wording of the prompt (released: ten)",
            "candidates are ranked by log p of their ids, unnormalized (released: beams, mean per token: `normalize`)",
        ),
    )
    Config = IDGenRecConfig

    def __init__(self, config: IDGenRecConfig, corpus: Corpus, *, tables: Tables | None = None) -> None:
        super().__init__(config, corpus, tables=tables)
        self.ids = textual_ids(corpus.item_texts, least=config.least_words, most=config.most_words)
        self.vocabulary = {token: number for number, token in enumerate((PAD, END, *PROMPT.split()))}
        table = id_tokens(self.ids, self.vocabulary, end=self.vocabulary[END])
        prompt = torch.tensor([self.vocabulary[word] for word in PROMPT.split()])
        self.register_buffer("prompt", prompt, persistent=False)
        # One vocabulary of words at every place of an id; padding is a class too, as in the library's own loss.
        self.build_model(table, [(0, len(self.vocabulary))] * table.shape[1], len(self.vocabulary))

    def prefix(self, user: Tensor) -> Tensor:
        return self.prompt.expand(len(user), -1)

    def score(self, batch: Batch) -> Tensor:
        """[B, C] log p of the candidates' ids, nats, each exact; divided by their tokens where the config says mean."""
        return self._normalized(super().score(batch), batch.candidates)

    def score_catalog(self, batch: Batch) -> Tensor:
        return self._normalized(super().score_catalog(batch), torch.arange(1, self.corpus.n_items + 1))

    def _normalized(self, scores: Tensor, items: Tensor) -> Tensor:
        lengths = (self.id_tokens[items.to(scores.device)] > 0).sum(-1).clamp(min=1)
        return scores / lengths if self.config.normalize == "mean" else scores


def _training(epochs: int, **changes: float) -> TrainConfig:
    """Few windows in a batch: a window trains on all of its targets."""
    settings = dict(epochs=epochs, batch_size=8, learning_rate=3e-3, schedule="linear", warmup_steps=100,
                    clip_norm=1.0, patience=epochs, validation_users=200, evaluation_batch=32)  # fmt: skip
    return TrainConfig.model_validate({**settings, **changes})


PAPER = IDGenRecConfig(width=512, layers=6, heads=8, feed_forward=2048, dropout=0.1, encoder="bidirectional",
                       normalize="mean")  # fmt: skip
"""t5-small's sizes. Its training is the released recommender's: 3 rounds of 10 epochs, batches of 64, warm-up over 5 %
of the steps (of Kindle's). Weights start at random, since the words of the ids are a vocabulary of their own."""

IDGenRec.presets = {
    "quick": (_training(4, warmup_steps=10), IDGenRecConfig()),
    "small": (_training(12), IDGenRecConfig()),
    "full": (_training(30, validation_users=400), IDGenRecConfig()),
    "paper": (_training(30, batch_size=64, learning_rate=1e-3, weight_decay=0.01, warmup_steps=1600), PAPER),
}
