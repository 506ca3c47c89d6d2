"""Paragraphs that say what a table shows, written from its numbers, so that they stay true when these change."""

from __future__ import annotations

from collections.abc import Sequence

import pandas as pd
from scipy.stats import kendalltau

from unisr import registry
from unisr.data.schema import TASK_TITLES
from unisr.report import cost
from unisr.report.store import Run

FLOOR = {"rec": "Popularity", "src": "Lexical"}
"""The reference row that a trained method should beat."""
FEW = 30
"""Fewest queries of a group that may be called the one with the largest gain."""
SHARED = 5
"""Fewest methods over which two orders are compared."""


def comparison(tidy: pd.DataFrame, paper: pd.DataFrame, metric: str = "NDCG@10") -> str:
    """Markdown: who is best and how clearly, who beats the reference, where the paper's winner stands, both orders.

    Args:
        tidy: the frame of `unisr.report.comparison.comparison` for one task.
        paper: of `paper_numbers` for the table of the same task.
    """
    rows = tidy[tidy["metric"] == metric].sort_values("value", ascending=False, kind="stable").set_index("method")
    task, seeds = str(tidy["task"].iloc[0]), sorted(set(rows["seeds"]))
    printed = paper[(paper["metric"] == metric) & paper["value"].notna()]
    parts = [_best(rows, metric), _floor(rows, task), _families(rows), _winner(rows, printed), _orders(rows, printed)]
    many = f"{seeds[0]}" if len(seeds) == 1 else f"{seeds[0]} to {seeds[-1]}"
    tail = f"{len(rows)} methods, {int(rows['n'].iloc[0]):,} queries; seeds a method: {many}."
    return " ".join([*filter(None, parts), tail])


def _best(rows: pd.DataFrame, metric: str) -> str:
    first = rows.iloc[0]
    text = f"**{rows.index[0]}** has the highest {metric}, {first['value']:.3f}"
    text += f" ({first['low']:.3f} to {first['high']:.3f})"
    if len(rows) == 1:
        return text + "; nothing is there to compare it with."
    clear = "a clear difference" if first["significant"] else "not a clear difference"
    text += f", {abs(first['difference']):.3f} above {first['against']}: {clear}"
    text += f" (p = {first['p_adjusted']:.2g} after correction)."
    equal = [m for m in rows.index[1:] if not rows.loc[m, "significant"]]
    return text + (f" The test separates it from none of: {', '.join(equal)}." if len(equal) > 1 else "")


def _floor(rows: pd.DataFrame, task: str) -> str:
    name = FLOOR[task]
    trained = [m for m in rows.index if registry.method(m).card.family != "reference"]
    if name not in rows.index or not trained:
        return ""
    below = [m for m in trained if rows.loc[m, "value"] <= rows.loc[name, "value"]]
    reference = f"{name} ({rows.loc[name, 'value']:.3f}), which is not trained"
    if not below:
        return f"Every trained method ({len(trained)}) is above {reference}."
    share = f"{len(trained) - len(below)} of {len(trained)} trained methods"
    return f"{share} are above {reference}; {', '.join(below)} {'is' if len(below) == 1 else 'are'} not."


def _families(rows: pd.DataFrame) -> str:
    """The best method of each trained family."""
    families = [registry.method(m).card.family for m in rows.index]
    best = rows.assign(family=families).reset_index().drop_duplicates("family")
    named = [f"{r.family} {r.method} {r.value:.3f}" for r in best.itertuples() if r.family != "reference"]
    return f"Best of each family: {', '.join(named)}." if len(named) > 1 else ""


def _winner(rows: pd.DataFrame, printed: pd.DataFrame) -> str:
    """Places here of the methods that are first in the paper."""
    best = printed.loc[printed.groupby("dataset", sort=False)["value"].idxmax(), "method"]
    places = {method.lower(): place for place, method in enumerate(rows.index, start=1)}
    parts = []
    for name in best.unique():
        place = places.get(name.lower())
        where = f"is number {place} of {len(rows)} here" if place else "has no run here"
        parts.append(f"{name}, the paper's best, {where}.")
    return " ".join(parts)


def _orders(rows: pd.DataFrame, printed: pd.DataFrame) -> str:
    """Agreement of the paper's order of methods with ours, per dataset of the paper."""
    ours, parts = rows["value"].rename(str.lower), []
    for dataset, cells in printed.groupby("dataset", sort=False):
        theirs = cells.set_index(cells["method"].str.lower())["value"]
        shared = [m for m in ours.index if m in theirs.index]
        if len(shared) >= SHARED:
            tau = kendalltau(ours[shared], theirs[shared]).statistic
            parts.append(f"{tau:.2f} with {dataset} ({len(shared)} methods)")
    return f"Kendall's τ of the paper's order and ours (1 is the same): {', '.join(parts)}." if parts else ""


def gain(frame: pd.DataFrame, name: str, metric: str) -> str:
    """Markdown: over which groups of queries the gain of `unisr.report.gains.by_bin` is spread.

    Args:
        name: the property, as a column of `gains.properties`.
    """
    method, other = frame.columns[2], frame.columns[3]
    whole, groups = frame.iloc[0], frame.iloc[1:].dropna(subset=["low"])
    up, down = groups[groups["low"] > 0], groups[groups["high"] < 0]
    text = f"{metric} of {method} minus that of {other}: {whole['gain']:+.3f} over all {int(whole['n']):,} queries."
    many = groups[groups["n"] >= FEW]
    if many.empty:
        return text
    top = many.loc[many["gain"].idxmax()]
    text += f" By {name} the gain is largest at {top['bin']} ({top['gain']:+.3f}, {int(top['n'])} queries)."
    text += f" Intervals above 0: {', '.join(up['bin']) or 'none'}; below 0: {', '.join(down['bin']) or 'none'}."
    return text


def costs(runs: Sequence[Run], metric: str = "NDCG@10") -> str:
    """Markdown: what is on the front of quality against time, how far sizes and times spread, and on which machines."""
    axis = "seconds to the best epoch, with what it reads"
    parts = []
    for task, title in TASK_TITLES.items():
        if any(task in run.metrics for run in runs):
            points = cost.points(runs, task, metric, axis)
            best = points[cost.front(points)].sort_values("x")
            named = ", ".join(f"{r.method} ({r.y:.3f}, {r.x:,.0f} s)" for r in best.itertuples())
            parts.append(f"For {title}, nothing is both faster and better than {named}.")
    frame = cost.costs(runs)
    trained = frame[frame["parameters"] > 0]
    if len(trained):
        slow, quick = (trained.loc[getattr(trained["queries_second"], f)()] for f in ("idxmin", "idxmax"))
        parts.append(f"Ranking goes from {slow['queries_second']:,.0f} queries a second ({slow['method']}) to "
                     f"{quick['queries_second']:,.0f} ({quick['method']}), each query with its 100 candidates.")
    machines = sorted(set(frame["machine"]))
    if len(machines) == 1:
        parts.append(f"All runs were made on {machines[0]}.")
    else:
        parts.append(f"Runs were made on {len(machines)} machines ({'; '.join(machines)}): compare within one only.")
    return " ".join([*parts, _spread(runs)])


def _spread(runs: Sequence[Run]) -> str:
    """How far the time of a step differs between seeds of one method, which do the same work."""
    steps = pd.DataFrame([{"method": r.config.method, "step": cost.run_cost(r)["seconds_step"]} for r in runs])
    ends = steps.dropna().groupby("method")["step"].agg(["min", "max", "size"])
    ratios = (ends["max"] / ends["min"])[ends["size"] > 1]
    if ratios.empty:
        return "Each method has one run, so nothing tells how far times vary with what else the machine did."
    return (f"Seeds of one method do the same work; their seconds a step differ by up to a factor of "
            f"{ratios.max():.1f} ({ratios.idxmax()}), so smaller differences between methods mean little.")
