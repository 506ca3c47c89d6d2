"""Sampled against full ranking: what 99 sampled negatives tell of the rank in the whole catalog.

If r is the target's rank among all n candidates and 99 of the others are drawn uniformly, its rank among the hundred is
1 + Hypergeometric(n - 1, r - 1, 99). So the full ranks of a run tell which sampled metrics to expect, and not the
other way round (Krichene and Rendle, On Sampled Metrics for Item Recommendation, KDD 2020).
"""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
import pandas as pd
from scipy.stats import hypergeom, kendalltau

from unisr import registry
from unisr.data.candidates import N_NEGATIVES
from unisr.errors import UnisrError
from unisr.evaluation.protocol import SIZE
from unisr.random import generator
from unisr.report.gains import measure, values
from unisr.report.store import Run

RESAMPLES = 500


def agreement(sampled: Sequence[Run], full: Sequence[Run], task: str, metric: str) -> pd.DataFrame:
    """Both means of every method that has both kinds of runs, the best in full ranking first.

    Returns:
        columns method, family, sampled, expected (of the full ranks, see above), full (means over queries),
        sampled_place and full_place (1 is best). `attrs`: `tau`, Kendall's rank correlation of the two orders, and
        `low`, `high`, its 95 % interval by bootstrap over queries.

    Raises:
        UnisrError: fewer than two methods have both.
    """
    few, all_ = values(sampled, task, metric), values(full, task, metric)
    names = [name for name in all_ if name in few]
    if len(names) < 2:
        raise UnisrError(f"sampled and full ranking are compared over methods; {len(names)} of {len(all_.T)} has both")
    few, all_ = few[names].loc[all_.index], all_[names]
    families = {name: cls.card.family for name, cls in registry.methods().items()}
    frame = pd.DataFrame({
        "method": names, "family": [families[name] for name in names],
        "sampled": few.mean().to_numpy(), "expected": [_expected(full, task, metric, name) for name in names],
        "full": all_.mean().to_numpy(),
    })  # fmt: skip
    for kind in ("sampled", "full"):
        frame[f"{kind}_place"] = frame[kind].rank(ascending=False, method="min").astype(int)
    frame.attrs = _correlation(few.to_numpy(), all_.to_numpy())
    return frame.sort_values("full", ascending=False, kind="stable").reset_index(drop=True)


def expected_sampled(rank: np.ndarray, size: np.ndarray, metric: str) -> np.ndarray:
    """Expected value of `metric` [n] among 99 uniform of the others, for ranks [n] of `size` [n] candidates.

    A rank of .5, as ties have, is taken as the mean of the two ranks beside it.
    """
    above = np.arange(N_NEGATIVES + 1)
    whole = np.stack([np.floor(rank), np.ceil(rank)])[..., None]
    others = size[:, None] - 1
    chance = hypergeom.pmf(above, others, whole - 1, np.minimum(N_NEGATIVES, others))
    return (chance @ measure(metric)(above + 1.0)).mean(0)


def _expected(full: Sequence[Run], task: str, metric: str, method: str) -> float:
    """The mean over a method's queries and seeds."""
    tables = [run.per_query[run.per_query["task"] == task] for run in full if run.config.method == method]
    return float(np.mean([expected_sampled(t["rank"].to_numpy(), t[SIZE].to_numpy(), metric).mean() for t in tables]))


def _correlation(few: np.ndarray, all_: np.ndarray) -> dict[str, float]:
    """Kendall's tau between the methods' means in [n, methods] each, and its interval over resampled queries."""
    rng = generator(0, "sampled against full")
    taus = []
    for _ in range(RESAMPLES):
        rows = rng.integers(0, len(few), len(few))
        taus.append(kendalltau(few[rows].mean(0), all_[rows].mean(0)).statistic)
    low, high = np.nanquantile(taus, [0.025, 0.975])
    return {"tau": float(kendalltau(few.mean(0), all_.mean(0)).statistic), "low": float(low), "high": float(high)}


def reading(frame: pd.DataFrame, metric: str) -> str:
    """Markdown: how well the orders agree, who moves most, and how near the sampled means are to what is expected."""
    tau = frame.attrs
    text = (f"Kendall's τ between the order of {len(frame)} methods by sampled and by full {metric} is "
            f"**{tau['tau']:.2f}** ({tau['low']:.2f} to {tau['high']:.2f}). ")
    moved = (frame["full_place"] - frame["sampled_place"]).abs()
    far = frame.loc[moved.idxmax()]
    text += (f"{far['method']} moves most: place {far['sampled_place']} sampled, {far['full_place']} in full ranking. "
             if moved.max() else "No method changes its place. ")  # fmt: skip
    gap = (frame["sampled"] - frame["expected"]).abs()
    worst = frame.loc[gap.idxmax()]
    return text + (f"The sampled means follow from the full ranks within {gap.max():.3f} "
                   f"({worst['method']}: {worst['expected']:.3f} expected, {worst['sampled']:.3f} in the stored draw).")
