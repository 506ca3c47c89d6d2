"""Losses shared by the methods, in nats."""

from __future__ import annotations

from collections.abc import Callable

import numpy as np
import torch
import torch.nn.functional as F
from torch import Tensor, nn

from unisr.data.batches import Batch
from unisr.data.corpus import Corpus
from unisr.data.schema import TASKS, Task


class Similarity(nn.Module):
    """s(x, y) = tanh(x^T M y) / tau, `[n, d], [m, d] -> [n, m]`; tau is learned through its logarithm."""

    def __init__(self, width: int, tau: float) -> None:
        super().__init__()
        self.map = nn.Linear(width, width, bias=False)
        self.log_tau = nn.Parameter(torch.tensor(float(np.log(tau))))

    def forward(self, x: Tensor, y: Tensor) -> Tensor:
        return torch.tanh(x @ self.map(y).T) / self.log_tau.exp()

    def paired(self, x: Tensor, y: Tensor) -> Tensor:
        """The similarity of row i of x with row i of y, `[n]`."""
        return torch.tanh((x * self.map(y)).sum(-1)) / self.log_tau.exp()


def task_bce(scores: Tensor, labels: Tensor, task: Tensor) -> dict[str, Tensor]:
    """Binary cross-entropy of scores [B, C] against labels [B, C], the mean over each task's candidates.

    A task without a row in `task` [B] has no term.
    """
    terms = F.binary_cross_entropy_with_logits(scores, labels, reduction="none").mean(1)
    return {name: terms[rows].mean() for name, number in TASKS.items() if (rows := task == int(number)).any()}


def info_nce(positive: Tensor, negatives: Tensor, *, hits: Tensor, weights: Tensor) -> Tensor:
    """-sum_i w_i log(exp p_i / (exp p_i + sum_j exp n_ij)), nats.

    positive [n], negatives [n, m] similarities; hits [n, m] bool: negatives that are the positive itself
    and are left out; weights [n].
    """
    logits = torch.cat([positive.unsqueeze(1), negatives.masked_fill(hits, torch.finfo(negatives.dtype).min)], 1)
    return -(logits.log_softmax(1)[:, 0] * weights).sum()


def query_item(
    similarity: Similarity,
    queries: Callable[[Tensor], Tensor],
    items: Callable[[Tensor], Tensor],
    batch: Batch,
    *,
    corpus: Corpus,
    negatives: int,
) -> Tensor:
    """InfoNCE of the histories' (query, clicked item) pairs against uniform items and queries, `negatives` each, nats.

    The mean over all pairs, averaged over both directions; queries and items encode ids `[n] -> [n, d]`. Equal pairs
    are encoded once and weighted by how often they occur. Zero where no history has a search.
    """
    searched = batch.tasks == int(Task.SRC)
    codes = batch.queries[searched] * (corpus.n_items + 1) + batch.items[searched]
    codes, counts = codes.unique(return_counts=True)
    query, item = codes // (corpus.n_items + 1), codes % (corpus.n_items + 1)
    weights = counts / counts.sum().clamp(min=1)
    # From torch's own generator, as dropout: the training loop keys, stores and restores it.
    other_items = torch.randint(1, corpus.n_items + 1, (negatives,), device=codes.device)
    other_queries = torch.randint(1, corpus.n_queries + 1, (negatives,), device=codes.device)
    q, i = queries(query), items(item)
    positive = similarity.paired(q, i)
    to_items = similarity(q, items(other_items))
    to_queries = similarity(queries(other_queries), i).T
    both = info_nce(positive, to_items, hits=item.unsqueeze(1) == other_items, weights=weights)
    return (both + info_nce(positive, to_queries, hits=query.unsqueeze(1) == other_queries, weights=weights)) / 2


def nt_xent(similarity: Similarity, a: Tensor, b: Tensor) -> Tensor:
    """NT-Xent of two views a, b [n, d], nats: among the other 2n - 1 views of the batch, find the same row's.

    With fewer than two rows there is nothing to tell apart: 0 (connected to the views).
    """
    n = len(a)
    if n < 2:
        return (a.sum() + b.sum()) * 0.0
    views = torch.cat([a, b])
    logits = similarity(views, views)
    itself = torch.eye(2 * n, dtype=torch.bool, device=a.device)
    logits = logits.masked_fill(itself, torch.finfo(logits.dtype).min)
    return F.cross_entropy(logits, torch.arange(2 * n, device=a.device).roll(n))
