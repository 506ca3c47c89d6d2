"""A T5 that reads the ids of the items chosen and writes the next item's, token by token."""

from __future__ import annotations

from typing import Literal

import torch
import torch.nn.functional as F
from pydantic import Field
from torch import Tensor
from transformers import T5Config, T5ForConditionalGeneration

from unisr.config import ModelConfig
from unisr.data.batches import Batch, SequenceBatch
from unisr.data.schema import Task
from unisr.models.generative.trie_scorer import TrieScorer
from unisr.models.id_writer import IdWriter, Levels, head_logits
from unisr.models.trie import Trie

ABREAST = 16
"""Ids in one decoder row of training."""


class NextIdConfig(ModelConfig):
    width: int = Field(64, ge=8)
    layers: int = Field(1, ge=1)
    """Of the encoder and of the decoder each."""
    heads: int = Field(4, ge=1)
    feed_forward: int = Field(128, ge=8)
    dropout: float = Field(0.0, ge=0, lt=1)
    history: int = Field(20, ge=1)
    """Latest recommendation events whose ids are read."""
    encoder: Literal["causal", "bidirectional"] = "causal"
    """causal trains on every event of a window in one pass; bidirectional, the papers', on one event drawn from it."""


class NextId(TrieScorer):
    """s_c = sum_t log p(z_t(c) | z_<t(c), x), nats, z(c) the tokens of c's id, x what `prefix` and the history say.

    The softmax at step t is over the tokens of level t alone. Subclasses call `build_model` with the tokens of ids.
    """

    feeds_on = "sequences"

    @property
    def history_length(self) -> tuple[int, int]:
        return (self.config.history, 0)

    def build_model(self, id_tokens: Tensor, levels: Levels, vocabulary: int, *, fitted: bool = False) -> None:
        """The T5 over `vocabulary` tokens, and the trie of the ids.

        Args:
            id_tokens: [V + 1, T], 0 after the end of an id and for item 0.
            levels: first token and number of tokens of each level, [T].
            fitted: the ids come from a numerical fit, which another machine may end elsewhere: they are stored with
                the weights, and loaded weights bring theirs.
        """
        config = self.config
        self.levels = levels
        self.register_buffer("id_tokens", id_tokens, persistent=fitted)
        token = torch.arange(vocabulary)
        legal = torch.stack([(token >= first) & (token < first + size) for first, size in levels])
        self.register_buffer("legal", legal, persistent=False)
        self._plant()
        if fitted:
            self.register_load_state_dict_post_hook(lambda scorer, _: scorer._plant())
        shape = T5Config(
            vocab_size=vocabulary, d_model=config.width, d_kv=config.width // config.heads,
            d_ff=config.feed_forward, num_layers=config.layers, num_heads=config.heads, dropout_rate=config.dropout,
            feed_forward_proj="relu", pad_token_id=0, eos_token_id=1, decoder_start_token_id=0,
        )  # fmt: skip
        self.model = T5ForConditionalGeneration(shape)
        # T5's own token table has deviation 1, from which a training this short does not come down.
        torch.nn.init.normal_(self.model.get_input_embeddings().weight, std=0.1)

    def _plant(self) -> None:
        """The trie of the ids."""
        first = torch.tensor([first for first, _ in self.levels], device=self.id_tokens.device)
        self.trie = Trie(torch.where(self.id_tokens > 0, self.id_tokens - first, -1)).to(self.id_tokens.device)

    @property
    def writer(self) -> IdWriter:
        return IdWriter(self.model, self.levels)

    def prefix(self, user: Tensor) -> Tensor:
        """Tokens that stand before the history of users [B], [B, P]."""
        raise NotImplementedError

    def losses(self, batch: SequenceBatch) -> dict[str, Tensor]:
        """`rec`: the mean over the tokens of all targets, or of one per window with the bidirectional encoder."""
        user, items, targets, states = batch.user, self._seen(batch), batch.targets, batch.states
        if self.config.encoder == "bidirectional":
            user, items, targets, states = _drawn(user, items, targets, states)
        nll = self.token_nll(*self.encode(user, items), states, self.id_tokens[targets])
        # A window without a target has no token; the sum keeps it connected to the weights.
        return {"rec": nll.sum() / (self.id_tokens[targets] > 0).sum().clamp(min=1)}

    def encode(self, user: Tensor, items: Tensor) -> tuple[Tensor, Tensor]:
        """Encoder states of prefix and ids of items [B, L], [B, S, d], and the history column of each, [B, S].

        Tokens stand without gaps at the end of a row, so that padding on the left changes nothing. The column is -1
        for the prefix and L where padded.
        """
        size, length = items.shape
        prefix = self.prefix(user)
        tokens = torch.cat([prefix, self.id_tokens[items].flatten(1)], dim=1)
        columns = torch.arange(length, device=items.device).repeat_interleave(self.id_tokens.shape[1])
        columns = F.pad(columns, (prefix.shape[1], 0), value=-1)
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
        logits = head_logits(self.model, hidden.flatten(0, 1)[valid])
        level = torch.arange(length, device=ids.device).repeat(size * count)[valid]
        logits = logits.masked_fill(~self.legal[level], -torch.inf)
        nll = F.cross_entropy(logits, ids.flatten()[valid], reduction="none")
        return nll.new_zeros(valid.shape).masked_scatter(valid, nll).view_as(ids)

    def read(self, batch: Batch) -> tuple[Tensor, Tensor]:
        items = self._seen(batch)
        states, columns = self.encode(batch.user, items)
        return states, columns < items.shape[1]

    def _seen(self, batch: Batch | SequenceBatch) -> Tensor:
        """The items of recommendation events, 0 elsewhere, [B, L]."""
        return batch.items * (batch.tasks == int(Task.REC))


def _drawn(user: Tensor, items: Tensor, targets: Tensor, states: Tensor) -> tuple[Tensor, Tensor, Tensor, Tensor]:
    """One target of each window and the history before it: user [B], items [B, L], target [B, 1], its state [B, 1]."""
    some = (targets > 0).any(1)
    user, items, targets, states = user[some], items[some], targets[some], states[some]
    drawn = torch.multinomial((targets > 0).float(), 1)
    states = states.gather(1, drawn)
    earlier = torch.arange(items.shape[1], device=items.device) <= states
    return user, items * earlier, targets.gather(1, drawn), states
