"""Paired tests, correction for several comparisons, bootstrap intervals; all on per-query values.

With several seeds a query's value is first averaged over them (`average_seeds`), so that n is the number of queries and
seeds are never counted as further queries. Intervals and tests then speak of the queries, given these seeds.
"""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
import pandas as pd
from scipy import stats

from unisr.errors import UnisrError
from unisr.random import generator

CHUNK = 1 << 22
"""Random draws held at once by the bootstrap (32 MB)."""


class StatisticsError(UnisrError):
    """Samples that cannot be tested or resampled."""


def average_seeds(frames: Sequence[pd.DataFrame], metrics: Sequence[str]) -> pd.DataFrame:
    """Mean of each query's metrics over seeds, indexed by event row, ascending.

    Args:
        frames: one per-query table per seed, of one task, each with columns `event` and `metrics`.

    Raises:
        StatisticsError: the tables do not hold the same queries, once each.
    """
    tables = [f.set_index("event")[list(metrics)].sort_index() for f in frames]
    for number, table in enumerate(tables):
        if not table.index.is_unique or not table.index.equals(tables[0].index):
            raise StatisticsError(
                f"per-query table {number} holds {len(table)} queries that are not those of table 0 "
                f"({len(tables[0])}), once each; rank both runs on the same candidates"
            )
    return sum(tables[1:], start=tables[0]) / len(tables)


def paired_test(a: np.ndarray, b: np.ndarray) -> tuple[float, float, float]:
    """Two-sided paired t-test of per-query values a, b [n]: (t, p, mean of a - b).

    Equal values everywhere give t = 0, p = 1. If all differences are one non-zero constant, their variance is zero and
    t infinite; p is then that of the exact sign test, 2^(1-n), which needs no variance.

    Raises:
        StatisticsError: unequal lengths, fewer than two queries, or a value that is not finite.

    >>> t, p, mean = paired_test(np.array([0.9, 0.8, 0.7, 0.6]), np.array([0.5, 0.6, 0.4, 0.3]))
    >>> round(t, 2), round(p, 3), round(mean, 2)
    (7.35, 0.005, 0.3)
    """
    difference = _differences(a, b)
    mean = float(difference.mean())
    rounding = 1e-12 * max(1.0, float(np.abs(a).max()), float(np.abs(b).max()))
    if np.ptp(difference) <= rounding:
        if abs(mean) <= rounding:
            return 0.0, 1.0, 0.0
        return float(np.copysign(np.inf, mean)), float(2.0 ** (1 - len(difference))), mean
    result = stats.ttest_1samp(difference, 0.0)
    return float(result.statistic), float(result.pvalue), mean


def wilcoxon_test(a: np.ndarray, b: np.ndarray) -> tuple[float, float, float]:
    """Two-sided Wilcoxon signed-rank test of per-query values a, b [n]: (W, p, mean of a - b).

    Queries without a difference are dropped (Wilcoxon's own rule); if none is left, W = 0 and p = 1.
    Errors as in `paired_test`.
    """
    difference = _differences(a, b)
    if not difference.any():
        return 0.0, 1.0, 0.0
    result = stats.wilcoxon(difference, zero_method="wilcox")
    return float(result.statistic), float(result.pvalue), float(difference.mean())


TESTS = {"paired t": paired_test, "wilcoxon": wilcoxon_test}
"""Paired tests by name; each maps a, b [n] to (statistic, p, mean of a - b)."""


def _differences(a: np.ndarray, b: np.ndarray) -> np.ndarray:
    """a - b [n], finite, n >= 2."""
    a, b = np.asarray(a, dtype=np.float64), np.asarray(b, dtype=np.float64)
    if a.shape != b.shape or a.ndim != 1 or len(a) < 2:
        raise StatisticsError(f"a paired test needs two samples of one length >= 2; got {a.shape} and {b.shape}")
    difference = a - b
    if not np.isfinite(difference).all():
        row = int(np.argmin(np.isfinite(difference)))
        raise StatisticsError(f"query {row}: values {a[row]} and {b[row]} cannot be compared; they must be finite")
    return difference


def holm(pvalues: Sequence[float] | np.ndarray) -> np.ndarray:
    """Holm's step-down adjustment [m]: p_(i) becomes max_{j <= i} min(1, (m - j + 1) p_(j)).

    Holm (1979). Rejecting where the adjusted p is below α keeps the chance of any false rejection at α.
    NaN (no test) stays NaN and does not count in m.

    Raises:
        StatisticsError: a value outside [0, 1].

    >>> holm([0.01, 0.04, 0.03]).round(4).tolist()
    [0.03, 0.06, 0.06]
    """
    p = np.asarray(pvalues, dtype=np.float64)
    if np.any((p < 0) | (p > 1)):
        raise StatisticsError(f"p-values must lie in [0, 1]; got {p[(p < 0) | (p > 1)][0]}")
    order = np.argsort(p, kind="stable")[: int(np.sum(~np.isnan(p)))]
    adjusted = np.full(p.shape, np.nan)
    adjusted[order] = np.minimum(1.0, np.maximum.accumulate(p[order] * np.arange(len(order), 0, -1)))
    return adjusted


def bootstrap_interval(
    values: np.ndarray, *, level: float = 0.95, resamples: int = 2000, seed: int = 0
) -> tuple[np.ndarray, np.ndarray]:
    """Percentile interval (low, high) of the mean over queries.

    Args:
        values: [n] or [n, m] per-query values; the m columns share their resamples.
        level: coverage in (0, 1).
        seed: root of the stream "bootstrap".

    Returns:
        low and high, each 0-dimensional or [m]. Memory is bounded by `CHUNK` draws, whatever n.

    Raises:
        StatisticsError: no query, or a level or a number of resamples that makes no sense.
    """
    values = np.asarray(values, dtype=np.float64)
    if values.ndim not in (1, 2) or not len(values):
        raise StatisticsError(f"values must be [n] or [n, m] with n >= 1; got {list(values.shape)}")
    if not 0 < level < 1 or resamples < 1:
        raise StatisticsError(f"level {level} must be in (0, 1) and resamples {resamples} at least 1")
    n, stream = len(values), generator(seed, "bootstrap")
    step = max(1, CHUNK // n)
    means = []
    for done in range(0, resamples, step):
        size = min(step, resamples - done)
        drawn = stream.integers(n, size=(size, n)) + n * np.arange(size)[:, None]
        counts = np.bincount(drawn.ravel(), minlength=size * n).reshape(size, n)
        means.append(counts @ values / n)
    tail = (1 - level) / 2
    low, high = np.quantile(np.concatenate(means), [tail, 1 - tail], axis=0)
    return low, high
