"""GenSR: dual-view histories in a task-specific prompt, answered Yes or No by a language model."""

from __future__ import annotations

from typing import Literal

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from unisr.data.batches import Batch
from unisr.data.corpus import Corpus
from unisr.data.schema import TASKS
from unisr.errors import ConfigError
from unisr.models.backbone import Backbone
from unisr.models.base import Scorer, Tables, required_table
from unisr.models.dual_view import BilinearFilter, MeanFilter, MultiHeadFilter, ReleasedContrastive, contrastive_loss
from unisr.models.joint.gensr_config import PRESETS, GenSRConfig
from unisr.models.layers import SequenceEncoder, mean_embedding
from unisr.models.pooling import masked_mean
from unisr.models.prompts import WORDINGS, Segments, prompt_texts
from unisr.models.tokenizer import register_texts
from unisr.registry import Card, TaskName, register

Part = tuple[Tensor, Tensor]
"""Embeddings [B, T, d] and their validity mask [B, T]."""
View = Literal["cf", "semantic"]
PARTS: dict[View, tuple[str, ...]] = {
    "cf": ("cf_table", "cf_encoder", "cf_filter", "projection"),
    "semantic": ("semantic_encoder", "semantic_filter"),
}
"""The modules of each view, in the order of the slots."""
Encoded = dict[View, Part]
"""C_u [B, N, d_cf] and S_u [B, N', d], each with its mask; N' is N, or 10 N where the semantic unit is the token."""
Slots = tuple[dict[View, Tensor], dict[View, Tensor]]
"""The slots of Eq. 9 by view, each [B, C, d]: those of the history and those of the candidate."""
TITLE_TOKENS = 10
"""Tokens per history item where the semantic history is a sequence of tokens (released code)."""


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
    presets = PRESETS

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
        if not config.task_prompts:
            segments = dict.fromkeys(segments, segments["rec"])
        texts = {"item": corpus.item_texts, "query": corpus.query_texts}
        register_texts(self, tokenizer, texts, limit=config.item_tokens)
        words = {f"segment_{k}": ["", segments["rec"][k], segments["src"][k]] for k in range(5)}
        register_texts(self, tokenizer, words, limit=128)
        if config.semantic_unit == "token":
            titles = [row[row > 0][:TITLE_TOKENS] for row in self.item_tokens]
            titles = torch.stack([F.pad(row, (0, TITLE_TOKENS - len(row))) for row in titles])
            self.register_buffer("title_tokens", titles, persistent=False)

    def _add_views(self, config: GenSRConfig, corpus: Corpus) -> None:
        table = required_table(self.tables, "LightGCN", f"item_{config.cf_table}", rows=corpus.n_items)
        # Unit variance per entry puts CF vectors on the scale of the backbone's embeddings.
        table = F.normalize(table.float(), dim=-1) * table.shape[1] ** 0.5
        self.cf_table = nn.Embedding.from_pretrained(table, freeze=config.freeze_cf, padding_idx=0)
        cf_width, width = table.shape[1], self.backbone.width
        units = config.history * (TITLE_TOKENS if config.semantic_unit == "token" else 1)
        self.cf_encoder = self._encoder(config, cf_width, config.history)
        self.semantic_encoder = self._encoder(config, width, units)
        self.cf_filter, self.semantic_filter = (_filter(config, w) for w in (cf_width, width))
        self.projection = nn.Linear(cf_width, width)
        # Built whole and then taken apart, so that what a single view keeps starts as in the whole model.
        for name in (name for view in PARTS if not self.has(view) for name in PARTS[view]):
            delattr(self, name)
        if config.contrastive == "released" and self.aligned:
            self.released_contrastive = ReleasedContrastive(width)

    def has(self, view: View) -> bool:
        """Whether the config keeps this view."""
        return self.config.views in ("both", view)

    @property
    def aligned(self) -> bool:
        """Whether the loss has the contrastive term, which aligns two views."""
        return self.config.contrastive != "none" and self.config.beta > 0 and self.config.views == "both"

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
        means = mean_embedding(self.backbone.embedding, self.item_tokens[items.reshape(-1)])
        return means.unflatten(0, items.shape)

    def views(self, items: Tensor) -> Encoded:
        """Encoded histories of items [B, N] by view: C_u (Eq. 5) and S_u (Eq. 6)."""
        mask, encoded = items > 0, {}
        if self.has("cf"):
            encoded["cf"] = self.cf_encoder(self.cf_table(items), mask), mask
        if self.has("semantic"):
            if self.config.semantic_unit == "item":
                vectors = self.text(items)
            else:
                tokens = self.title_tokens[items].flatten(1)
                vectors, mask = self.backbone.embedding(tokens), tokens > 0
            encoded["semantic"] = self.semantic_encoder(vectors, mask), mask
        return encoded

    def losses(self, batch: Batch) -> dict[str, Tensor]:
        """Eq. 11: `rec` + `src` = Eq. 12 averaged over all candidates of the batch, and beta x Eq. 10."""
        encoded, slots, _ = self._read(batch)
        states = self._states(batch, encoded, slots)
        vocabulary = self.config.answers == "vocabulary"
        logits = self.backbone.logits(states, vocabulary=vocabulary)
        no = 1 - batch.labels.long()
        target = self.backbone.answer_ids[no] if vocabulary else no
        nll = F.cross_entropy(logits.flatten(0, 1), target.flatten(), reduction="none").view_as(batch.labels)
        terms = {name: (nll * (batch.task == task)[:, None]).sum() / nll.numel() for name, task in TASKS.items()}
        if self.aligned:
            terms["contrastive"] = self.config.beta * self._alignment(batch, encoded, slots[0])
        return terms

    def score(self, batch: Batch) -> Tensor:
        """[B, C] logit(Yes) - logit(No), or P(Yes) where the config asks for the released ranking."""
        encoded, slots, _ = self._read(batch)
        states = self._states(batch, encoded, slots)
        if self.config.ranking == "probability":
            return self.backbone.logits(states, vocabulary=True).softmax(-1)[..., self.backbone.answer_ids[0]]
        logits = self.backbone.logits(states)
        return logits[..., 0] - logits[..., 1]

    @torch.no_grad()
    def explain(self, batch: Batch) -> dict[str, Tensor]:
        """Soft-filter weights over the history by view, each [B, C, L], aligned with `batch.items`."""
        _, _, weights = self._read(batch)
        if self.config.semantic_unit == "token" and self.has("semantic"):
            weights["semantic"] = weights["semantic"].unflatten(-1, (-1, TITLE_TOKENS)).sum(-1)
        return {view: F.pad(w, (batch.items.shape[1] - w.shape[-1], 0)) for view, w in weights.items()}

    def _read(self, batch: Batch) -> tuple[Encoded, Slots, dict[View, Tensor]]:
        """The encoded last N events, the slots and the soft-filter weights."""
        encoded = self.views((batch.items * (batch.tasks > 0))[:, -self.config.history :])
        return encoded, *self._slots(encoded, batch.candidates)

    def _slots(self, encoded: Encoded, candidates: Tensor) -> tuple[Slots, dict[View, Tensor]]:
        """The slots of Eq. 9 and the soft-filter weights."""
        history, candidate, weights = {}, {}, {}
        if self.has("cf"):
            vectors = self.cf_table(candidates)
            filtered, weights["cf"] = self.cf_filter(vectors, *encoded["cf"])
            history["cf"], candidate["cf"] = self.projection(filtered), self.projection(vectors)
        if self.has("semantic"):
            candidate["semantic"] = self.text(candidates)
            history["semantic"], weights["semantic"] = self.semantic_filter(
                candidate["semantic"], *encoded["semantic"]
            )
        return (history, candidate), weights

    def _alignment(self, batch: Batch, encoded: Encoded, history: dict[View, Tensor]) -> Tensor:
        """Eq. 10 over both views; the released form reads the slots of the history."""
        temperature = self.config.temperature
        if self.config.contrastive == "released":
            flat = (history[view].flatten(0, 1) for view in PARTS)
            return self.released_contrastive(*flat, temperature=temperature)
        (cf, mask), (semantic, semantic_mask) = encoded["cf"], encoded["semantic"]
        known = mask.any(1)
        u, v = masked_mean(self.projection(cf), mask)[known], masked_mean(semantic, semantic_mask)[known]
        return contrastive_loss(u, v, batch.user[known], temperature=temperature) if known.any() else u.sum()

    def prompts(self, batch: Batch) -> Part:
        """The joint layout's prompts, one per candidate (Eq. 9): embeddings [B·C, S, d] and mask [B·C, S]."""
        encoded, slots, _ = self._read(batch)
        return self._joint(batch, encoded, slots)

    def _states(self, batch: Batch, encoded: Encoded, slots: Slots) -> Tensor:
        """Answer states [B, C, d] by the configured layout."""
        if self.config.layout == "packed":
            return self.backbone.packed_answers(*self._packed(batch, encoded, slots))
        states = self.backbone.answers(*self._joint(batch, encoded, slots))
        return states.unflatten(0, batch.candidates.shape)

    def _packed(self, batch: Batch, encoded: Encoded, slots: Slots) -> tuple[Tensor, Tensor, Tensor]:
        """Shared prefix (query, text, sequences) and one block per candidate (slots, last token of the text)."""
        text = [self._segment(k, batch.task) for k in range(5)]
        sequences = self._sequences(encoded)
        end = tuple(x[:, :-1] for x in text[4])
        prefix = [self._query(batch), text[0], *sequences["cf"], text[1], *sequences["semantic"], *text[2:4], end]
        cue = text[4][0][:, None, -1:].expand(-1, batch.candidates.shape[1], -1, -1)
        history = () if self.config.slots == "sequence" else slots[0].values()
        return *join_parts(prefix), torch.cat([torch.stack([*history, *slots[1].values()], dim=2), cue], dim=2)

    def _joint(self, batch: Batch, encoded: Encoded, slots: Slots) -> Part:
        """One prompt per candidate: shared parts are repeated, slots differ."""
        count = batch.candidates.shape[1]

        def shared(part: Part) -> Part:
            return tuple(x.repeat_interleave(count, dim=0) for x in part)

        def slot(vectors: dict[View, Tensor], view: View) -> list[Part]:
            flat = [vectors[view].flatten(0, 1).unsqueeze(1)] if view in vectors else []
            return [(x, torch.ones(x.shape[:2], dtype=torch.bool, device=x.device)) for x in flat]

        text = [shared(self._segment(k, batch.task)) for k in range(5)]
        histories = {view: [shared(part) for part in parts] for view, parts in self._sequences(encoded).items()}
        if self.config.slots != "sequence":
            histories = {view: [*parts, *slot(slots[0], view)] for view, parts in histories.items()}
        parts = [shared(self._query(batch)), text[0], *histories["cf"], text[1], *histories["semantic"]]
        return join_parts([*parts, text[2], *slot(slots[1], "cf"), text[3], *slot(slots[1], "semantic"), text[4]])

    def _sequences(self, encoded: Encoded) -> dict[View, list[Part]]:
        """The sequences C_u (projected) and S_u that stand in the history slots; none where the config has none."""
        sequences: dict[View, list[Part]] = {view: [] for view in PARTS}
        if self.config.slots != "filtered":
            for view, (vectors, mask) in encoded.items():
                sequences[view] = [(self.projection(vectors) if view == "cf" else vectors, mask)]
        return sequences

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
