"""Exact decoding over a prefix trie: a T5 decoder steps over tree nodes, one level at a time.

A node is decoded once, however many ids pass through it, and sees its ancestors only; keys and values of the encoder
states are made once per row, and the ancestors' are gathered by parent. The probability of an id is

    log p(c | x) = sum_t log softmax(level_logits(t, h(c_<t, x)))[c_t]     (nats; softmax over the K_t codes of level t)

so the model can write ids that no item has; they are never visited. The modules are those of the transformers model;
only the order of operations is ours. Tests hold it against the library's own pass and its `generate`.

Letters: B batch, S encoder states, N nodes of one level, C candidates, V items, T levels of an id, d width, K codes.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator
from dataclasses import dataclass
from typing import Protocol

import torch
from torch import Tensor
from torch.nn import functional as F
from transformers.models.t5.modeling_t5 import T5Attention, T5Stack

from unisr.models.packed import BLOCKED, _heads, _merge, _softmax
from unisr.models.trie import Trie

CELLS = 2**14
"""Decoder positions (rows x nodes) at once; memory is this times the widest of feed-forward and codes of a level."""


class CodeModel(Protocol):
    """What owns the vectors of codes: the trie decoder asks it for inputs and logits."""

    @property
    def decoder(self) -> T5Stack: ...

    @property
    def start(self) -> Tensor:
        """Input vector of the first position, [d]."""
        ...

    def embed(self, level: int, codes: Tensor) -> Tensor:
        """Input vectors of codes [...] of a level, [..., d]."""
        ...

    def level_logits(self, level: int, hidden: Tensor) -> Tensor:
        """fp32 logits of all codes of a level after decoder states [..., d], [..., K]."""
        ...


@dataclass(frozen=True)
class Cache:
    """What nodes of one level leave to their children: keys and values, one pair per decoder block."""

    blocked: Tensor
    """[B, 1, 1, S], very negative at padded encoder states."""
    cross: tuple[tuple[Tensor, Tensor], ...]
    """Of the encoder states, [B, H, S, e]."""
    own: tuple[tuple[Tensor, Tensor], ...] = ()
    """Of each node and its ancestors, root first, [B, N, t, H, e]; empty before the root."""


def open_cache(decoder: T5Stack, states: Tensor, mask: Tensor) -> Cache:
    """Keys and values of encoder states [B, S, d] (mask [B, S], true = valid), before any node."""
    blocked = torch.where(mask.bool(), 0.0, BLOCKED).to(states.dtype)[:, None, None, :]
    crosses = [block.layer[1].EncDecAttention for block in decoder.block]
    return Cache(blocked, tuple((_heads(a.k(states), a), _heads(a.v(states), a)) for a in crosses))


def advance(decoder: T5Stack, cache: Cache, inputs: Tensor, parents: Tensor | None) -> tuple[Tensor, Cache]:
    """Decoder states [B, N, d] of the nodes of one level with input vectors `inputs [B, N, d]`, and their cache.

    parents [B, N] are columns of the level before (None for the root). A node sees its ancestors and itself at
    positions 0 … t, and the encoder states; nothing of other nodes.
    """
    x, own = decoder.dropout(inputs), []
    bias = _causal_bias(decoder.block[0].layer[0].SelfAttention, cache.own[0][0].shape[2] if cache.own else 0)
    for number, block in enumerate(decoder.block):
        first, second, feed = block.layer
        past = None if parents is None else tuple(_pick(part, parents) for part in cache.own[number])
        seen, kept = _ancestors(first.SelfAttention, first.layer_norm(x), past, bias)
        x = x + first.dropout(seen)
        seen = _encoder(second.EncDecAttention, second.layer_norm(x), cache.cross[number], cache.blocked)
        x = feed(x + second.dropout(seen))
        own.append(kept)
    return decoder.dropout(decoder.final_layer_norm(x)), Cache(cache.blocked, cache.cross, tuple(own))


def score_candidates(
    model: CodeModel, trie: Trie, states: Tensor, mask: Tensor, candidates: Tensor, *, cells: int = CELLS
) -> Tensor:
    """log p of the ids of candidates [B, C], nats, [B, C] fp32; -inf for item 0 and items without an id.

    states [B, S, d] and mask [B, S] are the encoder's. Every distinct node of a row's candidates is decoded once.
    """

    def score(states: Tensor, mask: Tensor, candidates: Tensor) -> Tensor:
        path, total = trie.path[candidates], 0.0
        parents, column, cache = None, torch.zeros_like(candidates), open_cache(model.decoder, states, mask)
        inputs = model.start.expand(len(states), 1, -1)
        for level in range(trie.n_levels):
            hidden, cache = advance(model.decoder, cache, inputs, parents)
            log_p = model.level_logits(level, hidden).log_softmax(-1)
            node = path[..., level]
            code = trie.code[node].where(node >= 0, 0)
            chosen = log_p.flatten(1).gather(1, column * log_p.shape[-1] + code)
            total = total + chosen.masked_fill(node < 0, 0)
            if level + 1 < trie.n_levels:
                nodes, place = _distinct(node)
                parents, column = torch.zeros_like(nodes).scatter(1, place, column), place
                inputs = model.embed(level, trie.code[nodes.clamp(min=0)].clamp(min=0))
        return total.masked_fill(trie.leaf[candidates] < 0, -torch.inf)

    return _in_rows(score, cells // candidates.shape[1], states, mask, candidates)[0]


def score_catalog(model: CodeModel, trie: Trie, states: Tensor, mask: Tensor, *, cells: int = CELLS) -> Tensor:
    """log p of the ids of all items, nats, [B, V] fp32, column c - 1 for item c; -inf for items without an id.

    Every node of the trie is decoded, at most `cells` rows x nodes at a time: subtree by subtree where one level of
    one row is wider than that.
    """

    def score(states: Tensor, mask: Tensor) -> Tensor:
        reached = states.new_zeros(len(states), trie.n_nodes, dtype=torch.float32)
        cache = open_cache(model.decoder, states, mask)
        for children, log_p in _subtrees(model, trie, cache, trie.parent.new_zeros(1), None, cells // len(states)):
            reached[:, children] = reached[:, trie.parent[children]] + log_p
        leaf = trie.leaf[1:]
        return reached[:, leaf.clamp(min=0)].masked_fill(leaf < 0, -torch.inf)

    return _in_rows(score, cells // trie.widest, states, mask)[0]


def beam_search(
    model: CodeModel, trie: Trie, states: Tensor, mask: Tensor, *, k: int, width: int, cells: int = CELLS
) -> tuple[Tensor, Tensor]:
    """The k likeliest items that a beam of `width` ids finds, [B, k], and log p of their ids, nats, [B, k] fp32.

    Only nodes of the trie enter the beam, so every id is an item's. A shorter id that is complete keeps its place in
    the beam and competes with the longer ones as they grow. Items that share an id follow one another by number; where
    fewer than k items come out, item 0 with -inf fills up. A beam as wide as the catalog is exact.
    """

    def search(states: Tensor, mask: Tensor) -> tuple[Tensor, Tensor]:
        nodes, scores = trie.parent.new_zeros(len(states), 1), states.new_zeros(len(states), 1, dtype=torch.float32)
        parents, cache = None, open_cache(model.decoder, states, mask)
        inputs = model.start.expand(len(states), 1, -1)
        for level in range(trie.n_levels):
            hidden, cache = advance(model.decoder, cache, inputs, parents)
            log_p = model.level_logits(level, hidden).log_softmax(-1)
            nodes, scores, parents = _grow(trie, nodes, scores, log_p, width)
            if level + 1 < trie.n_levels:
                inputs = model.embed(level, trie.code[nodes].clamp(min=0, max=log_p.shape[-1] - 1))
        return _items(trie, nodes, scores, k)

    return _in_rows(search, cells // width, states, mask)


def _grow(trie: Trie, nodes: Tensor, scores: Tensor, log_p: Tensor, width: int) -> tuple[Tensor, Tensor, Tensor]:
    """The best children of the beam nodes [B, N] with scores [B, N] and log p [B, N, K]: nodes, scores, columns."""
    complete = trie.n_children[nodes] == 0
    counts = torch.where(complete, 1, trie.n_children[nodes]) * (scores > -torch.inf)
    column, offset, valid = _spread(counts, int(counts.sum(1).max()))
    stays = complete.gather(1, column)
    children = torch.where(stays, nodes.gather(1, column), trie.first_child[nodes].gather(1, column) + offset)
    children = torch.where(valid, children, 0)
    code = torch.where(stays | ~valid, 0, trie.code[children])
    gain = log_p.flatten(1).gather(1, column * log_p.shape[-1] + code).masked_fill(stays, 0)
    grown = (scores.gather(1, column) + gain).masked_fill(~valid, -torch.inf)
    # Stable, unlike topk: equal scores keep the order of the trie on every machine.
    grown, best = grown.sort(dim=1, descending=True, stable=True)
    grown, best = grown[:, :width], best[:, :width]
    return children.gather(1, best), grown, column.gather(1, best)


def _items(trie: Trie, leaves: Tensor, scores: Tensor, k: int) -> tuple[Tensor, Tensor]:
    """The first k items of leaves [B, N] in the order given, and their scores, [B, k]."""
    counts = (trie.first_item[leaves + 1] - trie.first_item[leaves]) * (scores > -torch.inf)
    column, offset, valid = _spread(counts, k)
    at = (trie.first_item[leaves].gather(1, column) + offset).where(valid, 0)
    return trie.items[at].where(valid, 0), scores.gather(1, column).where(valid, -torch.inf)


def _subtrees(
    model: CodeModel, trie: Trie, cache: Cache, nodes: Tensor, parents: Tensor | None, budget: int
) -> Iterator[tuple[Tensor, Tensor]]:
    """Children [M] of nodes [n] of one level and log p of their codes [B, M], then the same for their children."""
    size, level = len(cache.blocked), int(trie.level[nodes[0]])
    inputs = model.start if parents is None else model.embed(level - 1, trie.code[nodes])
    inputs = inputs.expand(size, len(nodes), -1)
    hidden, cache = advance(model.decoder, cache, inputs, None if parents is None else parents.expand(size, -1))
    logits = model.level_logits(level, hidden)
    column = torch.arange(len(nodes), device=nodes.device).repeat_interleave(trie.n_children[nodes])
    first = trie.first_child[nodes[0]]
    children = first + torch.arange(len(column), device=nodes.device)
    yield children, logits[:, column, trie.code[children]] - logits.logsumexp(-1)[:, column]
    inner = trie.n_children[children] > 0
    for part, above in zip(children[inner].split(max(budget, 1)), column[inner].split(max(budget, 1)), strict=True):
        if len(part):
            yield from _subtrees(model, trie, cache, part, above, budget)


def _causal_bias(attention: T5Attention, position: int) -> Tensor:
    """T5's learned bias [H, t + 1] of a causal decoder, for a query at `position` t and keys 0 … t."""
    keys = torch.arange(position + 1, device=attention.relative_attention_bias.weight.device)
    buckets = attention._relative_position_bucket(
        keys - position,
        bidirectional=False,
        num_buckets=attention.relative_attention_num_buckets,
        max_distance=attention.relative_attention_max_distance,
    )
    return attention.relative_attention_bias(buckets).T


def _ancestors(
    attention: T5Attention, x: Tensor, past: tuple[Tensor, Tensor] | None, bias: Tensor
) -> tuple[Tensor, tuple[Tensor, Tensor]]:
    """Self-attention of nodes x [B, N, d] over their past [B, N, t, H, e] and themselves; the past with themselves."""
    shape = (attention.n_heads, attention.key_value_proj_dim)
    q, k, v = (project(x).unflatten(-1, shape).unsqueeze(2) for project in (attention.q, attention.k, attention.v))
    if past is not None:
        k, v = torch.cat([past[0], k], dim=2), torch.cat([past[1], v], dim=2)
    # A product with one query and a few keys a node: sums of elements are faster than as many tiny matrix products.
    weights = _softmax((q * k).sum(-1).transpose(2, 3) + bias, attention)  # [B, N, H, t + 1]
    seen = (weights.transpose(2, 3).unsqueeze(-1) * v).sum(2)
    return attention.o(seen.flatten(-2)), (k, v)


def _encoder(attention: T5Attention, x: Tensor, cross: tuple[Tensor, Tensor], blocked: Tensor) -> Tensor:
    """Attention of nodes x [B, N, d] over the encoder states, [B, N, d]."""
    dropout = attention.dropout if attention.training else 0.0
    q = _heads(attention.q(x), attention)
    seen = F.scaled_dot_product_attention(q, *cross, attn_mask=blocked, dropout_p=dropout, scale=1.0)
    return attention.o(_merge(seen))


def _pick(values: Tensor, columns: Tensor) -> Tensor:
    """values [B, N, ...] at columns [B, M], [B, M, ...]; whole rows of memory, unlike `gather`."""
    rows = torch.arange(len(values), device=values.device)[:, None] * values.shape[1]
    return values.flatten(0, 1).index_select(0, (rows + columns).flatten()).unflatten(0, columns.shape)


def _distinct(nodes: Tensor) -> tuple[Tensor, Tensor]:
    """Distinct values of each row of nodes [B, C], ascending, [B, N], filled up with 0; and their columns [B, C]."""
    ordered, order = nodes.sort(dim=1)
    place = F.pad(ordered[:, 1:] != ordered[:, :-1], (1, 0)).cumsum(1)
    distinct = nodes.new_zeros(len(nodes), int(place.max()) + 1).scatter(1, place, ordered)
    return distinct, torch.empty_like(place).scatter(1, order, place)


def _spread(counts: Tensor, length: int) -> tuple[Tensor, Tensor, Tensor]:
    """Row by row, column n repeated counts [B, N] times: columns, number of the repetition, valid; each [B, length]."""
    ends = counts.cumsum(1)
    at = torch.arange(length, device=counts.device).expand(len(counts), length).contiguous()
    column = torch.searchsorted(ends, at, right=True).clamp(max=counts.shape[1] - 1)
    return column, at - (ends - counts).gather(1, column), at < ends[:, -1:]


def _in_rows(step: Callable[..., Tensor | tuple[Tensor, ...]], rows: int, *inputs: Tensor) -> tuple[Tensor, ...]:
    """`step` on a few rows of the inputs at a time, its outputs joined."""
    parts = [step(*part) for part in zip(*(x.split(max(rows, 1)) for x in inputs), strict=True)]
    parts = [part if isinstance(part, tuple) else (part,) for part in parts]
    return tuple(torch.cat(columns) for columns in zip(*parts, strict=True))
