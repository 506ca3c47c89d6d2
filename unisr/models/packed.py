"""One shared prefix, many short blocks: a T5 pass that reads a user once for all candidates.

Layout of one row: a prefix of P positions (task text, query, history) and C blocks of m positions, one per
candidate. The prefix sees only itself; a block sees the prefix and itself; positions continue from the prefix
in every block, so each candidate is scored as if it stood alone behind the prefix. Attention is computed on
the two parts apart, C·m·(P + m) pairs a row in place of (P + C·m)² under a mask.

The modules are those of the transformers model (with any peft adapters in them); only the order of operations
is ours. Tests hold it against the library's own pass over `[prefix, block]`, one candidate at a time.
"""

from __future__ import annotations

import torch
from torch import Tensor, nn
from torch.nn import functional as F
from transformers.models.t5.modeling_t5 import T5Attention, T5Stack

BLOCKED = -1e9


def _heads(x: Tensor, attention: T5Attention) -> Tensor:
    """[..., n, H·e] -> [..., H, n, e]"""
    return x.unflatten(-1, (attention.n_heads, attention.key_value_proj_dim)).transpose(-2, -3)


def _merge(x: Tensor) -> Tensor:
    """[..., H, n, e] -> [..., n, H·e]"""
    return x.transpose(-2, -3).flatten(-2)


def position_bias(attention: T5Attention, queries: Tensor, keys: Tensor) -> Tensor:
    """T5's learned bias `[H, q, k]` for positions `queries [q]` attending to `keys [k]` (bidirectional)."""
    buckets = attention._relative_position_bucket(
        keys[None, :] - queries[:, None],
        bidirectional=True,
        num_buckets=attention.relative_attention_num_buckets,
        max_distance=attention.relative_attention_max_distance,
    )
    return attention.relative_attention_bias(buckets).permute(2, 0, 1)


def _softmax(scores: Tensor, attention: T5Attention) -> Tensor:
    weights = F.softmax(scores.float(), dim=-1).to(scores.dtype)
    return F.dropout(weights, p=attention.dropout, training=attention.training)


def _whole(attention: T5Attention, x: Tensor, bias: Tensor) -> Tensor:
    """Self-attention of the prefix: x [B, P, d], additive bias [B, H, P, P] -> [B, P, d]."""
    q, k, v = (_heads(project(x), attention) for project in (attention.q, attention.k, attention.v))
    return attention.o(_merge(_softmax(q @ k.transpose(-1, -2) + bias, attention) @ v))


def _split(
    attention: T5Attention, queries: Tensor, prefix: Tensor, own: Tensor, prefix_bias: Tensor, own_bias: Tensor | None
) -> Tensor:
    """Attention of queries [B, C, m, d] over prefix [B, P, d] and own blocks [B, C, n, d] -> [B, C, m, d].

    prefix_bias [B, H, m, P] (masked positions very negative), own_bias [H, m, n] or None.
    """
    candidates, size, length = queries.shape[1], queries.shape[2], prefix.shape[1]
    q = _heads(attention.q(queries), attention)  # [B, C, H, m, e]
    shared_q = q.transpose(1, 2).flatten(2, 3)  # [B, H, C·m, e]
    shared_k, shared_v = (_heads(project(prefix), attention) for project in (attention.k, attention.v))
    own_k, own_v = (_heads(project(own), attention) for project in (attention.k, attention.v))
    shared = (shared_q @ shared_k.transpose(-1, -2)).unflatten(2, (candidates, size))  # [B, H, C, m, P]
    local = q @ own_k.transpose(-1, -2)  # [B, C, H, m, n]
    local = local if own_bias is None else local + own_bias
    scores = torch.cat([shared + prefix_bias.unsqueeze(2), local.transpose(1, 2)], dim=-1)
    weights = _softmax(scores, attention)
    from_prefix = (weights[..., :length].flatten(2, 3) @ shared_v).unflatten(2, (candidates, size))
    from_own = weights[..., length:].transpose(1, 2) @ own_v
    return attention.o(_merge(from_prefix.transpose(1, 2) + from_own))


def encode(encoder: T5Stack, prefix: Tensor, mask: Tensor, blocks: Tensor) -> tuple[Tensor, Tensor]:
    """Encoder states of prefix [B, P, d] (mask [B, P], true = valid) and blocks [B, C, m, d], same shapes."""
    length, size = prefix.shape[1], blocks.shape[2]
    first = encoder.block[0].layer[0].SelfAttention
    at = torch.arange(length + size, device=prefix.device)
    bias = position_bias(first, at, at)  # [H, P + m, P + m]
    blocked = torch.where(mask, 0.0, BLOCKED).to(bias.dtype)[:, None, None, :]
    prefix_bias, cross_bias = bias[:, :length, :length] + blocked, bias[:, length:, :length] + blocked
    x, y = encoder.dropout(prefix), encoder.dropout(blocks)
    for block in encoder.block:
        layer, feed = block.layer
        x_in, y_in = layer.layer_norm(x), layer.layer_norm(y)
        own = _split(layer.SelfAttention, y_in, x_in, y_in, cross_bias, bias[:, length:, length:])
        x = feed(x + layer.dropout(_whole(layer.SelfAttention, x_in, prefix_bias)))
        y = feed(y + layer.dropout(own))
    return tuple(encoder.dropout(encoder.final_layer_norm(part)) for part in (x, y))


def decode_first(decoder: T5Stack, start: Tensor, prefix: Tensor, mask: Tensor, blocks: Tensor) -> Tensor:
    """First decoder state of every candidate: [B, C, d].

    start [d] is the embedding of the start token. With one position, self-attention has one key, so its
    weights are 1 and its output is the projected value; cross-attention sees the prefix and the own block.
    """
    shape = (blocks.shape[0], blocks.shape[1], 1, blocks.shape[3])
    z = decoder.dropout(start.expand(shape))
    blocked = torch.where(mask, 0.0, BLOCKED).to(prefix.dtype)[:, None, None, :]
    for block in decoder.block:
        own, cross, feed = block.layer
        value = own.SelfAttention.o(own.SelfAttention.v(own.layer_norm(z)))
        z = z + own.dropout(value)
        seen = _split(cross.EncDecAttention, cross.layer_norm(z), prefix, blocks, blocked, None)
        z = feed(z + cross.dropout(seen))
    return decoder.dropout(decoder.final_layer_norm(z)).squeeze(2)


def supports(model: nn.Module) -> bool:
    """Whether `model` is an encoder–decoder this pass can drive (the T5 family)."""
    return isinstance(getattr(model, "encoder", None), T5Stack)
