"""GenSAR: one T5 that writes the next item's id, one of two ids of an item: of search or of recommendation."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import replace

import pandas as pd
import torch
from torch import Tensor, nn
from torch.nn import functional as F
from transformers import T5ForConditionalGeneration

from unisr.data.batches import Batch
from unisr.data.corpus import Corpus
from unisr.errors import ConfigError
from unisr.models.backbone import Backbone
from unisr.models.base import Scorer, Tables
from unisr.models.generative.gensar_config import PRESETS, GenSARConfig
from unisr.models.generative.gensar_ids import fitted_ids, id_levels, id_tokens
from unisr.models.generative.gensar_prompts import TOKENS, Prompts, prompt_texts
from unisr.models.generative.gensar_tasks import alignment_losses
from unisr.models.id_writer import IdWriter, head_logits
from unisr.models.identifiers import ItemIds
from unisr.models.tree_decoder import beam_search, score_candidates, score_catalog
from unisr.models.trie import Trie
from unisr.registry import Card, register


@register
class GenSAR(Scorer):
    """s_c = sum_t log p(z_t(c) | z_<t(c), prompt, history, query), z(c) c's id of the row's task (Shi et al.).

    The softmax at step t is over the codes of level t alone. The decoder starts with the token of the behavior, rec
    item or search item: the released code writes it first, where it is the only legal token, so that log p is 0.
    Items that share an id have equal scores.
    """

    card = Card(
        name="GenSAR",
        family="generative",
        tasks=("rec", "src"),
        paper="Shi et al., Unified Generative Search and Recommendation, 2025",
        signals=("rec history", "search history", "current query", "past queries", "item text", "cf table"),
        loss="cross-entropy per token of six tasks: next rec item, next search item, next query, ad-hoc search, "
        "text to id, id to text; no negatives",
        departures=(
            "backbone offline: a T5 of 1 + 1 layers built from a config and trained from scratch, in place of t5-small",
            "LightGCN's item vectors in place of UniSAR's, MiniLM sentence vectors in place of bge-base's",
            "64 codes a level in place of 256, for a catalog of about 1,000 items",
            "softmax over the codes of a level, or over the words (released: over the whole vocabulary); every item is "
            "scored exactly (released: 30 beams over 100 candidates)",
            "the behavior's token starts the decoder in place of being written first; no end token after an id",
            "pseudo queries are random words of the item's text in place of doc2query's",
            "three wordings a task of our own in place of ten; no separator between the events of a history",
            "a row weighs the same however many tokens its target has; presets draw half as many ad-hoc and fewer rows "
            "of the other tasks, as next-item rows (`ratios` brings equal and the released shares back)",
        ),
        requires=("LightGCN",),
    )
    Config = GenSARConfig
    presets = PRESETS

    def __init__(self, config: GenSARConfig, corpus: Corpus, *, tables: Tables | None = None) -> None:
        super().__init__(config, corpus, tables=tables)
        settings = config.dual.model_copy(update={"kind": config.identifiers})
        self.ids = fitted_ids(settings, corpus, self.tables)
        backbone = Backbone(config.backbone, [*corpus.item_texts, *corpus.query_texts, *prompt_texts()])
        if not isinstance(backbone.model, T5ForConditionalGeneration):
            raise ConfigError(
                f"backbone {config.backbone.name!r} is no T5, which GenSAR needs; use 't5' or a T5's hub id"
            )
        if config.backbone.adapter != "none":
            raise ConfigError(f"adapter {config.backbone.adapter!r}: the codes' vectors must be trained; use 'none'")
        self.model: T5ForConditionalGeneration = backbone.model
        self.tokenizer = backbone.tokenizer
        self.words = self.model.get_input_embeddings().num_embeddings
        """Words of the vocabulary; the tokens of behaviors and codes follow."""
        self.levels, vocabulary = id_levels(self.ids, self.words + len(TOKENS), config.dual.shared_levels)
        self._extend(vocabulary, fresh=config.backbone.from_config)
        ids = {kind: id_tokens(getattr(self.ids, kind).codes, self.levels[kind]) for kind in self.levels}
        limits = (config.query_tokens, config.text_tokens)
        self.prompts = Prompts(backbone.tokenizer, corpus, first=self.words, ids=ids, limits=limits)
        self._plant()
        self.register_load_state_dict_post_hook(lambda scorer, _: scorer._plant())

    @property
    def history_length(self) -> tuple[int, int]:
        return self.config.history, self.config.history

    @property
    def start_token(self) -> int:
        """Of targets that begin with no behavior."""
        return self.model.config.decoder_start_token_id

    def losses(self, batch: Batch) -> dict[str, Tensor]:
        """`rec`, `src`: nats per token of the positive's id, the mean over the task's rows; see `alignment_losses`."""
        positives = (batch.candidates * (batch.labels > 0)).amax(1)
        terms = {}
        for task, rows in batch.by_task():
            tokens = self.prompts.read(batch.select(rows), task)
            terms[task] = self.id_nll(tokens, positives[rows], kind=task).mean()
        return terms | (alignment_losses(self, batch) if self.config.alignment else {})

    def score(self, batch: Batch) -> Tensor:
        """[B, C] log p of the candidates' ids, nats, each exact."""

        def scored(task: str, rows: Tensor, states: Tensor, mask: Tensor) -> tuple[Tensor]:
            return (score_candidates(self.writer(task), self.tries[task], states, mask, batch.candidates[rows]),)

        return self._by_task(batch, scored)[0]

    def score_catalog(self, batch: Batch) -> Tensor:
        def scored(task: str, rows: Tensor, states: Tensor, mask: Tensor) -> tuple[Tensor]:
            return (score_catalog(self.writer(task), self.tries[task], states, mask),)

        return self._by_task(batch, scored)[0]

    def generate(self, batch: Batch, k: int, *, width: int = 30) -> tuple[Tensor, Tensor]:
        """The k likeliest items that a beam finds in the catalog, [B, k], and log p of their ids, nats, [B, k]."""

        def found(task: str, rows: Tensor, states: Tensor, mask: Tensor) -> tuple[Tensor, Tensor]:
            return beam_search(self.writer(task), self.tries[task], states, mask, k=k, width=width)

        return self._by_task(batch, found)

    def writer(self, kind: str, *, start: int | None = None) -> IdWriter:
        """The decoder of `rec` or `src` ids, which starts with the behavior's token unless told otherwise."""
        return IdWriter(self.model, self.levels[kind], start=self.prompts.behavior[kind] if start is None else start)

    def encode(self, tokens: Tensor) -> tuple[Tensor, Tensor]:
        """Encoder states [n, S, d] of tokens [n, S], and which are valid, [n, S]."""
        mask = tokens > 0
        return self.model.get_encoder()(input_ids=tokens, attention_mask=mask.long()).last_hidden_state, mask

    def readable(self, tokens: Tensor) -> list[str]:
        """Tokens [n, S] as text, a line per row: behaviors as <query>, codes as <level:code>.

        Levels count from 1; those that one kind of id has alone are <rec 3:code> and <src 3:code>.
        """
        names = {number: f"<{name}>" for name, number in self.prompts.behavior.items()}
        alone = self.levels["rec"] != self.levels["src"]
        for kind, levels in self.levels.items():
            for level, (first, size) in enumerate(levels, 1):
                own = f"{kind} " if alone and level > self.config.dual.shared_levels else ""
                names |= {first + code: f"<{own}{level}:{code}>" for code in range(size)}
        words = self.tokenizer.convert_ids_to_tokens
        return [" ".join(names.get(t) or words(t) for t in row if t) for row in tokens.tolist()]

    def id_nll(self, tokens: Tensor, items: Tensor, *, kind: str, start: int | None = None) -> Tensor:
        """-log p per token of the ids of items [n] after encoder tokens [n, S], nats, [n]."""
        target, writer = self.prompts.ids(kind)[items], self.writer(kind, start=start)
        hidden = self._decoded(tokens, target, writer.first)
        nll = [
            F.cross_entropy(writer.level_logits(t, hidden[:, t]), target[:, t] - first, reduction="none")
            for t, (first, _) in enumerate(writer.levels)
        ]
        return torch.stack(nll).mean(0)

    def text_nll(self, tokens: Tensor, target: Tensor, *, start: int) -> Tensor:
        """-log p per token of words target [n, W] (0 after the end) after encoder tokens [n, S], nats, [n]."""
        valid = target > 0
        logits = head_logits(self.model, self._decoded(tokens, target, start)[valid], slice(0, self.words))
        nll = F.cross_entropy(logits, target[valid], reduction="none")
        return nll.new_zeros(target.shape).masked_scatter(valid, nll).sum(1) / valid.sum(1)

    def _decoded(self, tokens: Tensor, target: Tensor, start: int) -> Tensor:
        """Decoder states [n, W, d] that predict the tokens of target [n, W]."""
        states, mask = self.encode(tokens)
        return self.model.get_decoder()(
            input_ids=F.pad(target, (1, -1), value=start), encoder_hidden_states=states,
            encoder_attention_mask=mask.long(), use_cache=False,
        ).last_hidden_state  # fmt: skip

    def _by_task(self, batch: Batch, step: Callable[..., tuple[Tensor, ...]]) -> tuple[Tensor, ...]:
        """`step` on the encoded rows of each task, its outputs back in the order of the batch."""
        parts = batch.by_task()
        made = [step(task, rows, *self.encode(self.prompts.read(batch.select(rows), task))) for task, rows in parts]
        back = torch.cat([rows for _, rows in parts]).argsort()
        return tuple(torch.cat(columns)[back] for columns in zip(*made, strict=True))

    def _extend(self, vocabulary: int, *, fresh: bool) -> None:
        """Vectors for the tokens of behaviors and codes: T5's initial ones, or drawn about a pretrained T5's words."""
        self.model.resize_token_embeddings(vocabulary, mean_resizing=not fresh)
        # With T5's learned bias, scaled_dot_product_attention takes a path that is slower than plain products on a CPU.
        self.model.set_attn_implementation("eager")

    def _plant(self) -> None:
        """The tries of the ids held, and `ids` where loaded weights brought others than were fitted here."""
        codes = {
            kind: self.prompts.ids(kind) - torch.tensor([first for first, _ in levels]).to(self.prompts.ids(kind))
            for kind, levels in self.levels.items()
        }
        for held in codes.values():
            held[0] = -1
        self.tries = nn.ModuleDict({kind: Trie(held).to(held.device) for kind, held in codes.items()})
        kept = {kind: ItemIds(held.cpu(), getattr(self.ids, kind).sizes) for kind, held in codes.items()}
        if any(not torch.equal(made.codes, getattr(self.ids, kind).codes) for kind, made in kept.items()):
            report = pd.concat([made.report(ids=kind, stage="after") for kind, made in kept.items()], ignore_index=True)
            self.ids = replace(self.ids, **kept, report=report)
