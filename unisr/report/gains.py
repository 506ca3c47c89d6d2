"""Per-query values of stored runs at any cut-off, paired differences between methods, and where they come from."""

from __future__ import annotations

import re
from collections.abc import Callable, Sequence

import numpy as np
import pandas as pd

from unisr import registry
from unisr.data.corpus import words_of
from unisr.data.histories import Histories
from unisr.data.schema import Dataset, Split, Task
from unisr.errors import UnisrError, UnknownNameError
from unisr.evaluation import metrics
from unisr.evaluation.statistics import average_seeds, bootstrap_interval
from unisr.report.comparison import TableError, method_name, one_protocol
from unisr.report.store import Run

CUTOFFS = range(1, 21)
BINS = 4
"""Groups of about equal size that a property with many values is cut into."""


def measure(name: str) -> Callable[[np.ndarray], np.ndarray]:
    """Ranks [n] -> values [n] of `MRR`, `Recall@K` or `NDCG@K` for any K of at least 1.

    Raises:
        UnknownNameError: no such metric.
    """
    if name == "MRR":
        return metrics.reciprocal
    found = re.fullmatch(r"(Recall|NDCG)@([1-9]\d*)", name)
    if not found:
        raise UnknownNameError("metric", name, metrics.METRICS)
    function, k = {"Recall": metrics.recall, "NDCG": metrics.ndcg}[found[1]], int(found[2])
    return lambda rank: function(rank, k)


def values(
    runs: Sequence[Run], task: str, metric: str, *, label: Callable[[Run], str] = method_name
) -> pd.DataFrame:
    """[n queries, methods]: values of every query, averaged over the seeds of a method; the index is the event row.

    Args:
        label: names a run's column.

    Raises:
        TableError: no run has the task, the protocols differ, or the methods ranked different queries.
        UnknownNameError: no such metric.
    """
    function = measure(metric)
    groups: dict[str, list[Run]] = {}
    for run in runs:
        if task in run.metrics:
            groups.setdefault(label(run), []).append(run)
    if not groups:
        raise TableError(f"none of {len(runs)} runs has results for task {task!r}")
    one_protocol([run for group in groups.values() for run in group])
    columns: dict[str, pd.Series] = {}
    for name, group in groups.items():
        tables = [run.per_query[run.per_query["task"] == task] for run in group]
        columns[name] = average_seeds([t.assign(value=function(t["rank"])) for t in tables], ["value"])["value"]
        first = next(iter(columns))
        if not columns[name].index.equals(columns[first].index):
            raise TableError(f"{first} and {name} ranked different queries of task {task!r}; run one again")
    return pd.DataFrame(columns)


def at_cutoff(runs: Sequence[Run], task: str, k: int) -> pd.DataFrame:
    """Columns method, NDCG@k, low, high (95 % bootstrap over queries), Recall@k and MRR; best NDCG@k first."""
    wide = {name: values(runs, task, name) for name in (f"NDCG@{k}", f"Recall@{k}", "MRR")}
    low, high = bootstrap_interval(wide[f"NDCG@{k}"].to_numpy())
    frame = pd.DataFrame({name: table.mean() for name, table in wide.items()})
    frame.insert(1, "low", low)
    frame.insert(2, "high", high)
    return frame.rename_axis("method").sort_values(f"NDCG@{k}", ascending=False, kind="stable").reset_index()


def against_best(runs: Sequence[Run], tidy: pd.DataFrame, metric: str) -> pd.DataFrame:
    """Means of one metric and each method's paired difference from the highest, both with their intervals.

    A query that is hard for all methods moves all means together, so means with overlapping intervals can still differ
    clearly; the difference on the same queries does not have that noise.

    Args:
        tidy: the frame of `comparison` for the same runs, without `reference`; its corrected tests are taken over.

    Returns:
        columns method, value, low, high, significant (all from `tidy`), difference (at most 0), difference_low,
        difference_high (95 % bootstrap over queries) and family; the best has difference 0.
    """
    wide = values(runs, tidy["task"].iloc[0], metric)
    difference = wide.sub(wide[wide.mean().idxmax()], axis=0)
    low, high = bootstrap_interval(difference.to_numpy())
    ends = {"method": wide.columns, "difference": difference.mean(), "difference_low": low, "difference_high": high}
    rows = tidy.loc[tidy["metric"] == metric, ["method", "value", "low", "high", "significant"]]
    families = {name: cls.card.family for name, cls in registry.methods().items()}
    frame = rows.merge(pd.DataFrame(ends), on="method", validate="1:1")
    return frame.assign(family=frame["method"].map(families))


def properties(dataset: Dataset, histories: Histories, task: str) -> pd.DataFrame:
    """What is known of every test target of `task`, a column per property in words; the index is the event row.

    Columns: `history length [events]` (all earlier events of both tasks, before any model cuts them),
    `item popularity [training events]` (recommendations of the target in the training split) and, for search,
    `query length [words]`.
    """
    rows = dataset.rows(Split.TEST, {"rec": Task.REC, "src": Task.SRC}[task])
    item, recommended = dataset.column("item"), dataset.rows(Split.TRAIN, Task.REC)
    popularity = np.bincount(item[recommended], minlength=dataset.n_items + 1)
    columns = {"history length [events]": np.sum(histories.counts(rows), axis=0),
               "item popularity [training events]": popularity[item[rows]]}
    if task == "src":
        texts = dataset.queries["text"].to_numpy()[dataset.column("query")[rows]]
        columns["query length [words]"] = np.array([len(words_of(text)) for text in texts])
    return pd.DataFrame(columns, index=pd.Index(rows, name="event"))


def properties_of(run: Run, task: str) -> pd.DataFrame:
    """`properties` of the data that a run was ranked on; reads the dataset.

    Raises:
        UnisrError: the dataset cannot be had, or is not the one of the run.
    """
    from unisr.data import dataset_hash
    from unisr.run import prepare_inputs

    inputs = prepare_inputs(run.config)
    if dataset_hash(inputs.dataset) != run.environment.dataset_hash:
        raise UnisrError(f"{run.folder.name} was made with other data than {run.config.dataset} here; run it again")
    return properties(inputs.dataset, inputs.histories, task)


def bins(numbers: pd.Series, *, count: int = BINS) -> pd.Series:
    """Ordered labels such as `12–40` of groups of integers: one for each value if there are few, else of equal size."""
    few = numbers.nunique() <= 2 * count
    cut = numbers.rank(method="dense") if few else pd.qcut(numbers, count, labels=False, duplicates="drop")
    ends = numbers.groupby(cut).agg(["min", "max"])
    labels = [f"{int(a)}" if a == b else f"{int(a)}–{int(b)}" for a, b in ends.to_numpy()]
    names = dict(zip(ends.index, labels, strict=True))
    return pd.Series(pd.Categorical(cut.map(names), categories=labels, ordered=True), index=numbers.index)


def by_bin(wide: pd.DataFrame, method: str, other: str, groups: pd.Series) -> pd.DataFrame:
    """Mean gain of `method` over `other` in every group of queries.

    Args:
        wide: from `values`.
        groups: from `bins`, indexed by event.

    Returns:
        columns bin, n (queries), method and other (their means), gain, low, high (95 % bootstrap over the bin's
        queries, not corrected for the number of bins); the first row, `all`, has every query. A single query has none.

    Raises:
        UnknownNameError: a method has no column.
        TableError: a query has no group.
    """
    for name in (method, other):
        if name not in wide:
            raise UnknownNameError("method", name, list(wide))
    if not wide.index.isin(groups.index).all():
        raise TableError("the runs ranked queries that the dataset here does not have as test targets")
    labels = groups.reindex(wide.index)
    parts = [("all", wide), *((str(label), wide[labels == label]) for label in groups.cat.categories)]
    rows = []
    for label, part in parts:
        if not len(part):
            continue
        gain = (part[method] - part[other]).to_numpy()
        low, high = map(float, bootstrap_interval(gain)) if len(part) > 1 else (np.nan, np.nan)
        rows.append({"bin": label, "n": len(part), method: part[method].mean(), other: part[other].mean(),
                     "gain": gain.mean(), "low": low, "high": high})
    return pd.DataFrame(rows)


def spread(
    runs: Sequence[Run], known: pd.DataFrame, task: str, *, method: str, other: str, metric: str
) -> dict[str, pd.DataFrame]:
    """`by_bin` for every property.

    Args:
        known: from `properties_of`.

    Raises:
        UnknownNameError: unknown method or metric.
        TableError: both methods are the same, or the runs cannot be compared.
    """
    if method == other:
        raise TableError(f"{method} has no gain over itself; choose two methods")
    wide = values([run for run in runs if run.config.method in (method, other)], task, metric)
    return {name: by_bin(wide, method, other, bins(known[name])) for name in known}


def best_two(tidy: pd.DataFrame, metric: str) -> tuple[str, str]:
    """The two methods of a comparison with the highest means, the best first; one method twice if it is alone."""
    rows = tidy[tidy["metric"] == metric].sort_values("value", ascending=False, kind="stable")["method"]
    return rows.iloc[0], rows.iloc[min(1, len(rows) - 1)]
