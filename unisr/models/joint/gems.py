"""GEMS' task: a causal language model answers a prompt of both tasks' history with the token of an item."""

from __future__ import annotations

from dataclasses import replace

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from unisr.data.batches import Batch
from unisr.data.corpus import Corpus
from unisr.errors import ConfigError
from unisr.models.backbone import packed_mask
from unisr.models.base import Scorer, Tables, required_table
from unisr.models.causal_lm import adapted, adapter_of, linear_layers, load_lm, norm_gains
from unisr.models.identifiers import atomic, semantic_ids
from unisr.models.joint.gems_config import PRESETS, PROMPT, GEMSConfig
from unisr.models.tokenizer import register_texts, token_table
from unisr.registry import Card, register
from unisr.training.pretraining import document_start

PACKED = 128
"""Semantic ids behind one prompt when the whole catalog is scored."""


@register
class GEMS(Scorer):
    """s_c = e_c · h: h the state of the prompt's last token, e_c the vector of item c (Zhao et al.).

    e_c is the item's vector in the prompt and in the softmax over all words and items that is trained. With semantic
    ids z(c), s_c = sum_t log p(z_t(c) | prompt, z_<t(c)), nats, p a softmax over the codes of level t; trained is the
    mean over t of a softmax over all words and codes.

    What makes it GEMS is how it is trained: `training.subspace` (see `unisr.training.gems`), with a null space taken
    from `general`. Without it this is full tuning, or LoRA and its kin (`adapter`).
    """

    card = Card(
        name="GEMS",
        family="joint",
        tasks=("rec", "src"),
        paper="Zhao, Wang, Pan, Verberne and Ren, Unifying Search and Recommendation in LLMs via Gradient "
        "Multi-Subspace Tuning, SIGIR 2026",
        signals=("rec history", "search history", "current query", "item text"),
        loss="softmax cross-entropy over all words and items; no sampled negatives",
        departures=(
            "a causal LM with pretrained weights (the released code builds a T5 with random ones): by default a small "
            "Llama that unisr pretrains on prose of installed packages, SmolLM2-135M in the full preset",
            "null space from second moments of layer inputs, on the final update (released: of outputs, on gradients, "
            "which leaks; `training.subspace.null_space.side`)",
            "the shared gradient is the tasks' own, weighted by counts (released: a third pass)",
            "word vectors and norms stay as they are (`trained` brings the released form back)",
            "item vectors start from the words of the item's text (released: at random)",
            "recommendation also learns every event of a row's history (`history_weight`, released: 0): the few steps "
            "that a CPU affords teach little else",
            "no end token after the item; candidates are ranked by their logits (released: a beam of 20 over a trie)",
            "settings of rank, gap and learning rate are our own; the released rank of 1024 is full rank at width 768",
        ),
    )
    Config = GEMSConfig
    presets = PRESETS

    def __init__(self, config: GEMSConfig, corpus: Corpus, *, tables: Tables | None = None) -> None:
        super().__init__(config, corpus, tables=tables)
        self.tokenizer, self.lm = load_lm(config.lm)
        if self.lm.config.is_encoder_decoder and (config.identifiers == "semantic" or config.history_weight):
            raise ConfigError(f"language model {config.lm.name!r} has an encoder, which reads a history from both ends "
                              "and writes no codes behind it; set model.identifiers=atomic and "
                              "model.history_weight=0")  # fmt: skip
        self._register_prompt()
        settings, tables = config.semantic, self.tables
        atoms = config.identifiers == "atomic"
        self.ids = atomic(corpus.n_items) if atoms else semantic_ids(settings, corpus, tables).with_counter()
        # A fit may end elsewhere on another machine, so the ids are stored with the vectors of their codes.
        self.register_buffer("codes", self.ids.tokens(), persistent=not atoms)
        width = self.lm.get_input_embeddings().embedding_dim
        self.items = nn.Embedding(1 + sum(self.ids.sizes), width, padding_idx=0)
        self._start_items()
        self._choose_trained()

    @property
    def history_length(self) -> tuple[int, int]:
        return (self.config.history, self.config.history)

    @property
    def general(self) -> Tensor:
        """General text in the LM's tokens, [N, T] int64, on the CPU: what null spaces are taken from.

        Raises:
            ConfigError: the scorer was built without it.
        """
        return required_table(self.tables, "prose", "projection")

    def covered(self) -> dict[str, nn.Linear]:
        """The linear layers of the LM's blocks; none beside adapters, which are trained in their place."""
        return {} if self.config.adapter != "none" else linear_layers(self.lm)

    def losses(self, batch: Batch) -> dict[str, Tensor]:
        """`rec`, `src`: -log softmax of the positive over all words and items, nats, the mean over the task's rows.

        With `history_weight` w, `rec` + w times the same of each event's item after the one before, mean over events.
        """
        positives = self.codes[(batch.candidates * (batch.labels > 0)).amax(1)]
        terms = {}
        for task, rows in batch.by_task():
            target = positives[rows]
            hidden, length = self._hidden(batch.select(rows), task, target[:, None, :-1])
            terms[task] = self._nll(hidden[:, length - 1 :], target)
            if task == "rec" and self.config.history_weight:
                terms[task] = terms[task] + self.config.history_weight * self._history_nll(hidden, batch.select(rows))
        return terms

    def _nll(self, states: Tensor, codes: Tensor) -> Tensor:
        """Mean -log softmax of codes [...] over all words and codes after states [..., d], nats."""
        words = self.lm.get_output_embeddings().weight
        logits = torch.cat([states @ self.items.weight[1:].T, states @ words.T], dim=-1).float()
        return F.cross_entropy(logits.flatten(0, -2), codes.flatten() - 1)

    def _history_nll(self, hidden: Tensor, batch: Batch) -> Tensor:
        codes = self._history(batch)
        start = self.history_tokens.shape[1]
        follows = (codes[:, 1:] > 0) & (codes[:, :-1] > 0)
        if not follows.any():
            return hidden.new_zeros(())
        return self._nll(hidden[:, start : start + codes.shape[1] - 1][follows], codes[:, 1:][follows])

    def _history(self, batch: Batch) -> Tensor:
        """Codes of the latest events of both tasks, [B, L · T], 0 where there is none."""
        seen = batch.tasks[:, -self.config.history :] > 0
        return self.codes[batch.items[:, -self.config.history :] * seen].flatten(1)

    def score(self, batch: Batch) -> Tensor:
        if self.config.identifiers == "atomic":
            return self.score_catalog(batch).gather(1, batch.candidates - 1)
        scores = self.items.weight.new_zeros(batch.candidates.shape, dtype=torch.float32)
        for task, rows in batch.by_task():
            scores = scores.index_copy(0, rows, self._written(batch.select(rows), task))
        return scores

    def score_catalog(self, batch: Batch) -> Tensor:
        if self.config.identifiers == "semantic":
            items = torch.arange(1, self.corpus.n_items + 1, device=batch.user.device)
            parts = [part.expand(len(batch), -1) for part in items.split(PACKED)]
            return torch.cat([self.score(replace(batch, candidates=part)) for part in parts], dim=1)
        scores = self.items.weight.new_zeros(len(batch), self.corpus.n_items, dtype=torch.float32)
        for task, rows in batch.by_task():
            states, _ = self.states(batch.select(rows), task)
            scores = scores.index_copy(0, rows, (states @ self.items.weight[1:].T).float())
        return scores

    def _written(self, batch: Batch, task: str) -> Tensor:
        """log p of the candidates' semantic ids, nats, [B, C], of rows that are all of `task`."""
        codes = self.codes[batch.candidates]
        first, later = self.states(batch, task, codes[..., :-1])
        total, start = 0.0, 1
        for level, size in enumerate(self.ids.sizes):
            states = first.unsqueeze(1) if level == 0 else later[:, :, level - 1]
            log_p = (states @ self.items.weight[start : start + size].T).float().log_softmax(-1)
            chosen = codes[..., level : level + 1] - start
            total = total + log_p.expand(*chosen.shape[:2], -1).gather(2, chosen).squeeze(2)
            start += size
        return total

    def states(self, batch: Batch, task: str, blocks: Tensor | None = None) -> tuple[Tensor, Tensor]:
        """States of a batch whose rows are all of `task`: of the prompt's last token [B, d], and of blocks.

        blocks [B, C, m]: rows of `items` behind the prompt; each sees it and, causally, itself; [B, C, m, d].
        """
        hidden, length = self._hidden(batch, task, blocks)
        shape = (len(batch), 0, 0) if blocks is None else blocks.shape
        return hidden[:, length - 1], hidden[:, length:].reshape(*shape, hidden.shape[-1])

    def _hidden(self, batch: Batch, task: str, blocks: Tensor | None) -> tuple[Tensor, int]:
        """States of the prompt and of blocks behind it, [B, S + C · m, d], and S."""
        embeds, mask = self.prompt(batch, task)
        if self.lm.config.is_encoder_decoder:
            return self._decoded(embeds, mask, task), 1
        length, positions, seen = mask.shape[1], (mask.cumsum(-1) - 1).clamp(min=0), mask.long()
        if blocks is not None and blocks.numel():
            count, size = blocks.shape[1:]
            places = torch.arange(1, size + 1, device=mask.device).repeat(count) + positions[:, -1:]
            positions = torch.cat([positions, places], dim=1)
            embeds = torch.cat([embeds, self.items(blocks.flatten(1))], dim=1)
            bias = torch.where(packed_mask(mask, count, size), 0.0, torch.finfo(embeds.dtype).min)
            seen = bias[:, None].to(embeds.dtype)
        with adapter_of(self.lm, task, self.config.adapter):
            out = self.lm.get_decoder()(
                inputs_embeds=embeds, attention_mask=seen, position_ids=positions, use_cache=False
            )
        return out.last_hidden_state, length

    def _decoded(self, embeds: Tensor, mask: Tensor, task: str) -> Tensor:
        """State of a decoder's first token after an encoder has read the prompt, [B, 1, d]."""
        # Without gaps: T5 knows distances by place, not by position ids.
        order = mask.int().argsort(dim=1, stable=True)
        embeds, mask = embeds.gather(1, order.unsqueeze(-1).expand_as(embeds)), mask.gather(1, order)
        start = torch.full((len(embeds), 1), self.lm.config.decoder_start_token_id, device=embeds.device)
        with adapter_of(self.lm, task, self.config.adapter):
            read = self.lm.get_encoder()(inputs_embeds=embeds, attention_mask=mask.long()).last_hidden_state
            out = self.lm.get_decoder()(
                input_ids=start, encoder_hidden_states=read, encoder_attention_mask=mask.long(), use_cache=False
            )
        scaled = getattr(self.lm.config, "scale_decoder_outputs", False)
        return out.last_hidden_state * (embeds.shape[-1] ** -0.5 if scaled else 1.0)

    def prompt(self, batch: Batch, task: str) -> tuple[Tensor, Tensor]:
        """Vectors [B, S, d] and mask [B, S] of the prompts; gaps are masked, the last position is valid."""
        codes = self._history(batch)
        parts = [self._words("history", batch), (self.items(codes), codes > 0), self._words(task, batch)]
        if task == "src":
            queries = self.lm.get_input_embeddings()(self.query_tokens[batch.query])
            parts += [(queries, self.query_mask[batch.query]), self._words("find", batch)]
        embeds, masks = zip(*parts, strict=True)
        return torch.cat(embeds, dim=1), torch.cat(masks, dim=1)

    def _words(self, name: str, batch: Batch) -> tuple[Tensor, Tensor]:
        tokens = getattr(self, f"{name}_tokens").expand(len(batch), -1)
        return self.lm.get_input_embeddings()(tokens), torch.ones_like(tokens, dtype=torch.bool)

    def _register_prompt(self) -> None:
        """Tokens of the prompt's parts; the first begins as a document does."""
        begin = document_start(self.tokenizer)
        for name, text in PROMPT.items():
            tokens = self.tokenizer(text, add_special_tokens=False)["input_ids"]
            tokens = begin + tokens if name == "history" else tokens
            self.register_buffer(f"{name}_tokens", torch.tensor([tokens]), persistent=False)
        register_texts(self, self.tokenizer, {"query": self.corpus.query_texts}, limit=self.config.query_tokens)

    @torch.no_grad()
    def _start_items(self) -> None:
        known = self.lm.get_input_embeddings().weight
        if self.config.item_start == "random":
            self.items.weight.normal_(std=float(known.std()))
        else:
            tokens, mask = token_table(self.tokenizer, self.corpus.item_texts, limit=self.config.title_tokens)
            texts = (known[tokens] * mask.unsqueeze(-1)).sum(1) / mask.sum(1, keepdim=True).clamp(min=1)
            counts = torch.bincount(self.codes.flatten(), minlength=len(self.items.weight)).unsqueeze(1)
            self.items.weight.zero_()
            for level in self.codes.T:
                self.items.weight.index_add_(0, level, texts)
            self.items.weight.div_(counts.clamp(min=1))
        self.items.weight[0].zero_()

    def _choose_trained(self) -> None:
        config = self.config
        if config.adapter != "none":
            self.lm = adapted(self.lm, config.adapter, rank=config.adapter_rank, alpha=config.adapter_alpha)
        elif config.trained == "covered":
            self.lm.requires_grad_(False)
            for layer in self.covered().values():
                layer.weight.requires_grad_(True)
            for gain in norm_gains(self.lm) if config.norms else ():
                gain.requires_grad_(True)
