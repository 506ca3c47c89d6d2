"""USER: sessions of searches and recommendations, one encoder whose last slot is the query or the user."""

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
from unisr.models.layers import SequenceEncoder, embedding
from unisr.models.pooling import AdditivePool
from unisr.models.recipe import shared_recipe
from unisr.registry import Card, register


class USERConfig(ModelConfig):
    width: int = Field(64, ge=1)
    """Width of items, words, users and intents."""
    layers: int = Field(1, ge=1)
    """Of the word, session and history encoders each."""
    heads: int = Field(2, ge=1)
    dropout: float = Field(0.1, ge=0, lt=1)
    session: int = Field(10, ge=1)
    """n, events in a session; the latest n are the current one."""
    rec_history: int = Field(20, ge=1)
    """Latest recommendation events read."""
    src_history: int = Field(20, ge=1)
    """Latest search events read."""
    contextual: bool = False
    """Adds cosines with candidates that have passed through the history encoder."""
    scale: float = Field(10.0, gt=0)
    """Initial sum of the weights of the cosines."""
    search_weight: float = Field(1.0, ge=0)
    """Weight of the search loss."""


class QueryText(nn.Module):
    """A query's words through a transformer, `[n]` ids -> states [n, T, d] and their mask [n, T]."""

    def __init__(self, corpus: Corpus, config: USERConfig) -> None:
        super().__init__()
        self.register_buffer("words", torch.as_tensor(corpus.query_words), persistent=False)
        self.table = embedding(corpus.n_words, config.width, std=config.width**-0.5)
        self.encoder = _encoder(config, self.words.shape[1])

    def forward(self, queries: Tensor) -> tuple[Tensor, Tensor]:
        words = self.words[queries]
        return self.encoder(self.table(words), words > 0), words > 0


class ClickedQuery(nn.Module):
    """A search event: U [sum_t a_t w_t; e] + b, a = softmax_t tanh(w_t · W e), its clicked item e weighing the words.

    words [n, T, d], valid [n, T], items [n, d] -> [n, d].
    """

    def __init__(self, width: int) -> None:
        super().__init__()
        self.affinity = nn.Linear(width, width, bias=False)
        self.join = nn.Linear(2 * width, width)

    def forward(self, words: Tensor, valid: Tensor, items: Tensor) -> Tensor:
        affinity = torch.tanh((words @ self.affinity(items).unsqueeze(-1)).squeeze(-1))
        weights = affinity.masked_fill(~valid, torch.finfo(affinity.dtype).min).softmax(-1)
        read = (weights.unsqueeze(1) @ (words * valid.unsqueeze(-1))).squeeze(1)
        return self.join(torch.cat([read, items], dim=-1))


@register
class USER(Scorer):
    """s_c = v_1 cos(short, e_c) + v_2 cos(long, e_c), the two intents of a slot that asks for the task (Yao et al.).

    - A recommendation event is its item's vector, a search event the fusion of its query and clicked item. The slot
      holds the encoded query in search and the user's vector in recommendation: all that tells the tasks apart.
    - short: the slot's state in a transformer over the current session's events and the slot. long: its state in a
      second one over the events of all past sessions, encoded by the first per session, and the slot.
    - Loss: L_rec + search_weight · L_src, softmax cross-entropy over the candidates.
    """

    card = Card(
        name="USER",
        family="joint",
        tasks=("rec", "src"),
        paper="Yao, Dou, Xie, Lu, Wang and Wen, "
        "USER: A Unified Information Search and Recommendation Model based on Integrated Behavior Sequence, CIKM 2021",
        signals=("rec history", "search history", "current query", "past queries", "user id"),
        loss="softmax cross-entropy over 1 + 4 uniform negatives, both tasks jointly",
        departures=(
            "documents are item id vectors instead of encoded texts; co-attention of a query with the one vector of "
            "its clicked item is attention over the query's words (the released affinity matrix is never trained)",
            "the data has no sessions: stretches of n events, counted from the latest",
            "two cosines with plain items; the released four, two of them with candidates that passed through the "
            "history encoder, are a switch (`contextual`)",
            "no tanh on the score, which would keep softmax from sharpening: the weights of the cosines are learned "
            "and sum to 10 at the start; no hand-made features of the original query log",
            "one pass of the session encoder (the released code: two with shared weights); width 64, 2 heads, inner "
            "width 128, tables from scratch",
            "trained on both tasks at once, without fine-tuning for each afterwards",
        ),
    )
    Config = USERConfig

    def __init__(self, config: USERConfig, corpus: Corpus, *, tables: Tables | None = None) -> None:
        super().__init__(config, corpus, tables=tables)
        width, std = config.width, config.width**-0.5
        self.items = embedding(corpus.n_items, width, std=std)
        self.users = embedding(corpus.n_users, width, std=std)
        self.text = QueryText(corpus, config)
        self.pool = AdditivePool(width)
        self.clicked = ClickedQuery(width)
        self.session = _encoder(config, config.session + 1)
        self.past = _encoder(config, None)
        self.ages = nn.Embedding(1 + sum(self.history_length), width)
        nn.init.normal_(self.ages.weight, std=0.02)
        count = 4 if config.contextual else 2
        self.cosines = nn.Parameter(torch.full((count,), config.scale / count))

    @property
    def history_length(self) -> tuple[int, int]:
        return (self.config.rec_history, self.config.src_history)

    def read(self, batch: Batch) -> tuple[Tensor, Tensor]:
        """Vectors of the events [B, L, d] and of the slot [B, d]."""
        distinct, place = torch.cat([batch.queries.flatten(), batch.query]).unique(return_inverse=True)
        words, valid = self.text(distinct)
        size = len(batch.query)
        current, place = place[-size:], place[:-size].view(batch.queries.shape)
        searched = batch.tasks == int(Task.SRC)
        items = self.items(batch.items)
        nodes = self.clicked(words[place[searched]], valid[place[searched]], items[searched])
        events = items.index_put((searched,), nodes.to(items.dtype))
        query = F.embedding(current, self.pool(words, valid))
        return events, torch.where((batch.task == int(Task.SRC)).unsqueeze(1), query, self.users(batch.user))

    def intents(self, events: Tensor, valid: Tensor, slot: Tensor, items: Tensor) -> tuple[Tensor, Tensor, Tensor]:
        """Short and long intent [B, d] and contextual candidates, of events [B, L, d], slot [B, d], items [B, C, d].

        The contextual candidates are [B, 0, d] where the config does not ask for them.
        """
        n, size = self.config.session, len(slot)
        fill = -events.shape[1] % n
        events, valid = F.pad(events, (0, 0, fill, 0)), F.pad(valid, (fill, 0))
        # Without any event column there is still a session: that of the slot alone.
        current = torch.cat([events[:, -n:], slot.unsqueeze(1)], 1)
        present = F.pad(valid[:, -n:], (0, 1), value=True)
        short = self.session(current, present, last=True).squeeze(1)
        past, been = events[:, :-n], valid[:, :-n]
        if past.shape[1]:
            past = self.session(past.reshape(-1, n, past.shape[-1]), been.reshape(-1, n)).view(past.shape)
        return short, *self._long(past, been, slot.view(size, 1, -1), items)

    def losses(self, batch: Batch) -> dict[str, Tensor]:
        """`rec`, `src` (weighted): -log softmax of the positive among the candidates, the mean over the task's rows."""
        nll = F.cross_entropy(self.score(batch), batch.labels, reduction="none")
        found = {name: batch.task == int(task) for name, task in TASKS.items()}
        terms = {name: nll[rows].mean() for name, rows in found.items() if rows.any()}
        if "src" in terms:
            terms["src"] = terms["src"] * self.config.search_weight
        return terms

    def score(self, batch: Batch) -> Tensor:
        items = self.items(batch.candidates)
        short, long, contextual = self.intents(*self._inputs(batch), items)
        intents = torch.stack([short, long], dim=2)
        views = [items, contextual] if self.config.contextual else [items]
        cosines = [F.normalize(view, dim=-1) @ F.normalize(intents, dim=1) for view in views]
        return (torch.cat(cosines, dim=-1) @ self.cosines).float()

    def _inputs(self, batch: Batch) -> tuple[Tensor, Tensor, Tensor]:
        events, slot = self.read(batch)
        return events, batch.tasks > 0, slot

    def _long(self, past: Tensor, been: Tensor, slot: Tensor, items: Tensor) -> tuple[Tensor, Tensor]:
        """The slot's and the candidates' states behind the past sessions; no candidate is seen by another position."""
        items = items if self.config.contextual else items[:, :0]
        length, count = past.shape[1] + 1, items.shape[1]
        ages = torch.arange(length - 1, -1, -1, device=past.device).clamp(max=self.ages.num_embeddings - 1)
        x = torch.cat([past, slot, items], 1) + self.ages(F.pad(ages, (0, count)))
        own = torch.eye(length + count, dtype=torch.bool, device=past.device)
        seen = own | (torch.arange(length + count, device=past.device) < length)
        states = self.past(x, F.pad(been, (0, 1 + count), value=True), seen)
        return states[:, length - 1], states[:, length:]


def _encoder(config: USERConfig, length: int | None) -> SequenceEncoder:
    return SequenceEncoder(
        config.width,
        length=length,
        layers=config.layers,
        heads=config.heads,
        inner=2 * config.width,
        norm="post",
        dropout=config.dropout,
    )


USER.presets = {
    "quick": (TrainConfig(epochs=3, batch_size=128, learning_rate=1e-2, epoch_examples=5000, validation_users=50),
              USERConfig(width=32, session=5, rec_history=10, src_history=10, dropout=0.0)),
    "small": (TrainConfig(epochs=7, batch_size=128, learning_rate=3e-3, epoch_examples=20000, schedule="cosine",
                          warmup_steps=50, validation_users=300), USERConfig(rec_history=10, src_history=10)),
    "full": (TrainConfig(epochs=20, batch_size=128, learning_rate=3e-3, epoch_examples=25000, schedule="cosine",
                         warmup_steps=50, validation_users=400, patience=10),
             USERConfig(rec_history=10, src_history=10)),
    # Width and cosines as released; 4 heads, which divide 100 as its 8 do not. Nothing else is published: the recipe.
    "paper": (shared_recipe(evaluation_batch=32),
              USERConfig(width=100, heads=4, contextual=True, rec_history=30, src_history=30)),
}
