"""Rank of the positive among its candidates, 1-based.

n queries, C candidates. `expected_rank` is the suite's rule; `released_rank` is the rule of the published UniSAR and
GenSR evaluators and serves the audit only.
"""

from __future__ import annotations

import numpy as np
import torch
from torch import Tensor

from unisr.errors import UnisrError


class RankError(UnisrError):
    """Scores or positive columns from which no rank follows."""


def expected_rank(scores: np.ndarray | Tensor, positive: np.ndarray | Tensor) -> tuple[np.ndarray, np.ndarray]:
    """Rank of the positive, expected over random orders of equal scores.

        rank = 1 + #{c: s_c > s_+} + 0.5 · #{c ≠ +: s_c = s_+}, compared in fp32

    Args:
        scores: [n, C], higher is better; infinities are ordered like numbers.
        positive: [n] column of the positive.

    Returns:
        rank [n] float64 in [1, C], an integer or a half; ties [n] int64: other candidates with the positive's score.

    Raises:
        RankError: wrong shapes, a column outside 0…C-1, or a NaN (the first row with one is named).

    >>> rank, ties = expected_rank(np.array([[0.1, 0.7, 0.7, 0.7]]), np.array([1]))
    >>> rank.tolist(), ties.tolist()
    ([2.0], [2])
    """
    table, column = _checked(scores, positive)
    own = table.gather(1, column[:, None])
    greater = (table > own).sum(1)
    ties = (table == own).sum(1) - 1
    rank = 1 + greater.double() + 0.5 * ties.double()
    return rank.cpu().numpy(), ties.cpu().numpy()


def released_rank(
    scores: np.ndarray | Tensor, positive: np.ndarray | Tensor, *, first: bool = True
) -> np.ndarray:
    """Rank by the rule of the released UniSAR and GenSR evaluators, [n] float64.

    The positive stands in column 0 and the rank is its place in numpy's default (not stable) argsort of the negated
    scores. Where the positive ties, its place is up to the sort; equal keys mostly stay in order, so the positive comes
    first and a constant scorer is perfect. `first` False leaves the positive in its own column. Other arguments and
    errors as in `expected_rank`.

    >>> released_rank(np.zeros((1, 100)), np.array([50])).tolist()  # knows nothing, and is perfect
    [1.0]
    """
    table, column = _checked(scores, positive)
    table, column = table.cpu().numpy(), column.cpu().numpy()
    if first:
        others = np.arange(table.shape[1]) != column[:, None]
        table = np.take_along_axis(table, np.argsort(others, axis=1, kind="stable"), axis=1)
        column = np.zeros_like(column)
    return 1.0 + np.argmax(np.argsort(-table, axis=1) == column[:, None], axis=1)


def _checked(scores: np.ndarray | Tensor, positive: np.ndarray | Tensor) -> tuple[Tensor, Tensor]:
    """Scores [n, C] in fp32 and positive columns [n] int64 on the same device."""
    table = torch.as_tensor(scores).detach().float()
    column = torch.as_tensor(positive).to(table.device, torch.int64)
    if table.ndim != 2 or column.shape != table.shape[:1]:
        raise RankError(
            f"scores must be [n, C] and positive [n]; got {list(table.shape)} and {list(column.shape)}"
        )
    if bool((outside := (column < 0) | (column >= table.shape[1])).any()):
        row = int(outside.int().argmax())
        raise RankError(f"row {row}: positive column {int(column[row])} is outside 0…{table.shape[1] - 1}")
    wrong = table.isnan().sum(1)
    if bool(wrong.any()):
        row = int((wrong > 0).int().argmax())
        raise RankError(
            f"row {row}: {int(wrong[row])} of {table.shape[1]} scores are NaN (so in {int((wrong > 0).sum())} rows); "
            "look for a division by zero, a fully masked attention row or a diverged training"
        )
    return table, column
