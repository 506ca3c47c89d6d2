"""Stored runs side by side: means, intervals and tests in one tidy frame.

What the star says: the row's mean is higher than that of the row it is compared with, and the two-sided paired test
over queries, corrected over all comparisons of the table, gives p < alpha. A row is compared with the best OTHER row
(so only the best row can have a star), or with `reference` where one is named. As the best row is picked by the same
queries that test it, the star is a little generous.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Literal

import numpy as np
import pandas as pd

from unisr.data.candidates import N_NEGATIVES
from unisr.errors import UnisrError, UnknownNameError
from unisr.evaluation.metrics import METRICS, chance
from unisr.evaluation.protocol import SIZE, describe_protocol
from unisr.evaluation.statistics import TESTS, average_seeds, bootstrap_interval, holm
from unisr.report.store import Run

CORRECTIONS = ("holm", "none")


class TableError(UnisrError):
    """Runs that cannot stand in one table."""


@dataclass(frozen=True)
class Row:
    """One row of a table: all seeds of one method."""

    label: str
    runs: list[Run]
    values: pd.DataFrame
    """[n queries, metrics], averaged over seeds, indexed by event."""


def method_name(run: Run) -> str:
    """The default label of a row."""
    return run.config.method


def comparison(
    runs: Sequence[Run],
    task: str,
    *,
    metrics: Sequence[str] = METRICS,
    reference: str | None = None,
    test: Literal["paired t", "wilcoxon"] = "paired t",
    correction: Literal["holm", "none"] = "holm",
    alpha: float = 0.01,
    level: float = 0.95,
    label: Callable[[Run], str] = method_name,
) -> pd.DataFrame:
    """Tidy frame with one row per (method, metric), methods in the order of `runs`.

    Args:
        task: 'rec' or 'src'; runs without it are left out.
        reference: label of the row that all others are compared with; None: each with the best other one.
        level: coverage of the bootstrap interval over queries (values are averaged over seeds first).
        label: names a run's row; runs of one label may differ in their seed only.

    Returns:
        columns task, method, metric, value (mean over queries), low, high, seeds (number), n (queries), against
        (label compared with, empty for none), difference (of means), p, p_adjusted, best, second, significant
        (p_adjusted < alpha, in either direction). The best and the second are compared with each other: one comparison,
        counted once in the correction. `attrs`: `protocol`, the table's headline; `star`, `interval`: their meaning;
        `chance`: what a random order reaches.

    Raises:
        TableError: no run has the task, protocols or queries differ, or runs of one label differ in more than the seed.
        UnknownNameError: unknown reference, metric, test or correction.
    """
    known = {"metric": METRICS, "test": TESTS, "correction": CORRECTIONS}
    for kind, name in [("metric", m) for m in metrics] + [("test", test), ("correction", correction)]:
        if name not in known[kind]:
            raise UnknownNameError(kind, name, known[kind])
    rows = _rows(runs, task, list(metrics), label)
    labels = [row.label for row in rows]
    if reference is not None and reference not in labels:
        raise UnknownNameError("reference", reference, labels)
    tidy = _means(rows, level)
    tests = [_tests(rows, metric, reference, test) for metric in metrics]
    tidy = tidy.merge(pd.concat(tests), on=["method", "metric"], validate="1:1")
    comparisons = _correct(tidy, correction)
    tidy["significant"] = tidy["p_adjusted"] < alpha
    tidy.insert(0, "task", task)
    by_chance = _chance(rows[0].runs[0], task)
    against = f"the row of {reference}" if reference else "the best other row"
    tidy.attrs = {
        "protocol": protocol_line([run for row in rows for run in row.runs]),
        "star": f"* higher than {against}, p < {alpha:g} (two-sided {test} test over {len(rows[0].values):,} queries; "
        f"correction: {correction}, {comparisons} comparisons)",
        "interval": f"intervals: {level:.0%}, bootstrap over queries",
        "chance": f"chance: {', '.join(f'{metric} {by_chance[metric]:.4f}' for metric in metrics)}",
    }
    return tidy.drop(columns="counted")


def protocol_line(runs: Sequence[Run]) -> str:
    """The line for the head of a table of these runs, from what is stored with them.

    Raises:
        TableError: the runs are not of one protocol.
    """
    one_protocol(runs)
    devices = sorted({run.environment.device for run in runs})
    seeds = [run.config.seed for run in runs]
    return describe_protocol(runs[0].config, runs[0].environment.counts, seeds=seeds, device=", ".join(devices))


def one_protocol(runs: Sequence[Run]) -> None:
    """Check that all runs rank the same candidates after the same histories with the same preset.

    Raises:
        TableError: names two runs and what differs.
    """
    first = _protocol(runs[0])
    for run in runs[1:]:
        other = _protocol(run)
        if differing := [f"{k} {first[k]!r} and {other[k]!r}" for k in first if first[k] != other[k]]:
            raise TableError(
                f"{runs[0].folder.name} and {run.folder.name} are not of one protocol: {'; '.join(differing)}; "
                "put them into separate tables"
            )


def _protocol(run: Run) -> dict[str, object]:
    config, environment = run.config, run.environment
    return {
        "dataset": config.dataset, "preset": config.preset, "candidates": config.candidates,
        "histories": config.histories, "max_users": config.max_users, "dataset_hash": environment.dataset_hash,
        "candidates_hash": environment.candidates_hash,
    }


def _rows(runs: Sequence[Run], task: str, metrics: list[str], label: Callable[[Run], str]) -> list[Row]:
    """Runs grouped by label, checked, with their per-query values averaged over seeds."""
    groups: dict[str, list[Run]] = {}
    for run in runs:
        if task in run.metrics:
            groups.setdefault(label(run), []).append(run)
    if not groups:
        raise TableError(f"none of {len(runs)} runs has results for task {task!r}; run a method that does this task")
    one_protocol([run for group in groups.values() for run in group])
    rows = []
    for name, group in groups.items():
        _one_config(name, group)
        tables = [run.per_query[run.per_query["task"] == task] for run in group]
        rows.append(Row(name, group, average_seeds(tables, metrics)))
        if not rows[-1].values.index.equals(rows[0].values.index):
            raise TableError(f"{rows[0].label} and {name} ranked different queries of task {task!r}; run one again")
    return rows


def _one_config(name: str, group: list[Run]) -> None:
    """Refuse to average runs that differ in more than the seed."""
    ours = group[0].config.model_dump(exclude={"seed"})
    for run in group[1:]:
        if run.config.model_dump(exclude={"seed"}) != ours:
            raise TableError(
                f"{group[0].folder.name} and {run.folder.name} would both be the row {name!r} but differ in their "
                "settings; leave one out or give `label`"
            )
    seeds = [run.config.seed for run in group]
    if len(set(seeds)) < len(seeds):
        raise TableError(f"row {name!r}: a run is given twice (seeds {sorted(seeds)})")


def _chance(run: Run, task: str) -> dict[str, float]:
    """What a random order of the candidates reaches."""
    table = run.per_query[run.per_query["task"] == task]
    # Runs on drawn candidates do not store how many there were.
    return chance(table[SIZE] if SIZE in table else np.full(len(table), N_NEGATIVES + 1))


def _means(rows: list[Row], level: float) -> pd.DataFrame:
    """Mean, interval, seeds and n of every (method, metric)."""
    metrics = rows[0].values.columns
    low, high = bootstrap_interval(np.concatenate([row.values.to_numpy() for row in rows], axis=1), level=level)
    return pd.DataFrame({
        "method": np.repeat([row.label for row in rows], len(metrics)),
        "metric": np.tile(metrics.to_numpy(dtype=object), len(rows)),
        "value": np.concatenate([row.values.mean().to_numpy() for row in rows]),
        "low": low,
        "high": high,
        "seeds": np.repeat([len(row.runs) for row in rows], len(metrics)),
        "n": len(rows[0].values),
    })


def _tests(rows: list[Row], metric: str, reference: str | None, test: str) -> pd.DataFrame:
    """Every row against its partner on one metric; `counted` marks one row of each distinct comparison."""
    means = np.array([row.values[metric].mean() for row in rows])
    order = np.argsort(-means, kind="stable")
    lower = means[means < means.max()]
    named = next((i for i, row in enumerate(rows) if row.label == reference), None)
    lines = []
    for i, row in enumerate(rows):
        first = order[0] if named is None else named
        partner = first if i != first else (order[1] if named is None and len(rows) > 1 else None)
        found = (np.nan, np.nan, np.nan)
        if partner is not None:
            found = TESTS[test](row.values[metric].to_numpy(), rows[partner].values[metric].to_numpy())
        lines.append({
            "method": row.label, "metric": metric, "against": "" if partner is None else rows[partner].label,
            "difference": found[2], "p": found[1], "best": means[i] == means.max(),
            "second": len(lower) > 0 and means[i] == lower.max(), "counted": i != first,
        })
    return pd.DataFrame(lines)


def _correct(tidy: pd.DataFrame, correction: str) -> int:
    """Add `p_adjusted` over the counted comparisons, give it to their mirror images too; return how many there are."""
    counted = tidy["counted"].to_numpy()
    p = np.where(counted, tidy["p"], np.nan)
    tidy["p_adjusted"] = holm(p) if correction == "holm" else p
    adjusted = tidy.set_index(["metric", "method"])["p_adjusted"]
    mirrored = (tidy["against"] != "") & ~tidy["counted"]
    tidy.loc[mirrored, "p_adjusted"] = [
        adjusted[pair] for pair in zip(tidy.loc[mirrored, "metric"], tidy.loc[mirrored, "against"], strict=True)
    ]
    return int(counted.sum())
