"""Losses shared by the methods, in nats."""

from __future__ import annotations

import numpy as np
import torch
import torch.nn.functional as F
from torch import Tensor, nn

from unisr.data.schema import TASKS


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
