"""Language-model backbones behind transformers' Auto classes: embeddings in, Yes/No logits out."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Literal

import torch
from pydantic import Field
from torch import Tensor, nn
from transformers import (
    AutoModelForCausalLM,
    AutoModelForSeq2SeqLM,
    LlamaConfig,
    PreTrainedTokenizerBase,
    T5Config,
)

from unisr.config import Settings
from unisr.errors import ConfigError
from unisr.models import packed
from unisr.models.adapters import with_adapters
from unisr.models.tokenizer import train_tokenizer
from unisr.pretrained import Pretrained

ANSWERS = ("Yes", "No")


class BackboneConfig(Settings):
    """Which language model, and how it is adapted.

    `t5` and `llama` are built from the sizes given here with random weights and a tokenizer trained on the
    catalogue; any other `name` is a model hub id or a folder in the hub's format, loaded with its own tokenizer.
    """

    name: str = "t5"
    width: int = Field(64, ge=8)
    layers: int = Field(2, ge=1)
    """Of the encoder and of the decoder each, where there are two."""
    heads: int = Field(4, ge=1)
    feed_forward: int = Field(128, ge=8)
    vocabulary: int = Field(4000, ge=64)
    dropout: float = Field(0.0, ge=0, lt=1)
    """Of a backbone built here, and of adapters."""
    adapter: Literal["none", "lora", "dora"] = "none"
    """none trains every weight; lora and dora (peft) train low-rank updates and leave the rest."""
    adapter_rank: int = Field(8, ge=1)
    adapter_alpha: int = Field(16, ge=1)
    adapter_targets: tuple[str, ...] = ("q", "v", "q_proj", "v_proj")
    """Name endings of the linear layers adapted; those the model lacks are ignored."""

    @property
    def from_config(self) -> bool:
        return self.name in ("t5", "llama")


class Backbone(nn.Module):
    """A causal or encoder–decoder language model that answers Yes or No to embedded prompts.

    Raises:
        ConfigError: the name is neither `t5`, `llama`, a folder nor a reachable hub id, or no layer matches
            `adapter_targets`.
    """

    def __init__(self, config: BackboneConfig, texts: Sequence[str], *, keep: Sequence[str] = ()) -> None:
        super().__init__()
        self.tokenizer, self.model = _from_config(config, texts, keep) if config.from_config else _pretrained(config)
        if config.adapter != "none":
            self.model = _adapted(self.model, config)
        self.encoder_decoder: bool = self.model.config.is_encoder_decoder
        self.width: int = self.model.get_input_embeddings().embedding_dim
        answers = [self.tokenizer(a, add_special_tokens=False)["input_ids"][0] for a in ANSWERS]
        self.register_buffer("answer_ids", torch.tensor(answers), persistent=False)

    @property
    def can_pack(self) -> bool:
        return not self.encoder_decoder or packed.supports(self.model)

    @property
    def embedding(self) -> nn.Embedding:
        return self.model.get_input_embeddings()

    def answers(self, embeds: Tensor, mask: Tensor) -> Tensor:
        """Hidden state that predicts the first answer token: embeds [N, S, d], mask [N, S] -> [N, d].

        Rows must be valid in their last position (a causal model reads its answer there).
        """
        if not self.encoder_decoder:
            positions = (mask.cumsum(-1) - 1).clamp(min=0)
            out = self.model.get_decoder()(inputs_embeds=embeds, attention_mask=mask.long(), position_ids=positions)
            return out.last_hidden_state[:, -1]
        states = self.model.get_encoder()(inputs_embeds=embeds, attention_mask=mask.long()).last_hidden_state
        start = torch.full((len(embeds), 1), self._start_id, device=embeds.device)
        out = self.model.get_decoder()(
            input_ids=start, encoder_hidden_states=states, encoder_attention_mask=mask.long(), use_cache=False
        )
        return out.last_hidden_state[:, -1]

    def packed_answers(self, prefix: Tensor, mask: Tensor, blocks: Tensor) -> Tensor:
        """The same state for every block behind a shared prefix: [B, P, d], [B, P], [B, C, m, d] -> [B, C, d]."""
        if not self.encoder_decoder:
            return self._packed_causal(prefix, mask, blocks)
        encoder, decoder = self.model.get_encoder(), self.model.get_decoder()
        states, block_states = packed.encode(encoder, prefix, mask, blocks)
        start = self.embedding.weight[self._start_id]
        return packed.decode_first(decoder, start, states, mask, block_states)

    def _packed_causal(self, prefix: Tensor, mask: Tensor, blocks: Tensor) -> Tensor:
        batch, length, width = prefix.shape
        count, size = blocks.shape[1:3]
        valid = mask.cumsum(-1)
        places = torch.arange(size, device=prefix.device).repeat(count) + valid[:, -1:]
        positions = torch.cat([(valid - 1).clamp(min=0), places], dim=1)
        seen = packed_mask(mask, count, size)
        bias = torch.where(seen, 0.0, torch.finfo(prefix.dtype).min).to(prefix.dtype)[:, None]
        embeds = torch.cat([prefix, blocks.reshape(batch, count * size, width)], dim=1)
        out = self.model.get_decoder()(
            inputs_embeds=embeds, attention_mask=bias, position_ids=positions, use_cache=False
        )
        return out.last_hidden_state[:, length:].unflatten(1, (count, size))[:, :, -1]

    def logits(self, states: Tensor, *, vocabulary: bool = False) -> Tensor:
        """fp32 logits of (Yes, No) [..., 2], or of the whole vocabulary [..., W]."""
        head = self.model.get_output_embeddings()
        if getattr(self.model.config, "scale_decoder_outputs", False):
            states = states * self.width**-0.5
        weight = head.weight if vocabulary else head.weight[self.answer_ids]
        return states.float() @ weight.float().T

    @property
    def _start_id(self) -> int:
        return self.model.config.decoder_start_token_id


def packed_mask(mask: Tensor, count: int, size: int) -> Tensor:
    """Causal visibility [B, S, S] of a packed row, S = P + count·size: true where query row may see key column.

    The prefix is causal over its valid positions; a block sees the valid prefix and, causally, itself. Every
    position sees itself, so that no row is empty.
    """
    batch, length = mask.shape
    total = length + count * size
    block = torch.arange(total, device=mask.device).sub(length).div(size, rounding_mode="floor").clamp(min=-1)
    causal = torch.ones(total, total, dtype=torch.bool, device=mask.device).tril()
    same = (block[:, None] == block[None, :]) | (block[None, :] == -1)
    valid = torch.cat([mask, mask.new_ones(batch, count * size)], dim=1)
    return (causal & same)[None] & valid[:, None, :] | torch.eye(total, dtype=torch.bool, device=mask.device)


def _from_config(config: BackboneConfig, texts: Sequence[str], keep: Sequence[str]) -> tuple:
    tokenizer = train_tokenizer(texts, vocabulary=config.vocabulary, keep=[*map(str.lower, ANSWERS), *keep])
    sizes = dict(vocab_size=len(tokenizer), pad_token_id=0, eos_token_id=1)
    if config.name == "t5":
        shape = T5Config(
            d_model=config.width, d_kv=config.width // config.heads, d_ff=config.feed_forward,
            num_layers=config.layers, num_heads=config.heads, dropout_rate=config.dropout,
            feed_forward_proj="relu", decoder_start_token_id=0, **sizes,
        )  # fmt: skip
        return tokenizer, AutoModelForSeq2SeqLM.from_config(shape)
    shape = LlamaConfig(
        hidden_size=config.width, intermediate_size=config.feed_forward, num_hidden_layers=config.layers,
        num_attention_heads=config.heads, attention_dropout=config.dropout, **sizes,
    )  # fmt: skip
    return tokenizer, AutoModelForCausalLM.from_config(shape)


def _pretrained(config: BackboneConfig) -> tuple[PreTrainedTokenizerBase, nn.Module]:
    source = Pretrained(config.name, f"backbone {config.name!r}", "'t5' or 'llama'")
    return source.tokenizer(), source.language_model()


def _adapted(model: nn.Module, config: BackboneConfig) -> nn.Module:
    """The model with trainable low-rank updates in place; returns the base model, whose layers carry them."""
    from peft import LoraConfig

    names = {name.rsplit(".", 1)[-1] for name, part in model.named_modules() if isinstance(part, nn.Linear)}
    if not (targets := sorted(names & set(config.adapter_targets))):
        raise ConfigError(
            f"backbone {config.name!r}: no linear layer ends in {config.adapter_targets}; it has {sorted(names)}"
        )
    lora = LoraConfig(
        r=config.adapter_rank, lora_alpha=config.adapter_alpha, lora_dropout=config.dropout,
        target_modules=targets, use_dora=config.adapter == "dora",
    )  # fmt: skip
    return with_adapters(model, lora).get_base_model()
