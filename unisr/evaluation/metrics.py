"""Recall@K, NDCG@K and MRR of one positive per query, from its 1-based rank r.

    Recall@K = [r ≤ K]      NDCG@K = [r ≤ K] / log2(r + 1)      MRR = 1 / r

r is the expected rank of `unisr.evaluation.ranks`, so with ties the metric is evaluated AT the expected rank; it is not
the metric's expectation over tie-breaks. A positive in a tie that straddles K thus counts wholly or not at all.
"""

from __future__ import annotations

import math

import numpy as np
import pandas as pd

CUTOFFS = (5, 10)
METRICS = ("Recall@5", "Recall@10", "NDCG@5", "NDCG@10", "MRR")


def recall(rank: np.ndarray, k: int) -> np.ndarray:
    """1 where the positive is among the first k, else 0: [n] -> [n]. With one positive this is the hit rate."""
    return (np.asarray(rank) <= k).astype(np.float64)


def ndcg(rank: np.ndarray, k: int) -> np.ndarray:
    """Gain 1 / log2(rank + 1) within the first k, else 0: [n] -> [n]. The ideal gain of one positive is 1.

    >>> ndcg(np.array([1, 3, 11]), 10).tolist()
    [1.0, 0.5, 0.0]
    """
    return recall(rank, k) / np.log2(np.asarray(rank, dtype=np.float64) + 1)


def reciprocal(rank: np.ndarray) -> np.ndarray:
    """1 / rank, without cut-off: [n] -> [n]. Its mean is MRR."""
    return 1.0 / np.asarray(rank, dtype=np.float64)


def per_query_metrics(frame: pd.DataFrame) -> pd.DataFrame:
    """A copy of the per-query table with a column for every name in `METRICS`, from its column `rank`."""
    rank = frame["rank"].to_numpy()
    columns = {f"Recall@{k}": recall(rank, k) for k in CUTOFFS}
    columns |= {f"NDCG@{k}": ndcg(rank, k) for k in CUTOFFS}
    return frame.assign(**columns, MRR=reciprocal(rank))


def summary(frame: pd.DataFrame) -> dict[str, dict[str, float]]:
    """{task: {metric: mean over queries}} of a per-query table with columns `task`, `rank`, `ties`.

    Each task also has `tie_rate`, the share of queries whose positive ties with another candidate, and `n`, queries.
    """
    table = per_query_metrics(frame)
    result = {}
    for task, rows in table.groupby("task", sort=False):
        result[str(task)] = {m: float(rows[m].mean()) for m in METRICS}
        result[str(task)] |= {"tie_rate": float((rows["ties"] > 0).mean()), "n": len(rows)}
    return result


def chance(candidates: np.ndarray) -> dict[str, float]:
    """{metric: mean over queries with n = `candidates` [q]} of a rank that is uniform over 1 … n.

        E Recall@K = min(K, n) / n    E NDCG@K = sum_{r ≤ min(K, n)} 1 / log2(r + 1) / n    E MRR = sum_r 1 / r / n
    """
    sizes, counts = np.unique(candidates, return_counts=True)
    ranks = [np.arange(1, n + 1) for n in sizes]
    values = {f"Recall@{k}": [recall(r, k).mean() for r in ranks] for k in CUTOFFS}
    values |= {f"NDCG@{k}": [ndcg(r, k).mean() for r in ranks] for k in CUTOFFS}
    values["MRR"] = [reciprocal(r).mean() for r in ranks]
    return {metric: float(np.average(v, weights=counts)) for metric, v in values.items()}


def consistent(r5: float, r10: float, n5: float, n10: float, rounding: float = 5e-5) -> bool:
    """Whether four printed means can come from integer ranks of one positive per query.

    A positive of rank 6…10 adds 1 to Recall@10 and between 1/log2(11) and 1/log2(7) to NDCG@10, one of rank 1…5 adds
    between 1/log2(6) and 1 to NDCG@5; so

        (N@10 - N@5) / (R@10 - R@5) ∈ [0.289, 0.356]   and   N@5 / R@5 ∈ [0.387, 1]

    `rounding` is the largest error of each printed number (5e-5 for four decimals). Means over expected ranks with ties
    may leave the first window, as a rank of 5.5 has a gain above 1/log2(7).

    >>> consistent(0.7661, 0.8372, 0.7564, 0.7655)  # GenSR on KuaiSAR, search, as printed
    False
    """
    late_recall, late_gain = r10 - r5, n10 - n5
    slack = 2 * rounding + 1e-12
    late = (late_recall - slack) / math.log2(11) - slack <= late_gain <= (late_recall + slack) / math.log2(7) + slack
    slack = rounding + 1e-12
    early = (r5 - slack) / math.log2(6) - slack <= n5 <= r5 + 2 * slack
    ordered = -slack <= r5 <= r10 + 2 * slack and r10 <= 1 + slack
    return late and early and ordered
