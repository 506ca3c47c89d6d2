"""CoLLM: a language model reads liked titles and, in slots, collaborative vectors, and answers Yes or No."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager, nullcontext

import torch
from pydantic import Field
from torch import Tensor, nn

from unisr.config import ModelConfig, TrainConfig
from unisr.data.batches import Batch
from unisr.data.corpus import Corpus
from unisr.data.schema import Task
from unisr.errors import ConfigError
from unisr.models.backbone import Backbone, BackboneConfig
from unisr.models.base import Scorer, Tables, required_table
from unisr.models.losses import task_bce
from unisr.models.tokenizer import register_texts
from unisr.registry import Card, register

WORDS = {"history": "the user has enjoyed :", "user": ". taste of the user :", "ask": ". would the user enjoy this ?",
         "item": "taste :", "cue": "answer :"}  # fmt: skip
"""The prompt: history, titles, user, <user slot>, ask; then for each candidate its title, item, <item slot>, cue."""
BOTH, TEXT, SLOTS = 0, 1, 2
"""Stages: slots and language model learn together; the language model from text alone; the slots alone."""


class CoLLMConfig(ModelConfig):
    backbone: BackboneConfig = BackboneConfig()
    """A small T5 built here, or any hub id or folder; with pretrained weights, adapter='lora' is the paper's form."""
    history: int = Field(10, ge=1)
    """Latest recommendation events whose titles are read."""
    title_tokens: int = Field(8, ge=1)
    """Tokens kept of an item's text."""
    expansion: int = Field(10, ge=1)
    """Hidden width of g, in widths of a collaborative vector."""
    text_share: float = Field(0.6, gt=0, lt=1)
    """Share of the epochs that belong to the first stage."""
    two_stages: bool = True
    """False trains the language model and g together in all epochs."""


@register
class CoLLM(Scorer):
    """s_c = logit(Yes) - logit(No) after the prompt; a slot holds g(x) = W_2 ReLU(W_1 x + b_1) + b_2 (Zhang et al.).

    x is LightGCN's vector of the user or of the candidate, its table scaled to unit mean square. Stage 1 trains the
    language model on prompts without slots, stage 2 only g. All candidates of a row share its prefix.
    """

    card = Card(
        name="CoLLM",
        family="recommendation",
        tasks=("rec",),
        paper="Zhang, Feng, Zhang, Bao, Wang and He, "
        "CoLLM: Integrating Collaborative Embeddings into Large Language Models for Recommendation, TKDE 2025",
        signals=("rec history", "item text", "user id", "cf table"),
        loss="BCE over 1 + 4 uniform negatives",
        departures=(
            "backbone offline: a small T5 built from a config, trained whole in stage 1, in place of Vicuna-7B or "
            "Qwen2-1.5B with LoRA, which needs pretrained weights (`backbone` brings them, with adapter='lora')",
            "logit(Yes) - logit(No) where the released code trains the logit of the positive answer alone",
            "sampled negatives: the data have no dislikes",
            "one pass for all candidates of a row: with T5 the shared prefix does not see the candidate (with a causal "
            "model it never does)",
            "a candidate's title fills a fixed number of positions, short ones after padding tokens that are read; "
            "titles are cut to 8 tokens, histories to 10 events",
            "one learning-rate schedule for both stages; LightGCN's vectors stay as they are in stage 2",
        ),
        requires=("LightGCN",),
    )
    Config = CoLLMConfig

    def __init__(self, config: CoLLMConfig, corpus: Corpus, *, tables: Tables | None = None) -> None:
        super().__init__(config, corpus, tables=tables)
        self.backbone = Backbone(config.backbone, [*corpus.item_texts, *WORDS.values()])
        if not self.backbone.can_pack:
            raise ConfigError(f"backbone {config.backbone.name!r} cannot be packed; take T5 or a causal model")
        tokenizer = self.backbone.tokenizer
        register_texts(self, tokenizer, {"title": corpus.item_texts}, limit=config.title_tokens)
        register_texts(self, tokenizer, {name: [words] for name, words in WORDS.items()}, limit=32)
        for name, rows in (("user", corpus.n_users), ("item", corpus.n_items)):
            self.register_buffer(f"{name}_cf", self._cf(f"{name}_propagated", rows), persistent=False)
        width = self.item_cf.shape[1]
        self.g = nn.Sequential(
            nn.Linear(width, config.expansion * width), nn.ReLU(),
            nn.Linear(config.expansion * width, self.backbone.width),
        )  # fmt: skip
        self.register_buffer("stage", torch.tensor(BOTH))

    @property
    def history_length(self) -> tuple[int, int]:
        return (self.config.history, 0)

    def start_epoch(self, epoch: int, epochs: int) -> None:
        """The first `text_share` of the epochs, at least one, are stage 1."""
        if self.config.two_stages:
            first = max(1, round(self.config.text_share * epochs))
            self.stage.fill_(TEXT if epoch < first else SLOTS)

    def losses(self, batch: Batch) -> dict[str, Tensor]:
        """`rec`: BCE per candidate; gradients reach what the stage trains."""
        held = frozen(self.backbone) if self.stage == SLOTS else nullcontext()
        with held:
            return task_bce(self.score(batch), batch.labels, batch.task)

    def score(self, batch: Batch) -> Tensor:
        logits = self.backbone.logits(self.backbone.packed_answers(*self._prefix(batch), self._blocks(batch)))
        return logits[..., 0] - logits[..., 1]

    def _prefix(self, batch: Batch) -> tuple[Tensor, Tensor]:
        """What the candidates of a row share: embeddings [B, P, d] and their mask [B, P]."""
        size = len(batch)
        seen = (batch.tasks == int(Task.REC))[:, -self.config.history :]
        items = batch.items[:, -self.config.history :] * seen
        titles = self.backbone.embedding(self.title_tokens[items]).flatten(1, 2)
        parts = [self._words("history", size), (titles, self.title_mask[items].flatten(1))]
        if self.stage != TEXT:
            slot = self.g(self.user_cf[batch.user]).unsqueeze(1)
            parts += [self._words("user", size), (slot, slot.new_ones(size, 1, dtype=torch.bool))]
        parts.append(self._words("ask", size))
        return torch.cat([x for x, _ in parts], 1), torch.cat([mask for _, mask in parts], 1)

    def _blocks(self, batch: Batch) -> Tensor:
        """What is each candidate's own, [B, C, m, d]: title, slot, cue."""
        shape = (*batch.candidates.shape, -1, -1)
        parts = [self.backbone.embedding(self.title_tokens[batch.candidates])]
        if self.stage != TEXT:
            parts.append(self.backbone.embedding(self.item_tokens).expand(shape))
            parts.append(self.g(self.item_cf[batch.candidates]).unsqueeze(2))
        parts.append(self.backbone.embedding(self.cue_tokens).expand(shape))
        return torch.cat(parts, 2)

    def _words(self, name: str, size: int) -> tuple[Tensor, Tensor]:
        tokens, mask = getattr(self, f"{name}_tokens"), getattr(self, f"{name}_mask")
        return self.backbone.embedding(tokens).expand(size, -1, -1), mask.expand(size, -1)

    def _cf(self, name: str, rows: int) -> Tensor:
        """LightGCN's table `name`, [rows + 1, d_cf], as a whole at unit mean square; row 0 stays zero."""
        table = required_table(self.tables, "LightGCN", name, rows=rows).float()
        # One scale for all rows: the length of a LightGCN vector grows with popularity, which the answer needs.
        return table / table[1:].square().mean().sqrt()


@contextmanager
def frozen(module: nn.Module) -> Iterator[None]:
    """No gradient reaches the module's parameters in this block; it still flows through them to the inputs.

    They stay trainable outside, so that checkpoints and stored weights hold them.
    """
    trained = [p for p in module.parameters() if p.requires_grad]
    for parameter in trained:
        parameter.requires_grad_(False)
    try:
        yield
    finally:
        for parameter in trained:
            parameter.requires_grad_(True)


def _training(epochs: int, examples: int, **changes: object) -> TrainConfig:
    """No early stop: it could end in the first stage."""
    settings = dict(epochs=epochs, epoch_examples=examples, batch_size=64, learning_rate=2e-3, schedule="linear",
                    warmup_steps=50, clip_norm=1.0, patience=epochs, validation_users=200,
                    evaluation_batch=16)  # fmt: skip
    return TrainConfig.model_validate({**settings, **changes})


PAPER = CoLLMConfig(
    backbone=BackboneConfig(name="google/flan-t5-base", adapter="lora", dropout=0.05), title_tokens=20,
)  # fmt: skip
"""LoRA of rank 8, alpha 16 and dropout .05 on q and v, decay, warm-up, schedule and g's width are CoLLM's. Ours:
flan-t5-base for parity with GenSR (CoLLM: Vicuna-7B; GenSR does not name its own), the rate (CoLLM: one per dataset and
stage), batch and epochs."""

CoLLM.presets = {
    "quick": (_training(3, 1000, warmup_steps=5, validation_users=50), CoLLMConfig(history=5)),
    "small": (_training(8, 5000), CoLLMConfig()),
    "full": (_training(16, 12_000, validation_users=400), CoLLMConfig()),
    "paper": (
        _training(20, 100_000, batch_size=40, learning_rate=1e-3, schedule="cosine", warmup_steps=200,
                  weight_decay=1e-3, precision="bf16", validation_users=1000), PAPER,
    ),
}
