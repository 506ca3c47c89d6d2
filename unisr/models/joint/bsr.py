"""BSR: one sequence-to-sequence model that answers a history or a query with the token of an item."""

from __future__ import annotations

import torch
import torch.nn.functional as F
from pydantic import Field
from torch import Tensor

from unisr.config import ModelConfig, TrainConfig
from unisr.data.batches import Batch
from unisr.data.corpus import Corpus
from unisr.data.schema import Task
from unisr.models.backbone import Backbone, BackboneConfig
from unisr.models.base import Tables
from unisr.models.item_tokens import ItemTokens
from unisr.models.tokenizer import register_texts
from unisr.registry import Card, register

PROMPTS = {"rec": "was chosen . recommend the next item :", "src": "is searched . find the item :"}
"""What follows the history, or the query, of each task."""


class BSRConfig(ModelConfig):
    backbone: BackboneConfig = BackboneConfig()
    """A small T5 built here, or any hub id or folder, such as google/flan-t5-base."""
    history: int = Field(20, ge=1)
    """Latest recommendation events read, one token each."""
    query_tokens: int = Field(32, ge=1)
    """Tokens kept of a query."""
    noise: float = Field(0.1, gt=0)
    """Spread of the initial item vectors about the mean token vector, as a share of the spread of token vectors."""
    search_weight: float = Field(1.0, ge=0)
    """Weight of the search loss."""


@register
class BSR(ItemTokens):
    """A softmax over one token per item after the tokens of the history, or the query's words, and a prompt.

    One table holds the item tokens of input and output (Penha et al.).
    """

    card = Card(
        name="BSR",
        family="joint",
        tasks=("rec", "src"),
        paper="Penha, Vardasbi, Palumbo, De Nadai and Bouchard, "
        "Bridging Search and Recommendation in Generative Retrieval: Does One Task Help the Other?, RecSys 2024",
        signals=("rec history", "current query"),
        loss="softmax cross-entropy over all items of both tasks; no sampled negatives",
        departures=(
            "backbone offline: a small T5 built from a config, trained from scratch, in place of flan-t5-base "
            "(`backbone` brings it back)",
            "no code is public: prompts, schedule and a history of 20 are our choice",
            "softmax over the items alone (the paper: over the vocabulary extended by them)",
            "one table for item tokens of input and output, with a bias each (flan-t5 has two); its rows start from "
            "the mean of the token vectors plus noise of a tenth of their spread",
            "the prompt follows what is read, so that padding on the left moves nothing",
        ),
    )
    Config = BSRConfig

    def __init__(self, config: BSRConfig, corpus: Corpus, *, tables: Tables | None = None) -> None:
        super().__init__(config, corpus, tables=tables)
        self.backbone = Backbone(config.backbone, [*corpus.query_texts, *PROMPTS.values()])
        texts = {"query": corpus.query_texts, **{f"prompt_{task}": [text] for task, text in PROMPTS.items()}}
        register_texts(self, self.backbone.tokenizer, texts, limit=config.query_tokens)
        self.add_item_tokens(noise=config.noise)

    @property
    def history_length(self) -> tuple[int, int]:
        return (self.config.history, 0)

    def states(self, batch: Batch, task: str) -> Tensor:
        """Answer states of a batch whose rows are all of `task`, `[B, d]`."""
        tokens, mask = getattr(self, f"prompt_{task}_tokens"), getattr(self, f"prompt_{task}_mask")
        prompt = self.backbone.embedding(tokens).expand(len(batch), -1, -1)
        if task == "rec":
            seen = batch.tasks == int(Task.REC)
            read = self.items(batch.items * seen)
        else:
            seen = self.query_mask[batch.query]
            read = self.backbone.embedding(self.query_tokens[batch.query])
        return self.backbone.answers(torch.cat([read, prompt], 1), torch.cat([seen, mask.expand(len(batch), -1)], 1))

    def losses(self, batch: Batch) -> dict[str, Tensor]:
        """`rec`, `src` (weighted): -log softmax of the positive over the catalog, the mean over the task's rows."""
        positives = (batch.candidates * (batch.labels > 0)).amax(1)
        terms = {}
        for name, rows in batch.by_task():
            states = self.states(batch.select(rows), name)
            terms[name] = F.cross_entropy(self.catalog_logits(states), positives[rows] - 1)
        if "src" in terms:
            terms["src"] = terms["src"] * self.config.search_weight
        return terms

    def score(self, batch: Batch) -> Tensor:
        scores = self.bias.new_zeros(batch.candidates.shape)
        for name, rows in batch.by_task():
            part = self.logits(self.states(batch.select(rows), name), batch.candidates[rows])
            scores = scores.index_copy(0, rows, part)
        return scores

    def score_catalog(self, batch: Batch) -> Tensor:
        scores = self.bias.new_zeros(len(batch), self.corpus.n_items)
        for name, rows in batch.by_task():
            scores = scores.index_copy(0, rows, self.catalog_logits(self.states(batch.select(rows), name)))
        return scores


def _training(epochs: int, examples: int | None, **changes: object) -> TrainConfig:
    settings = dict(epochs=epochs, epoch_examples=examples, batch_size=128, negatives=1, learning_rate=3e-3,
                    schedule="linear", warmup_steps=100, clip_norm=1.0, patience=epochs)  # fmt: skip
    return TrainConfig.model_validate({**settings, **changes})


BSR.presets = {
    "quick": (_training(3, 4000, warmup_steps=10, validation_users=50), BSRConfig(history=10)),
    "small": (_training(6, 20_000, learning_rate=5e-3, validation_users=300), BSRConfig()),
    "full": (_training(20, 25_000, learning_rate=5e-3, validation_users=400), BSRConfig()),
    # flan-t5-base, 5 epochs and batches of 128 are BSR's; the rate is not published and ours, as is the history.
    "paper": (_training(5, None, learning_rate=1e-3, precision="bf16", validation_users=1000),
              BSRConfig(backbone=BackboneConfig(name="google/flan-t5-base"), history=50)),
}
