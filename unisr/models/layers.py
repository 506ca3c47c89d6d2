"""Blocks shared by the methods: tables, query and sequence encoders, heads.

Masks are true where valid. Torch's scaled dot-product attention reads a boolean mask the same way
(true = takes part), so no block converts one.
"""

from __future__ import annotations

from typing import Literal

import numpy as np
import torch
import torch.nn.functional as F
from torch import Tensor, nn

from unisr.errors import ConfigError

Norm = Literal["pre", "post"]


def embedding(rows: int, width: int, *, std: float = 0.02) -> nn.Embedding:
    """A table `[rows + 1, width]` drawn from N(0, std); row 0 is padding: zero, and never trained."""
    table = nn.Embedding(rows + 1, width, padding_idx=0)
    nn.init.normal_(table.weight, std=std)
    with torch.no_grad():
        table.weight[0].zero_()
    return table


def mean_embedding(table: nn.Embedding, tokens: Tensor) -> Tensor:
    """Means of the vectors of tokens [n, T], `[n, d]`; padding, 0, does not count, and a row of it alone gives zeros.

    The table's gradient is sparse where the table asks for it.
    """
    return F.embedding_bag(tokens, table.weight, mode="mean", padding_idx=0, sparse=table.sparse)


def xavier_(module: nn.Module) -> None:
    """Xavier-normal linear maps (bias 0) and tables (padding row 0) in the whole of `module`."""
    for part in module.modules():
        if isinstance(part, (nn.Linear, nn.Embedding)):
            nn.init.xavier_normal_(part.weight)
        if isinstance(part, nn.Linear) and part.bias is not None:
            nn.init.zeros_(part.bias)
        if isinstance(part, nn.Embedding) and part.padding_idx is not None:
            with torch.no_grad():
                part.weight[part.padding_idx].zero_()


class Feature(nn.Module):
    """An id's vector tanh(W e_id + b), `[...] -> [..., width]`; id 0 gives zeros where `zero_padding`."""

    def __init__(self, rows: int, table_width: int, width: int, *, zero_padding: bool = True) -> None:
        super().__init__()
        self.table = embedding(rows, table_width)
        self.map = nn.Linear(table_width, width)
        self.zero_padding = zero_padding

    def forward(self, ids: Tensor) -> Tensor:
        vectors = torch.tanh(self.map(self.table(ids)))
        return vectors * (ids > 0).unsqueeze(-1) if self.zero_padding else vectors


class QueryEncoder(nn.Module):
    """Q(q) = tanh(W mean_t w_t + b) over a query's words, `[...] -> [..., width]`; query 0 gives zeros.

    Each distinct query of a call is encoded once. `words` is `[Q + 1, T]`, right-padded with 0.
    """

    def __init__(self, words: np.ndarray, n_words: int, word_width: int, width: int) -> None:
        super().__init__()
        self.register_buffer("words", torch.as_tensor(words), persistent=False)
        self.table = embedding(n_words, word_width)
        self.map = nn.Linear(word_width, width)

    def forward(self, queries: Tensor) -> Tensor:
        distinct, place = queries.unique(return_inverse=True)
        vectors = torch.tanh(self.map(mean_embedding(self.table, self.words[distinct]))) * (distinct > 0).unsqueeze(-1)
        return F.embedding(place, vectors)


class Attention(nn.Module):
    """Multi-head attention: per head softmax(Q K^T / sqrt(d / heads)) V, joined by a linear map.

    query [B, N, d]; memory [B, M, d]; allowed [B, N or 1, M] bool -> [B, N, d]. A query row that may
    attend to nothing gives zeros, never NaN.

    Raises:
        ConfigError: the width is not a multiple of the heads.
    """

    def __init__(self, width: int, heads: int, *, dropout: float = 0.0) -> None:
        super().__init__()
        if width % heads:
            raise ConfigError(f"width {width} is not a multiple of heads {heads}; choose heads that divide it")
        self.heads = heads
        self.dropout = dropout
        self.query = nn.Linear(width, width)
        self.memory = nn.Linear(width, 2 * width)
        self.out = nn.Linear(width, width)

    def forward(self, query: Tensor, memory: Tensor, allowed: Tensor) -> Tensor:
        some = allowed.any(-1, keepdim=True)
        keys, values = self.memory(memory).chunk(2, dim=-1)
        parts = [x.unflatten(-1, (self.heads, -1)).transpose(1, 2) for x in (self.query(query), keys, values)]
        dropout = self.dropout if self.training else 0.0
        # Rows without a key are opened for the softmax and zeroed afterwards.
        mask = (allowed | ~some).unsqueeze(1)
        heads = F.scaled_dot_product_attention(*parts, attn_mask=mask, dropout_p=dropout)
        return self.out(heads.transpose(1, 2).flatten(2)) * some


class Block(nn.Module):
    """One transformer layer: self-attention, cross-attention where `cross`, two-layer ReLU network.

    Each part f has a residual: x + f(LN(x)) for `pre`, LN(x + f(x)) for `post`.
    x [B, L, d]; allowed [B, L or 1, L]; memory [B, M, d]; memory_allowed [B, L or 1, M] -> [B, L, d], or
    [B, 1, d] with `last`, which computes the last position alone.
    """

    def __init__(
        self, width: int, heads: int, inner: int, *, norm: Norm = "pre", dropout: float = 0.0, cross: bool = False
    ) -> None:
        super().__init__()
        self.pre = norm == "pre"
        self.attend = Attention(width, heads, dropout=dropout)
        self.cross = Attention(width, heads, dropout=dropout) if cross else None
        self.feed = nn.Sequential(nn.Linear(width, inner), nn.ReLU(), nn.Dropout(dropout), nn.Linear(inner, width))
        self.norms = nn.ModuleList(nn.LayerNorm(width) for _ in range(3 if cross else 2))
        self.dropout = nn.Dropout(dropout)

    def forward(
        self,
        x: Tensor,
        allowed: Tensor,
        memory: Tensor | None = None,
        memory_allowed: Tensor | None = None,
        *,
        last: bool = False,
    ) -> Tensor:
        y = self._before(0, x)
        start = x.shape[1] - 1 if last else 0
        x = self._after(0, x[:, start:], self.attend(y[:, start:], y, allowed[:, -1:] if last else allowed))
        if self.cross is not None:
            x = self._after(1, x, self.cross(self._before(1, x), memory, memory_allowed))
        return self._after(-1, x, self.feed(self._before(-1, x)))

    def _before(self, part: int, x: Tensor) -> Tensor:
        return self.norms[part](x) if self.pre else x

    def _after(self, part: int, x: Tensor, change: Tensor) -> Tensor:
        x = x + self.dropout(change)
        return x if self.pre else self.norms[part](x)


class SequenceEncoder(nn.Module):
    """Transformer over a left-padded sequence, x [B, L, d], valid [B, L] -> [B, L, d]; zeros where padded.

    Learned positions are counted from the end, so padding on the left changes nothing; positions beyond
    `length` share the last one, and `length=None` leaves positions out. `allowed` [B, L, L] narrows what each
    position sees (beside `valid` and, where `causal`, the past and itself). With `norm="pre"` a last layer norm
    follows the layers; with no layer the encoder is LN(x + position).
    """

    def __init__(
        self,
        width: int,
        *,
        length: int | None,
        layers: int = 1,
        heads: int = 1,
        inner: int | None = None,
        norm: Norm = "pre",
        causal: bool = False,
        dropout: float = 0.0,
    ) -> None:
        super().__init__()
        self.causal = causal
        self.positions = None if length is None else nn.Embedding(length, width)
        if self.positions is not None:
            nn.init.normal_(self.positions.weight, std=0.02)
        make = [Block(width, heads, inner or width, norm=norm, dropout=dropout) for _ in range(layers)]
        self.blocks = nn.ModuleList(make)
        self.last = nn.LayerNorm(width) if norm == "pre" else nn.Identity()
        self.dropout = nn.Dropout(dropout)

    def forward(self, x: Tensor, valid: Tensor, allowed: Tensor | None = None, *, last: bool = False) -> Tensor:
        """`last` gives the state of the last column alone, [B, 1, d], and spares the last layer the others."""
        length = x.shape[1]
        if self.positions is not None:
            ages = torch.arange(length - 1, -1, -1, device=x.device).clamp(max=self.positions.num_embeddings - 1)
            x = x + self.positions(ages)
        x = self.dropout(x) * valid.unsqueeze(-1)
        pairs = valid.unsqueeze(1)
        if self.causal:
            pairs = pairs & torch.ones(length, length, dtype=torch.bool, device=x.device).tril()
        if allowed is not None:
            pairs = pairs & allowed
        for number, block in enumerate(self.blocks, 1):
            x = block(x, pairs, last=last and number == len(self.blocks))
        if last:
            x, valid = x[:, -1:], valid[:, -1:]
        return self.last(x) * valid.unsqueeze(-1)


class MLP(nn.Sequential):
    """Linear layers of the given sizes with ReLU and dropout between them, `[..., sizes[0]] -> [..., sizes[-1]]`."""

    def __init__(self, *sizes: int, dropout: float = 0.0, last: bool = False) -> None:
        parts: list[nn.Module] = []
        for i in range(len(sizes) - 1):
            parts.append(nn.Linear(sizes[i], sizes[i + 1]))
            if last or i < len(sizes) - 2:
                parts += [nn.ReLU(), nn.Dropout(dropout)]
        super().__init__(*parts)


class PLE(nn.Module):
    """Progressive layered extraction, one level: y_t = sum_k softmax(G_t x)_k expert_k(x), `[N, n] -> [N, width]`.

    Task t mixes the shared experts and its own; an expert is ReLU(Linear(x)).
    """

    def __init__(self, inputs: int, width: int, *, tasks: int = 2, experts: int = 4, dropout: float = 0.0) -> None:
        super().__init__()
        self.experts = experts
        self.shared = nn.Linear(inputs, experts * width)
        self.own = nn.ModuleList(nn.Linear(inputs, experts * width) for _ in range(tasks))
        self.gates = nn.ModuleList(nn.Linear(inputs, 2 * experts) for _ in range(tasks))
        self.dropout = nn.Dropout(dropout)

    def forward(self, x: Tensor, task: int) -> Tensor:
        outputs = torch.cat([self.shared(x), self.own[task](x)], dim=-1).unflatten(-1, (2 * self.experts, -1))
        outputs = self.dropout(outputs.relu())
        return (self.gates[task](x).softmax(-1).unsqueeze(-2) @ outputs).squeeze(-2)
