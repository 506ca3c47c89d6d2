"""IDGenRec: a T5 reads the textual ids of the items chosen and writes the next item's."""

from __future__ import annotations

from typing import Literal

import torch
import torch.nn.functional as F
from pydantic import Field
from torch import Tensor
from transformers import T5Config, T5ForConditionalGeneration

from unisr.config import ModelConfig, TrainConfig
from unisr.data.batches import Batch, SequenceBatch
from unisr.data.corpus import Corpus
from unisr.data.schema import Task
from unisr.models.base import Scorer, Tables
from unisr.models.textual_ids import id_tokens, textual_ids
from unisr.registry import Card, register

PROMPT = "what does the user choose after"
PAD, END = "<pad>", "</s>"
ABREAST = 16
"""Ids in one decoder row."""


class IDGenRecConfig(ModelConfig):
    width: int = Field(64, ge=8)
    layers: int = Field(1, ge=1)
    """Of the encoder and of the decoder each."""
    heads: int = Field(4, ge=1)
    feed_forward: int = Field(128, ge=8)
    dropout: float = Field(0.0, ge=0, lt=1)
    history: int = Field(20, ge=1)
    """Latest recommendation events whose ids are read."""
    least_words: int = Field(2, ge=1)
    most_words: int = Field(5, ge=1)
    """Words of an item's id; shorter texts give shorter ids, equal texts longer ones."""
    encoder: Literal["causal", "bidirectional"] = "causal"
    """causal trains on every event of a window in one pass; bidirectional, the paper's, on one event drawn from it."""
    normalize: Literal["sum", "mean"] = "sum"
    """Score: log p of the whole id, or per token, as beams with a length penalty of 1 rank."""


@register
class IDGenRec(Scorer):
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
    feeds_on = "sequences"

    def __init__(self, config: IDGenRecConfig, corpus: Corpus, *, tables: Tables | None = None) -> None:
        super().__init__(config, corpus, tables=tables)
        self.ids = textual_ids(corpus.item_texts, least=config.least_words, most=config.most_words)
        self.vocabulary = {token: number for number, token in enumerate((PAD, END, *PROMPT.split()))}
        table = id_tokens(self.ids, self.vocabulary, end=self.vocabulary[END])
        prompt = torch.tensor([self.vocabulary[word] for word in PROMPT.split()])
        self.register_buffer("id_tokens", table, persistent=False)
        self.register_buffer("prompt", prompt, persistent=False)
        shape = T5Config(
            vocab_size=len(self.vocabulary), d_model=config.width, d_kv=config.width // config.heads,
            d_ff=config.feed_forward, num_layers=config.layers, num_heads=config.heads, dropout_rate=config.dropout,
            feed_forward_proj="relu", pad_token_id=0, eos_token_id=1, decoder_start_token_id=0,
        )  # fmt: skip
        self.model = T5ForConditionalGeneration(shape)
        # T5's own token table has deviation 1, from which a training this short does not come down.
        torch.nn.init.normal_(self.model.get_input_embeddings().weight, std=0.1)

    @property
    def history_length(self) -> tuple[int, int]:
        return (self.config.history, 0)

    def losses(self, batch: SequenceBatch) -> dict[str, Tensor]:
        """`rec`: the mean over the tokens of all targets, or of one per window with the bidirectional encoder."""
        items, targets, states = self._seen(batch), batch.targets, batch.states
        if self.config.encoder == "bidirectional":
            items, targets, states = self._drawn(items, targets, states)
        nll = self.token_nll(*self.encode(items), states, self.id_tokens[targets])
        # A window without a target has no token; the sum keeps it connected to the weights.
        return {"rec": nll.sum() / (self.id_tokens[targets] > 0).sum().clamp(min=1)}

    def score(self, batch: Batch) -> Tensor:
        """[B, C] log p of the candidates' ids, nats: all teacher-forced against one encoder pass."""
        items = self._seen(batch)
        ids = self.id_tokens[batch.candidates]
        last = torch.full_like(batch.candidates, items.shape[1] - 1)
        scores = -self.token_nll(*self.encode(items), last, ids).sum(-1)
        return scores / (ids > 0).sum(-1).clamp(min=1) if self.config.normalize == "mean" else scores

    def encode(self, items: Tensor) -> tuple[Tensor, Tensor]:
        """Encoder states of the prompt and the ids of items [B, L], [B, S, d], and the history column of each, [B, S].

        Tokens stand without gaps at the end of a row, so that padding on the left changes nothing. The column is -1
        for the prompt and L where padded.
        """
        size, length = items.shape
        tokens = torch.cat([self.prompt.expand(size, -1), self.id_tokens[items].flatten(1)], dim=1)
        columns = torch.arange(length, device=items.device).repeat_interleave(self.id_tokens.shape[1])
        columns = F.pad(columns, (len(self.prompt), 0), value=-1)
        valid = tokens > 0
        kept = int(valid.sum(1).max())
        order = valid.long().argsort(dim=1, stable=True)[:, -kept:]
        tokens, valid, columns = tokens.gather(1, order), valid.gather(1, order), columns[order]
        allowed = valid[:, None, None, :].expand(-1, 1, kept, -1)
        if self.config.encoder == "causal":
            allowed = allowed & torch.ones(kept, kept, dtype=torch.bool, device=items.device).tril()
        # A padded row sees itself, so that its softmax is not empty.
        allowed = allowed | torch.eye(kept, dtype=torch.bool, device=items.device)
        states = self.model.get_encoder()(input_ids=tokens, attention_mask=allowed).last_hidden_state
        return states, torch.where(valid, columns, length)

    def token_nll(self, states: Tensor, columns: Tensor, until: Tensor, ids: Tensor) -> Tensor:
        """-log p of every token of ids [B, G, T] after the history up to column `until` [B, G], [B, G, T]; 0 at pads.

        A few ids of a row at a time stand side by side in one decoder row and see only themselves: the keys of the
        encoder states are made once for them, and groups without any id are left out.
        """
        shape = ids.shape
        fill = -shape[1] % min(ABREAST, shape[1])
        ids = F.pad(ids, (0, 0, 0, fill)).unflatten(1, (-1, min(ABREAST, shape[1])))
        until = F.pad(until, (0, fill)).unflatten(1, ids.shape[1:3])
        row, group = (ids > 0).flatten(2).any(-1).nonzero(as_tuple=True)
        nll = self._group_nll(states[row], columns[row], until[row, group], ids[row, group])
        return nll.new_zeros(ids.shape).index_put((row, group), nll).flatten(1, 2)[:, : shape[1]]

    def _group_nll(self, states: Tensor, columns: Tensor, until: Tensor, ids: Tensor) -> Tensor:
        size, count, length = ids.shape
        given = F.pad(ids, (1, -1)).flatten(1)  # the start token is 0
        block = torch.arange(count, device=ids.device).repeat_interleave(length)
        own = (block[:, None] == block) & torch.ones(len(block), len(block), dtype=torch.bool, device=ids.device).tril()
        seen = (columns[:, None, :] <= until[:, :, None]).repeat_interleave(length, dim=1)
        hidden = self.model.get_decoder()(
            input_ids=given, attention_mask=own.expand(size, 1, -1, -1), encoder_hidden_states=states,
            encoder_attention_mask=seen[:, None], use_cache=False,
        ).last_hidden_state  # fmt: skip
        valid = ids.flatten() > 0
        words = hidden.flatten(0, 1)[valid] * self.config.width**-0.5
        logits = words.float() @ self.model.get_output_embeddings().weight.float().T
        nll = F.cross_entropy(logits, ids.flatten()[valid], reduction="none")
        return nll.new_zeros(valid.shape).masked_scatter(valid, nll).view_as(ids)

    def _seen(self, batch: Batch | SequenceBatch) -> Tensor:
        """The items of recommendation events, 0 elsewhere, [B, L]."""
        return batch.items * (batch.tasks == int(Task.REC))

    def _drawn(self, items: Tensor, targets: Tensor, states: Tensor) -> tuple[Tensor, Tensor, Tensor]:
        """One target of each window and the history before it: items [B, L], target [B, 1], its state [B, 1]."""
        some = (targets > 0).any(1)
        items, targets, states = items[some], targets[some], states[some]
        drawn = torch.multinomial((targets > 0).float(), 1)
        states = states.gather(1, drawn)
        return items * (torch.arange(items.shape[1], device=items.device) <= states), targets.gather(1, drawn), states


def _training(epochs: int, **changes: float) -> TrainConfig:
    """Few windows in a batch: a window trains on all of its targets."""
    settings = dict(epochs=epochs, batch_size=8, learning_rate=3e-3, schedule="linear", warmup_steps=100,
                    clip_norm=1.0, patience=epochs, validation_users=200, evaluation_batch=32)  # fmt: skip
    return TrainConfig.model_validate({**settings, **changes})


IDGenRec.presets = {
    "quick": (_training(4, warmup_steps=10), IDGenRecConfig()),
    "small": (_training(12), IDGenRecConfig()),
    "full": (_training(30, validation_users=400), IDGenRecConfig()),
}
