"""Query-SeqRec: a causal transformer over one list of query and item tokens."""

from __future__ import annotations

from dataclasses import replace

import torch
import torch.nn.functional as F
from pydantic import Field
from torch import Tensor, nn

from unisr.config import ModelConfig, TrainConfig
from unisr.data.batches import Batch, SequenceBatch
from unisr.data.corpus import Corpus
from unisr.data.schema import Task
from unisr.models.base import Tables
from unisr.models.layers import SequenceEncoder, embedding, mean_embedding
from unisr.models.pooling import last_columns, take_columns
from unisr.models.recommendation.next_item import NextItem
from unisr.registry import Card, register


class QuerySeqRecConfig(ModelConfig):
    width: int = Field(64, ge=1)
    layers: int = Field(2, ge=0)
    heads: int = Field(2, ge=1)
    dropout: float = Field(0.2, ge=0, lt=1)
    rec_history: int = Field(50, ge=1)
    """Latest recommendation events read, one token each."""
    src_history: int = Field(50, ge=1)
    """Latest search events read, two tokens each."""
    p_item: float = Field(0.1, ge=0, le=1)
    """Share of item tokens replaced in training."""
    p_query: float = Field(0.1, ge=0, le=1)
    """Share of query tokens replaced in training."""
    p_graph: float = Field(0.3, ge=0, le=1)
    """Share of the replacements that come from the query-item graph; the others are uniform."""
    predict_clicks: bool = True
    """Query tokens predict the item clicked under them."""


@register
class QuerySeqRec(NextItem):
    """s_c = e_c · h, h the state of the last token of a causal transformer (He et al., Sec. 3).

    A recommendation event is the token of its item, a search event two tokens: its query, the mean of its words'
    vectors, and the item clicked. x_t = sqrt(d) token_t + type_t + p_t; tokens stand compactly, without gaps for the
    queries that recommendation events lack.

    In training a token is replaced with probability `p_item` or `p_query`: an item by one clicked under the same
    query, a query by one under which the same item was clicked (with `p_graph`), or uniformly.
    """

    card = Card(
        name="Query-SeqRec",
        family="joint",
        tasks=("rec",),
        paper="He, Zhao, Wang, Lin, Kale and McAuley, Query-Aware Sequential Recommendation, CIKM 2022",
        signals=("rec history", "search history", "past queries"),
        loss="cross-entropy over the whole catalog at tokens followed by an item",
        departures=(
            "the usual pre-norm residual x + f(LN(x)); the released code leaves out the residual of the attention",
            "token vectors times sqrt(d), N(0, .02) tables, as in SASRec here (released: unscaled, Xavier uniform)",
            "up to 50 recommendation and 50 search events, all words of a query (released: 50 tokens, 5 words)",
            "a state predicts the next recommendation event at a strictly later time, not one of the same time stamp",
            "a click that repeats an item of the window is no target: it may be the twin of a recommendation event",
            "the graph is that of the (query, item) pairs of the training batch, not of the whole training set; an "
            "item of a recommendation event borrows a query under which it was clicked",
        ),
    )
    Config = QuerySeqRecConfig
    presets = {
        "quick": (TrainConfig(epochs=5, batch_size=32, learning_rate=5e-3),
                  QuerySeqRecConfig(rec_history=20, src_history=10, dropout=0.0)),
        "small": (TrainConfig(epochs=14, batch_size=64, learning_rate=1e-2, weight_decay=0.01, patience=10),
                  QuerySeqRecConfig(rec_history=30, src_history=30, dropout=0.1)),
        "full": (TrainConfig(epochs=100, batch_size=64, learning_rate=1e-2, weight_decay=0.01, patience=15),
                             QuerySeqRecConfig(dropout=0.1)),
        # As released for diginetica, a shop: 50 tokens, here 30 items and 10 searches of two. Ours: the early stop.
        "paper": (TrainConfig(epochs=1000, batch_size=128, learning_rate=1e-3, weight_decay=1e-6, patience=15),
                  QuerySeqRecConfig(dropout=0.6, rec_history=30, src_history=10, p_item=0.25, p_query=0.25,
                                    p_graph=0.2)),
    }

    def __init__(self, config: QuerySeqRecConfig, corpus: Corpus, *, tables: Tables | None = None) -> None:
        super().__init__(config, corpus, tables=tables)
        self.register_buffer("query_words", torch.as_tensor(corpus.query_words), persistent=False)
        self.words = embedding(corpus.n_words, config.width)
        self.types = nn.Embedding(2, config.width)
        nn.init.normal_(self.types.weight, std=0.02)
        self.encoder = SequenceEncoder(
            config.width,
            # A training window may hold searches alone.
            length=2 * sum(self.history_length),
            layers=config.layers,
            heads=config.heads,
            causal=True,
            dropout=config.dropout,
        )

    @property
    def history_length(self) -> tuple[int, int]:
        return (self.config.rec_history, self.config.src_history)

    def queries(self, queries: Tensor) -> Tensor:
        """The mean of a query's word vectors, `[...] -> [..., d]`; each distinct query is encoded once."""
        distinct, place = queries.unique(return_inverse=True)
        means = mean_embedding(self.words, self.query_words[distinct])
        return F.embedding(place, means)

    def token_states(self, batch: Batch | SequenceBatch, *, last: bool = False) -> tuple[Tensor, Tensor]:
        """States [B, n, d] of the tokens, left-padded to the longest row (n = 1 with `last`), and columns [B, L, 2].

        The columns are those of each event's query and item token; they mean nothing for tokens that do not exist.
        """
        exists = torch.stack([batch.tasks == int(Task.SRC), batch.tasks > 0], dim=2).flatten(1)
        following = exists.flip(1).cumsum(1).flip(1)
        n = max(1, int(following[:, 0].max()))
        index, valid = last_columns(exists, n)
        vectors = torch.stack([self.queries(batch.queries), self.items(batch.items)], dim=2) * self.config.width**0.5
        x = take_columns((vectors + self.types.weight).flatten(1, 2), index)
        columns = (n - following).clamp(max=n - 1)
        return self.encoder(x, valid, last=last), columns.unflatten(1, (-1, 2))

    def states(self, batch: Batch | SequenceBatch, *, last: bool = False) -> Tensor:
        states, columns = self.token_states(batch, last=last)
        return states if last else take_columns(states, columns[..., 1]) * (batch.tasks > 0).unsqueeze(-1)

    def losses(self, batch: SequenceBatch) -> dict[str, Tensor]:
        """`rec` and `clicks`: their sum is the mean cross-entropy over recommended and clicked targets together."""
        states, columns = self.token_states(self.augmented(batch))
        row, place = (batch.targets > 0).nonzero(as_tuple=True)
        targets = {"rec": (states[row, columns[row, batch.states[row, place], 1]], batch.targets[row, place])}
        if self.config.predict_clicks:
            row, event = first_clicks(batch).nonzero(as_tuple=True)
            targets["clicks"] = (states[row, columns[row, event, 0]], batch.items[row, event])
        total = sum(len(items) for _, items in targets.values())
        return {
            # Item 0 is no item: it is no class either.
            name: F.cross_entropy(found @ self.items.weight[1:].T, items - 1, reduction="sum") / total
            for name, (found, items) in targets.items()
        }

    def augmented(self, batch: SequenceBatch) -> SequenceBatch:
        """The batch with some tokens replaced, in training; targets stay."""
        if not self.training:
            return batch
        searched = batch.tasks == int(Task.SRC)
        queries, items = batch.queries[searched], batch.items[searched]
        under = torch.where(searched, batch.queries, partners(items, queries, batch.items))
        others = {
            "items": (self.config.p_item, partners(queries, items, under), self.corpus.n_items),
            "queries": (self.config.p_query, partners(items, queries, batch.items), self.corpus.n_queries),
        }
        return replace(batch, **{n: self._replaced(getattr(batch, n), *rest) for n, rest in others.items()})

    def _replaced(self, ids: Tensor, share: float, neighbors: Tensor, count: int) -> Tensor:
        """ids [B, L], a `share` of them replaced by their neighbor (0 = none) or one of 1…count; 0 stays."""
        # From torch's own generator, as dropout: the training loop keys, stores and restores it.
        chosen, graph = torch.rand((2, *ids.shape), device=ids.device)
        uniform = torch.randint(1, count + 1, ids.shape, device=ids.device)
        other = torch.where((graph < self.config.p_graph) & (neighbors > 0), neighbors, uniform)
        return torch.where((chosen < share) & (ids > 0), other, ids)


def first_clicks(batch: SequenceBatch) -> Tensor:
    """Search events whose item no earlier event of the window holds, `[B, L]` bool."""
    same = batch.items.unsqueeze(2) == batch.items.unsqueeze(1)
    earlier = torch.ones_like(same[0]).tril(-1)
    return (batch.tasks == int(Task.SRC)) & ~(same & earlier).any(2)


def partners(keys: Tensor, values: Tensor, asked: Tensor) -> Tensor:
    """For each id of asked [...] the value of a random pair (keys [n], values [n]) that has it as key; 0 = no pair."""
    if not len(keys):
        return torch.zeros_like(asked)
    keys, order = keys.sort()
    low, high = (torch.searchsorted(keys, asked, right=right) for right in (False, True))
    pick = low + (torch.rand(asked.shape, device=asked.device) * (high - low)).long()
    return torch.where(high > low, values[order][pick.clamp(max=len(keys) - 1)], 0)
