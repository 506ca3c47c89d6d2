"""GenSR: dual-view histories in a task-specific prompt, answered Yes or No by a language model."""

from __future__ import annotations

from typing import Literal

import torch
from pydantic import Field, model_validator
from torch import Tensor, nn
from torch.nn import functional as F

from unisr.config import ModelConfig, TrainConfig
from unisr.data.batches import Batch
from unisr.data.corpus import Corpus
from unisr.data.schema import TASKS
from unisr.errors import ConfigError
from unisr.models.backbone import Backbone, BackboneConfig
from unisr.models.base import Scorer, Tables
from unisr.models.dual_view import (
    BilinearFilter,
    MeanFilter,
    MultiHeadFilter,
    ReleasedContrastive,
    contrastive_loss,
)
from unisr.models.layers import SequenceEncoder
from unisr.models.pooling import masked_mean
from unisr.models.prompts import WORDINGS, Segments, Wording, prompt_texts
from unisr.models.tokenizer import token_table
from unisr.registry import Card, TaskName, register

Part = tuple[Tensor, Tensor]
"""Embeddings [B, T, d] and their validity mask [B, T]."""
Encoded = tuple[Tensor, Tensor, Tensor]
"""C_u [B, N, d_cf], S_u [B, N', d] and the semantic mask [B, N']."""
TITLE_TOKENS = 10
"""Tokens per history item where the semantic history is a sequence of tokens (released code)."""


class GenSRConfig(ModelConfig):
    """Hyper-parameters and switches; every default is the paper's form, `released()` the published code's."""

    backbone: BackboneConfig = BackboneConfig()
    layout: Literal["joint", "packed"] = "packed"
    """joint: one prompt per candidate, as in the paper; packed: one prefix per user and a block per candidate."""
    history: int = Field(20, ge=1)
    """N, the latest events of both tasks that are read."""
    item_tokens: int = Field(32, ge=1)
    """Tokens kept of an item's text."""
    cf_table: Literal["propagated", "ego"] = "propagated"
    """Which LightGCN table: after propagation, or the layer-0 weights the released code loads."""
    freeze_cf: bool = True
    encoder_layers: int = Field(1, ge=1)
    encoder_heads: int = Field(2, ge=1)
    positions: bool = True
    """Learned positions in the history encoders; the released code has none."""
    dropout: float = Field(0.1, ge=0, lt=1)
    semantic_unit: Literal["item", "token"] = "item"
    """One vector per history item (Eq. 6), or the first ten tokens of each as in the released code."""
    filter: Literal["multihead", "bilinear", "none"] = "multihead"
    """Soft filtering: Eq. 7–8, the released bilinear form, or the mean of the history."""
    slots: Literal["filtered", "sequence", "sequence+filtered"] = "filtered"
    """What stands in the two history slots of Eq. 9: the filtered vectors of Eq. 8 (also the released form), the
    sequences C_u, S_u that Eq. 9 prints, or both. Eq. 8's vectors have no other place in the model."""
    wording: Wording = "concise"
    query: bool = True
    """Whether the search prompt holds the query; the released code never fills it in."""
    contrastive: Literal["paper", "released", "none"] = "paper"
    temperature: float = Field(0.07, gt=0)
    beta: float = Field(0.01, ge=0)
    """Weight of the contrastive term, Eq. 11."""
    answers: Literal["two", "vocabulary"] = "two"
    """Softmax of Eq. 12 over {Yes, No} (constrained generation) or over the whole vocabulary."""
    ranking: Literal["margin", "probability"] = "margin"
    """Score: logit(Yes) - logit(No), or P(Yes) over the vocabulary, which underflows to ties."""

    @model_validator(mode="after")
    def _possible(self) -> GenSRConfig:
        if self.semantic_unit == "token" and self.slots != "filtered":
            raise ValueError("semantic_unit='token' has 10 positions per item: it needs slots='filtered'")
        return self

    @classmethod
    def released(cls, **changes: object) -> GenSRConfig:
        """Every switch as in the released code (reference/gensr.md section 6)."""
        switches = dict(
            layout="joint", cf_table="ego", positions=False, semantic_unit="token", filter="bilinear", slots="filtered",
            wording="released", query=False, contrastive="released", answers="vocabulary", ranking="probability",
        )  # fmt: skip
        return cls.model_validate({**switches, **changes})


@register
class GenSR(Scorer):
    """Generative search and recommendation with dual views (Zhao et al. 2025, Eq. 5–12)."""

    card = Card(
        name="GenSR",
        family="joint",
        tasks=("rec", "src"),
        paper="Zhao et al., Unifying Search and Recommendation with Dual-View Representation Learning "
        "in a Generative Paradigm, 2025",
        signals=("rec history", "search history", "current query", "item text", "cf table"),
        loss="Yes/No cross-entropy on 1 positive and uniform negatives (Eq. 12) + beta x contrastive (Eq. 10)",
        departures=(
            "backbone offline: a small T5 built from a config, trained from scratch, in place of flan-t5-base",
            "packed layout: one prefix per user, a block per candidate (the paper's is layout='joint')",
            "the history slots of Eq. 9 hold the filtered vectors of Eq. 8 (Eq. 9 prints the sequences C_u, S_u)",
            "softmax over the two answers in place of the vocabulary (constrained generation)",
            "C_u and S_u enter Eq. 10 as means over the history, C_u through the slot projection",
        ),
        requires=("LightGCN",),
    )
    Config = GenSRConfig

    def __init__(self, config: GenSRConfig, corpus: Corpus, *, tables: Tables | None = None) -> None:
        super().__init__(config, corpus, tables=tables)
        texts = [*corpus.item_texts, *corpus.query_texts, *self.prompt_texts()]
        self.backbone = Backbone(config.backbone, texts)
        if config.layout == "packed" and not self.backbone.can_pack:
            raise ConfigError(
                f"backbone {config.backbone.name!r} cannot be packed (T5 and causal models can); set layout='joint'"
            )
        self._add_tokens(config, corpus)
        self._add_views(config, corpus)

    def _add_tokens(self, config: GenSRConfig, corpus: Corpus) -> None:
        tokenizer = self.backbone.tokenizer
        segments = self.wording()
        tables = {
            "item": token_table(tokenizer, corpus.item_texts, limit=config.item_tokens),
            "query": token_table(tokenizer, corpus.query_texts, limit=config.item_tokens),
            **{
                f"segment_{k}": token_table(tokenizer, ["", segments["rec"][k], segments["src"][k]], limit=128)
                for k in range(5)
            },
        }
        for name, (tokens, mask) in tables.items():
            self.register_buffer(f"{name}_tokens", tokens, persistent=False)
            self.register_buffer(f"{name}_mask", mask, persistent=False)
        if config.semantic_unit == "token":
            titles = [row[row > 0][:TITLE_TOKENS] for row in self.item_tokens]
            titles = torch.stack([F.pad(row, (0, TITLE_TOKENS - len(row))) for row in titles])
            self.register_buffer("title_tokens", titles, persistent=False)

    def _add_views(self, config: GenSRConfig, corpus: Corpus) -> None:
        try:
            table = self.tables["LightGCN"][f"item_{config.cf_table}"]
        except KeyError:
            raise ConfigError(
                f"GenSR needs LightGCN's table 'item_{config.cf_table}'; run it through unisr.run"
            ) from None
        if len(table) != corpus.n_items + 1:
            raise ConfigError(
                f"LightGCN's table has {len(table) - 1} items, the corpus {corpus.n_items}: not the same dataset"
            )
        # Unit variance per entry puts CF vectors on the scale of the backbone's embeddings.
        table = F.normalize(table.float(), dim=-1) * table.shape[1] ** 0.5
        self.cf_table = nn.Embedding.from_pretrained(table, freeze=config.freeze_cf, padding_idx=0)
        cf_width, width = table.shape[1], self.backbone.width
        units = config.history * (TITLE_TOKENS if config.semantic_unit == "token" else 1)
        self.cf_encoder = self._encoder(config, cf_width, config.history)
        self.semantic_encoder = self._encoder(config, width, units)
        self.cf_filter, self.semantic_filter = (_filter(config, w) for w in (cf_width, width))
        self.projection = nn.Linear(cf_width, width)
        if config.contrastive == "released":
            self.released_contrastive = ReleasedContrastive(width)

    def _encoder(self, config: GenSRConfig, width: int, length: int) -> SequenceEncoder:
        return SequenceEncoder(
            width, heads=config.encoder_heads, layers=config.encoder_layers, dropout=config.dropout, norm="post",
            length=length if config.positions else None,
        )  # fmt: skip

    def wording(self) -> dict[TaskName, Segments]:
        """The text segments of the prompt of each task."""
        return WORDINGS[self.config.wording]

    def prompt_texts(self) -> list[str]:
        """What a tokenizer built here must know beside the catalogue: all wordings, so that they share one."""
        return prompt_texts()

    @property
    def history_length(self) -> tuple[int, int]:
        return self.config.history, self.config.history

    def text(self, items: Tensor) -> Tensor:
        """Mean token embedding of the items' texts: [...] ids -> [..., d]."""
        tokens = self.item_tokens[items.reshape(-1)]
        return F.embedding_bag(tokens, self.backbone.embedding.weight, mode="mean", padding_idx=0).unflatten(
            0, items.shape
        )

    def views(self, items: Tensor) -> Encoded:
        """Encoded histories of items [B, N]: C_u [B, N, d_cf] (Eq. 5), S_u [B, N', d] (Eq. 6), semantic mask [B, N'].

        N' is N, or 10 N where the semantic unit is the token.
        """
        mask = items > 0
        cf = self.cf_encoder(self.cf_table(items), mask)
        if self.config.semantic_unit == "item":
            return cf, self.semantic_encoder(self.text(items), mask), mask
        tokens = self.title_tokens[items].flatten(1)
        mask = tokens > 0
        return cf, self.semantic_encoder(self.backbone.embedding(tokens), mask), mask

    def losses(self, batch: Batch) -> dict[str, Tensor]:
        """Eq. 11: `rec` + `src` = Eq. 12 averaged over all candidates of the batch, and beta x Eq. 10."""
        encoded, mask, slots, _ = self._read(batch)
        states = self._states(batch, encoded, mask, slots)
        vocabulary = self.config.answers == "vocabulary"
        logits = self.backbone.logits(states, vocabulary=vocabulary)
        no = 1 - batch.labels.long()
        target = self.backbone.answer_ids[no] if vocabulary else no
        nll = F.cross_entropy(logits.flatten(0, 1), target.flatten(), reduction="none").view_as(batch.labels)
        terms = {name: (nll * (batch.task == task)[:, None]).sum() / nll.numel() for name, task in TASKS.items()}
        if self.config.contrastive != "none" and self.config.beta > 0:
            terms["contrastive"] = self.config.beta * self._alignment(batch, mask, encoded, slots)
        return terms

    def score(self, batch: Batch) -> Tensor:
        """[B, C] logit(Yes) - logit(No), or P(Yes) where the config asks for the released ranking."""
        encoded, mask, slots, _ = self._read(batch)
        states = self._states(batch, encoded, mask, slots)
        if self.config.ranking == "probability":
            return self.backbone.logits(states, vocabulary=True).softmax(-1)[..., self.backbone.answer_ids[0]]
        logits = self.backbone.logits(states)
        return logits[..., 0] - logits[..., 1]

    @torch.no_grad()
    def explain(self, batch: Batch) -> dict[str, Tensor]:
        """Soft-filter weights over the history: `cf` and `semantic`, each [B, C, L], aligned with `batch.items`."""
        _, mask, _, weights = self._read(batch)
        if self.config.semantic_unit == "token":
            weights["semantic"] = weights["semantic"].unflatten(-1, (mask.shape[1], TITLE_TOKENS)).sum(-1)
        unread = batch.items.shape[1] - mask.shape[1]
        return {view: F.pad(w, (unread, 0)) for view, w in weights.items()}

    def _read(self, batch: Batch) -> tuple[Encoded, Tensor, list[Tensor], dict[str, Tensor]]:
        """Both views of the last N events, their mask [B, N], the four slots and the soft-filter weights."""
        items = (batch.items * (batch.tasks > 0))[:, -self.config.history :]
        encoded = self.views(items)
        return encoded, items > 0, *self._slots(encoded, items > 0, batch.candidates)

    def _slots(self, encoded: Encoded, mask: Tensor, candidates: Tensor) -> tuple[list[Tensor], dict]:
        """The four slots of Eq. 9, each [B, C, d], and the soft-filter weights."""
        cf, semantic, semantic_mask = encoded
        e, s = self.cf_table(candidates), self.text(candidates)
        cf_filtered, cf_weights = self.cf_filter(e, cf, mask)
        sem_filtered, sem_weights = self.semantic_filter(s, semantic, semantic_mask)
        slots = [self.projection(cf_filtered), sem_filtered, self.projection(e), s]
        return slots, {"cf": cf_weights, "semantic": sem_weights}

    def _alignment(self, batch: Batch, mask: Tensor, encoded: Encoded, slots: list[Tensor]) -> Tensor:
        temperature = self.config.temperature
        if self.config.contrastive == "released":
            return self.released_contrastive(slots[0].flatten(0, 1), slots[1].flatten(0, 1), temperature=temperature)
        cf, semantic, semantic_mask = encoded
        known = mask.any(1)
        u, v = masked_mean(self.projection(cf), mask)[known], masked_mean(semantic, semantic_mask)[known]
        return contrastive_loss(u, v, batch.user[known], temperature=temperature) if known.any() else u.sum()

    def prompts(self, batch: Batch) -> Part:
        """The joint layout's prompts, one per candidate (Eq. 9): embeddings [B·C, S, d] and mask [B·C, S]."""
        encoded, mask, slots, _ = self._read(batch)
        return self._joint(batch, encoded, mask, slots)

    def _states(self, batch: Batch, encoded: Encoded, mask: Tensor, slots: list[Tensor]) -> Tensor:
        """Answer states [B, C, d] by the configured layout."""
        if self.config.layout == "packed":
            return self.backbone.packed_answers(*self._packed(batch, encoded, mask, slots))
        states = self.backbone.answers(*self._joint(batch, encoded, mask, slots))
        return states.unflatten(0, batch.candidates.shape)

    def _packed(
        self, batch: Batch, encoded: Encoded, mask: Tensor, slots: list[Tensor]
    ) -> tuple[Tensor, Tensor, Tensor]:
        """Shared prefix (query, text, sequences) and one block per candidate (slots, last token of the text)."""
        text = [self._segment(k, batch.task) for k in range(5)]
        histories = self._sequences(encoded, mask)
        end = tuple(x[:, :-1] for x in text[4])
        prefix = [self._query(batch), text[0], histories[0], text[1], histories[1], text[2], text[3], end]
        cue = text[4][0][:, None, -1:].expand(-1, slots[0].shape[1], -1, -1)
        own = slots[2:] if self.config.slots == "sequence" else slots
        return *join_parts(prefix), torch.cat([torch.stack(own, dim=2), cue], dim=2)

    def _joint(self, batch: Batch, encoded: Encoded, mask: Tensor, slots: list[Tensor]) -> Part:
        """One prompt per candidate: shared parts are repeated, slots differ."""
        count = batch.candidates.shape[1]

        def shared(part: Part) -> Part:
            return tuple(x.repeat_interleave(count, dim=0) for x in part)

        def slot(vector: Tensor) -> Part:
            flat = vector.flatten(0, 1).unsqueeze(1)
            return flat, torch.ones(flat.shape[:2], dtype=torch.bool, device=flat.device)

        text = [shared(self._segment(k, batch.task)) for k in range(5)]
        histories = [[shared(h)] for h in self._sequences(encoded, mask)]
        if self.config.slots != "sequence":
            histories = [[*h, slot(filtered)] for h, filtered in zip(histories, slots[:2], strict=True)]
        parts = [shared(self._query(batch)), text[0], *histories[0], text[1], *histories[1]]
        return join_parts([*parts, text[2], slot(slots[2]), text[3], slot(slots[3]), text[4]])

    def _sequences(self, encoded: Encoded, mask: Tensor) -> list[Part]:
        """The sequences C_u (projected) and S_u that stand in the history slots; empty where the config has none."""
        cf, semantic, semantic_mask = encoded
        if self.config.slots == "filtered":
            return [(semantic[:, :0], semantic_mask[:, :0])] * 2
        return [(self.projection(cf), mask), (semantic, semantic_mask)]

    def _segment(self, k: int, task: Tensor) -> Part:
        tokens, mask = getattr(self, f"segment_{k}_tokens"), getattr(self, f"segment_{k}_mask")
        return self.backbone.embedding(tokens)[task], mask[task]

    def _query(self, batch: Batch) -> Part:
        rows = batch.query if self.config.query else torch.zeros_like(batch.query)
        return self.backbone.embedding(self.query_tokens[rows]), self.query_mask[rows]


def join_parts(parts: list[Part]) -> Part:
    return torch.cat([x for x, _ in parts], dim=1), torch.cat([m for _, m in parts], dim=1)


def _filter(config: GenSRConfig, width: int) -> nn.Module:
    if config.filter == "multihead":
        return MultiHeadFilter(width, config.encoder_heads)
    return BilinearFilter(width) if config.filter == "bilinear" else MeanFilter()


def _training(epochs: int, examples: int, **changes: float) -> TrainConfig:
    """From scratch: a linear schedule that ends with the epochs; few queries at once, each has 100 candidates."""
    settings = dict(
        epochs=epochs, epoch_examples=examples, batch_size=64, learning_rate=2e-3, schedule="linear", warmup_steps=100,
        clip_norm=1.0, validation_users=200, evaluation_batch=16,
    )  # fmt: skip
    return TrainConfig.model_validate({**settings, **changes})


GenSR.presets = {
    "quick": (_training(3, 2000, warmup_steps=10), GenSRConfig()),
    "small": (_training(10, 15_000), GenSRConfig()),
    "full": (_training(12, 25_000, validation_users=400), GenSRConfig()),
}
