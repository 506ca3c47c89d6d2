"""UnifiedSSR: item and query sequences through one shared encoder, and windows of intent over both."""

from __future__ import annotations

import torch
import torch.nn.functional as F
from pydantic import Field
from torch import Tensor, nn

from unisr.config import ModelConfig, TrainConfig
from unisr.data.batches import Batch
from unisr.data.corpus import Corpus
from unisr.data.schema import TASKS, Task
from unisr.models.base import Scorer, Tables
from unisr.models.layers import Block, embedding, mean_embedding
from unisr.models.losses import task_bce
from unisr.models.recipe import LARGE_TABLE
from unisr.registry import Card, register


class UnifiedSSRConfig(ModelConfig):
    width: int = Field(64, ge=1)
    layers: int = Field(2, ge=1)
    heads: int = Field(4, ge=1)
    dropout: float = Field(0.2, ge=0, lt=1)
    rec_history: int = Field(20, ge=1)
    """Latest recommendation events read."""
    src_history: int = Field(20, ge=1)
    """Latest search events read."""
    windows: int = Field(2, ge=1)
    """n, intent windows of a sequence."""
    softness: float = Field(0.5, gt=0)
    """Events over which the edge of a window fades."""
    intent_weight: float = Field(0.1, ge=0)
    """Weight of the loss of the windows; 0 leaves it out."""
    search_weight: float = Field(1.0, ge=0)
    """Weight of the search loss."""


class Siamese(nn.Module):
    """Causal layers shared by two branches: self-attention, attention to the other branch, feed-forward; all pre-norm.

    Every layer reads the layer below it, of its own branch and of the other. x [B, L, d], valid [B, L] -> the states
    of each branch, zero where not valid. A lone branch attends to itself.
    """

    def __init__(self, config: UnifiedSSRConfig) -> None:
        super().__init__()
        width, dropout = config.width, config.dropout
        self.blocks = nn.ModuleList(
            Block(width, config.heads, 2 * width, dropout=dropout, cross=True) for _ in range(config.layers)
        )
        self.last = nn.LayerNorm(width)

    def forward(self, branches: list[Tensor], valid: Tensor) -> list[Tensor]:
        length = valid.shape[1]
        past = torch.ones(length, length, dtype=torch.bool, device=valid.device).tril()
        seen = valid.unsqueeze(1) & past
        for block in self.blocks:
            branches = [block(x, seen, other, seen) for x, other in zip(branches, branches[::-1], strict=True)]
        return [self.last(x) * valid.unsqueeze(-1) for x in branches]


class Windows(nn.Module):
    """n soft windows of a sequence, each centered and sized by the segment it starts from.

    Event t of m stands at r_t = t + 1/2. Segment k of the length a = m / n has mean g_k; its window has the center
    c_k = a (k + 1/2 + tanh(o · g_k)) and the half-width b_k = a/2 · ReLU(1 + w · g_k); event t is in it by
    u_tk = sigmoid((b_k - |r_t - c_k|) / softness). v_k = sum_t u_tk x_t / sum_t u_tk. o and w start at zero: windows
    start as the segments.

    x [B, L, d], valid [B, L] -> v [B, n, d] and u [B, L, n], 0 where not valid.
    """

    def __init__(self, width: int, count: int, softness: float) -> None:
        super().__init__()
        self.count, self.softness = count, softness
        self.shape = nn.Linear(width, 2, bias=False)
        nn.init.zeros_(self.shape.weight)

    def forward(self, x: Tensor, valid: Tensor) -> tuple[Tensor, Tensor]:
        size = valid.sum(1)[:, None, None] / self.count
        place = (valid.cumsum(1) - 0.5).unsqueeze(-1)
        number = torch.arange(self.count, device=x.device)
        own = (place >= size * number) & (place < size * (number + 1)) & valid.unsqueeze(-1)
        offset, stretch = self.shape(_means(x, own.to(x.dtype))).unbind(-1)
        size = size.squeeze(-1)
        center = size * (number + 0.5 + torch.tanh(offset))
        half = size / 2 * torch.relu(1 + stretch)
        inside = half.unsqueeze(1) - (place - center.unsqueeze(1)).abs()
        members = torch.sigmoid(inside / self.softness) * valid.unsqueeze(-1)
        return _means(x, members), members


@register
class UnifiedSSR(Scorer):
    """rec: s_c = E_c · p; search: s_c = w E_c · p + (1 - w) E_c · q (Xie et al.), p and q the branches' last states.

    - Item branch: a start step, then the items of all events in order of time. Query branch: their queries and, last,
      the current one, so that its step t stands beside items before t. A step is sqrt(d) E + user + position.
    - A Siamese causal encoder lets each branch attend to the other; recommendation has the item branch alone.
    - Intent windows over a branch's states; the state of a step gains the means of the windows it lies in. Their
      loss: |cos| of neighboring windows of a branch, minus cos of the two branches' windows.
    - Loss: L_rec + search_weight · L_src + intent_weight · L_intent.
    """

    card = Card(
        name="UnifiedSSR",
        family="joint",
        tasks=("rec", "src"),
        paper="Xie, Liu, Cong and Chen, UnifiedSSR: A Unified Framework of Sequential Search and Recommendation, "
        "WWW 2024",
        signals=("rec history", "search history", "current query", "past queries", "user id"),
        loss="BCE of both tasks over 1 + 4 uniform negatives; similarity of intent windows",
        departures=(
            "repaired (a): each layer reads the one below (released: every layer reads the input, the last one counts)",
            "repaired (b): the encoder is causal (released: only padding is masked, a step sees its own target)",
            "repaired (c): trained on prefixes with the loss at the last step, so that no window covers later steps "
            "(released: per-step losses and windows over the whole sequence)",
            "repaired (d): windows have soft edges, so that their places learn from ranking (released: hard 0/1)",
            "one merged history: the item branch holds the items of both tasks, the query branch is empty at "
            "recommendation events",
            "a learned start step; positions are learned and count from the latest event; w = .1 + .8 sigmoid(.) "
            "keeps [.1, .9] without a clamp, at which it would stop learning",
            "windows are means over encoder states, and no longer than the history",
            "width 64 instead of 32, dropout .2 instead of .5, word vectors N(0, 1/d), AdamW without Noam's "
            "schedule; the presets small and full have one layer instead of two",
            "trained on both tasks at once, without fine-tuning for each afterwards",
        ),
    )
    Config = UnifiedSSRConfig

    def __init__(self, config: UnifiedSSRConfig, corpus: Corpus, *, tables: Tables | None = None) -> None:
        super().__init__(config, corpus, tables=tables)
        width = config.width
        self.items = embedding(corpus.n_items, width)
        self.users = embedding(corpus.n_users, width)
        # Steps are sqrt(d) times a row: queries, too, must not drown in what attention adds to them.
        self.words = embedding(corpus.n_words, width, std=width**-0.5)
        self.register_buffer("query_words", torch.as_tensor(corpus.query_words), persistent=False)
        self.start = nn.Parameter(0.02 * torch.randn(width))
        self.positions = nn.Embedding(1 + sum(self.history_length), width)
        nn.init.normal_(self.positions.weight, std=0.02)
        self.encoder = Siamese(config)
        self.windows = Windows(width, config.windows, config.softness)
        self.mixture = nn.Parameter(torch.zeros(()))

    @property
    def history_length(self) -> tuple[int, int]:
        return (self.config.rec_history, self.config.src_history)

    @property
    def item_share(self) -> Tensor:
        """w, the item branch's share of a search score, within [.1, .9]."""
        return 0.1 + 0.8 * torch.sigmoid(self.mixture)

    def branches(self, batch: Batch) -> tuple[list[Tensor], Tensor]:
        """Inputs of the item and the query branch, [B, L + 1, d] each, and their steps, [B, L + 1]."""
        known = batch.tasks > 0
        # Column j holds item j - 1 beside query j: the first valid one is the start, the last the current query.
        valid = F.pad(known, (0, 1), value=True)
        first = valid & ~F.pad(known, (1, 0))
        items = F.pad(self.items(batch.items * known), (0, 0, 1, 0)) * self.config.width**0.5
        queries = self._queries(torch.cat([batch.queries * known, batch.query.unsqueeze(1)], 1))
        ages = torch.arange(valid.shape[1] - 1, -1, -1, device=valid.device)
        shared = self.users(batch.user).unsqueeze(1) + self.positions(ages.clamp(max=len(self.positions.weight) - 1))
        return [items + first.unsqueeze(-1) * self.start + shared, queries + shared], valid

    def read(self, batch: Batch, task: int) -> tuple[list[Tensor], list[Tensor]]:
        """Last states [b, d] and windows [b, n, d] of each branch that `task` has, for its b rows of the batch."""
        inputs, valid = self.branches(batch)
        if task == Task.REC:
            inputs = inputs[:1]
        ends, windows = [], []
        for states in self.encoder(inputs, valid):
            means, members = self.windows(states, valid)
            ends.append(states[:, -1] + (members[:, -1:] @ means).squeeze(1))
            windows.append(means)
        return ends, windows

    def losses(self, batch: Batch) -> dict[str, Tensor]:
        """`rec`, `src` (weighted), `intent` (weighted)."""
        scores, windows = self._score(batch)
        terms = task_bce(scores, batch.labels, batch.task)
        if "src" in terms:
            terms["src"] = terms["src"] * self.config.search_weight
        if self.config.intent_weight:
            terms["intent"] = self.config.intent_weight * torch.cat([intent_loss(w) for w in windows]).mean()
        return terms

    def score(self, batch: Batch) -> Tensor:
        return self._score(batch)[0]

    def _score(self, batch: Batch) -> tuple[Tensor, list[list[Tensor]]]:
        """Scores [B, C], and the windows of each task's rows."""
        items = self.items(batch.candidates)
        scores, windows = items.new_zeros(batch.candidates.shape), []
        for task in TASKS.values():
            rows = (batch.task == int(task)).nonzero().squeeze(1)
            if not len(rows):
                continue
            ends, found = self.read(batch.select(rows), task)
            share = self.item_share
            state = ends[0] if len(ends) == 1 else share * ends[0] + (1 - share) * ends[1]
            part = (items[rows] @ state.unsqueeze(-1)).squeeze(-1)
            scores = scores.index_copy(0, rows, part.to(scores.dtype))
            windows.append(found)
        return scores.float(), windows

    def _queries(self, queries: Tensor) -> Tensor:
        """sqrt(d) mean_t w_t of queries [...], `[..., d]`; each distinct one is encoded once, query 0 gives zeros."""
        distinct, place = queries.unique(return_inverse=True)
        means = mean_embedding(self.words, self.query_words[distinct])
        return F.embedding(place, means * self.config.width**0.5)


def intent_loss(windows: list[Tensor]) -> Tensor:
    """mean_k |cos(v_k, v_k+1)| per branch, minus mean_k cos(p_k, q_k) where there are two; [b, n, d] each -> [b]."""
    first = windows[0]
    loss = first.new_zeros(len(first))
    if first.shape[1] > 1:
        loss = sum(F.cosine_similarity(v[:, 1:], v[:, :-1], dim=-1).abs().mean(1) for v in windows)
    return loss - F.cosine_similarity(*windows, dim=-1).mean(1) if len(windows) == 2 else loss


def _means(x: Tensor, weights: Tensor) -> Tensor:
    """Weighted means of x [B, L, d] under weights [B, L, n], `[B, n, d]`; zeros without weight."""
    return weights.transpose(1, 2) @ x / weights.sum(1).clamp(min=1e-6).unsqueeze(-1)


UnifiedSSR.presets = {
    "quick": (TrainConfig(epochs=3, batch_size=64, learning_rate=1e-2, epoch_examples=4000, validation_users=50),
              UnifiedSSRConfig(width=32, heads=2, rec_history=5, src_history=5, dropout=0.0)),
    # Search needs many steps: small batches, and one layer, which learns more in the same time than two.
    "small": (TrainConfig(epochs=7, batch_size=64, learning_rate=5e-3, epoch_examples=15000, schedule="cosine",
                          warmup_steps=50, validation_users=300),
              UnifiedSSRConfig(layers=1, rec_history=10, src_history=10, dropout=0.0)),
    "full": (TrainConfig(epochs=20, batch_size=64, learning_rate=5e-3, epoch_examples=20000, schedule="cosine",
                         warmup_steps=50, validation_users=400, patience=10),
             UnifiedSSRConfig(layers=1, rec_history=10, src_history=10, dropout=0.0)),
    # As released; its Noam schedule peaks at 2.8e-3 after 4,000 steps, the fall is linear here. Ours: 30 events a task.
    "paper": (TrainConfig(epochs=100, batch_size=128, learning_rate=2.8e-3, schedule="linear", warmup_steps=4000,
                          patience=3, sparse_rows=LARGE_TABLE),
              UnifiedSSRConfig(width=32, dropout=0.5, rec_history=30, src_history=30)),
}
