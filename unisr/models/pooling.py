"""Pooling of histories [B, L, d] to vectors. Masks are true where valid."""

from __future__ import annotations

import torch
from torch import Tensor, nn


class TargetAttention(nn.Module):
    """Bilinear target pooling: sum_j a_j h_j with a = softmax_j(h_j^T W e_c).

    history [B, L, d]; valid [B, L]; candidates [B, C, d] -> [B, C, d]. One batched product H W E_c^T, so
    nothing of size B C L d is built. Rows without a valid event give zeros.
    """

    def __init__(self, width: int) -> None:
        super().__init__()
        self.map = nn.Linear(width, width, bias=False)

    def forward(self, history: Tensor, valid: Tensor, candidates: Tensor) -> Tensor:
        logits = candidates @ self.map(history).transpose(1, 2)
        # The most negative number, not -inf: a row without events stays finite and its values are zeros.
        logits = logits.masked_fill(~valid.unsqueeze(1), torch.finfo(logits.dtype).min)
        return logits.softmax(-1) @ (history * valid.unsqueeze(-1))


def masked_mean(x: Tensor, valid: Tensor) -> Tensor:
    """The mean of x [B, L, d] over valid [B, L], `[B, d]`; zeros where nothing is valid.

    >>> masked_mean(torch.tensor([[[2.0], [4.0], [9.0]]]), torch.tensor([[True, True, False]])).tolist()
    [[3.0]]
    """
    weights = valid.to(x.dtype).unsqueeze(-1)
    return (x * weights).sum(1) / weights.sum(1).clamp(min=1)


def last_columns(chosen: Tensor, length: int) -> tuple[Tensor, Tensor]:
    """Columns of the last `length` true cells of chosen [B, L], in order and left-padded.

    Returns index [B, n], valid [B, n] with n = min(length, L); padded cells point at column 0.
    """
    n = min(length, chosen.shape[1])
    index = chosen.long().argsort(dim=1, stable=True)[:, chosen.shape[1] - n :]
    valid = chosen.gather(1, index)
    return index * valid, valid


def take_columns(x: Tensor, index: Tensor) -> Tensor:
    """x [B, L, d] at the columns index [B, n], `[B, n, d]`."""
    return x.gather(1, index.unsqueeze(-1).expand(-1, -1, x.shape[-1]))


class AdditivePool(nn.Module):
    """sum_j a_j x_j with a = softmax_j(v · tanh(W x_j + b)), x [..., n, d], valid [..., n] -> [..., d].

    Rows without a valid entry give zeros.
    """

    def __init__(self, width: int, hidden: int | None = None) -> None:
        super().__init__()
        self.map = nn.Linear(width, hidden or width)
        self.weight = nn.Linear(hidden or width, 1, bias=False)

    def forward(self, x: Tensor, valid: Tensor) -> Tensor:
        logits = self.weight(torch.tanh(self.map(x))).squeeze(-1)
        logits = logits.masked_fill(~valid, torch.finfo(logits.dtype).min)
        return (logits.softmax(-1).unsqueeze(-2) @ (x * valid.unsqueeze(-1))).squeeze(-2)
