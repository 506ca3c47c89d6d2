"""What stored runs took: seconds, memory and size beside quality, one row per method."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
import pandas as pd

from unisr import registry
from unisr.report.store import Run

AXES = {
    "seconds a step": "seconds_step",
    "seconds an epoch": "seconds_epoch",
    "seconds to the best epoch": "seconds_to_best",
    "seconds to the best epoch, with what it reads": "seconds_with_required",
    "queries ranked a second": "queries_second",
    "parameters": "parameters",
    "peak memory [MB]": "peak_mb",
}
"""What a reader may put on the x axis, and the column of `costs`."""
MORE_IS_BETTER = ("queries_second",)
MEMORY_NOTE = (
    "Peak memory is that of the whole process from its start (ru_maxrss): interpreter, libraries, data and whatever "
    "ran before in that process; on a GPU, that of torch's tensors. Runs of `unisr reproduce` are forks, "
    "which count the libraries' pages that they touch. A method without weights shows what all share."
)


def run_cost(run: Run) -> dict[str, float]:
    """Cost of one run, in seconds, MB (10^6 bytes) and counts; NaN where nothing was trained.

    A step is one of the optimizer, an epoch is without its validation; `seconds_to_best` has training and validation up
    to and including the epoch whose weights are kept. `queries_second` counts the test queries of all tasks, each with
    its 100 candidates.
    """
    losses, cost = run.losses, run.cost
    trained = len(losses) > 0
    seconds = losses["seconds"] if trained else pd.Series(dtype=float)
    whole = seconds + losses["validation_seconds"].fillna(0) if "validation_seconds" in losses else seconds
    queries = sum(int(values["n"]) for values in run.metrics.values())
    return {
        "epochs": cost.epochs,
        "best_epoch": cost.best_epoch,
        "seconds_step": seconds.sum() / losses["steps"].sum() if trained else np.nan,
        "seconds_epoch": seconds.mean(),
        "seconds_to_best": whole[losses["epoch"] <= cost.best_epoch].sum() if trained else 0.0,
        "queries_second": queries / cost.seconds.evaluate if cost.seconds.evaluate else np.nan,
        "parameters": cost.parameters,
        "peak_mb": cost.peak_memory_mb,
    }


def costs(runs: Sequence[Run]) -> pd.DataFrame:
    """Mean cost over the seeds of every method, in the order of `runs`.

    Returns:
        the columns of `run_cost` and method, family, reads (methods whose tables it needs), seeds, machine,
        seconds_with_required (`seconds_to_best` and that of the methods it reads; NaN if one of them is not among
        `runs`).
    """
    groups: dict[str, list[Run]] = {}
    for run in runs:
        groups.setdefault(run.config.method, []).append(run)
    rows = []
    for name, group in groups.items():
        card = registry.method(name).card
        machines = sorted({f"{r.environment.device}, {r.environment.cpu or 'unknown'}" for r in group})
        means = pd.DataFrame([run_cost(run) for run in group]).mean(skipna=False)
        rows.append({"method": name, "family": card.family, "reads": ", ".join(card.requires), "seeds": len(group),
                     "machine": "; ".join(machines), **means})
    frame = pd.DataFrame(rows).astype({"parameters": "int64"})
    own = frame.set_index("method")["seconds_to_best"]
    required = [sum(own.get(n, np.nan) for n in registry.method(m).card.requires) for m in frame["method"]]
    return frame.assign(seconds_with_required=frame["seconds_to_best"] + required)


def quality(runs: Sequence[Run]) -> pd.DataFrame:
    """Mean of every metric over seeds: columns method, task, metric, value."""
    rows = [
        {"method": run.config.method, "task": task, "metric": metric, "value": value}
        for run in runs for task, values in run.metrics.items()
        for metric, value in values.items() if metric not in ("tie_rate", "n")
    ]  # fmt: skip
    return pd.DataFrame(rows).groupby(["method", "task", "metric"], sort=False)["value"].mean().reset_index()


def table(runs: Sequence[Run], metric: str = "NDCG@10") -> pd.DataFrame:
    """Cost and one metric per task for reading, a row per method: rounded, in words, with empty cells for none."""
    frame = costs(runs).set_index("method")
    shown = {
        "seeds": frame["seeds"], "epochs (best)": [f"{e:.0f} ({b:.0f})" for e, b in
                                                   zip(frame["epochs"], frame["best_epoch"], strict=True)],
        "ms a step": _numbers(1000 * frame["seconds_step"], ".1f"),
        "s an epoch": _numbers(frame["seconds_epoch"], ".2f"),
        "s to best": _numbers(frame["seconds_to_best"], ",.1f"),
        "s with what it reads": _numbers(frame["seconds_with_required"], ",.1f"),
        "reads": frame["reads"],
        "queries a s": _numbers(frame["queries_second"], ",.0f"),
        "parameters": _numbers(frame["parameters"], ",d"), "peak MB": _numbers(frame["peak_mb"], ",.0f"),
    }
    means = quality(runs)
    wide = means[means["metric"] == metric].pivot(index="method", columns="task", values="value").reindex(frame.index)
    for task, title in {"rec": "rec.", "src": "search"}.items():
        if task in wide:
            shown[f"{metric} {title}"] = _numbers(wide[task], ".3f")
    return pd.DataFrame(shown, index=frame.index.rename(None))


def _numbers(column: pd.Series, form: str) -> list[str]:
    return ["" if pd.isna(value) else format(value, form) for value in column]


def points(runs: Sequence[Run], task: str, metric: str, axis: str) -> pd.DataFrame:
    """Columns method, family, x (the column of `costs`), y (the mean of `metric`): methods that have both.

    Args:
        axis: a key of `AXES`.
    """
    means = quality(runs)
    chosen = means[(means["task"] == task) & (means["metric"] == metric)]
    frame = costs(runs).merge(chosen, on="method")
    return frame.assign(x=frame[AXES[axis]], y=frame["value"]).dropna(subset=["x", "y"])[["method", "family", "x", "y"]]


def front(frame: pd.DataFrame, *, more_is_better: bool = False) -> pd.Series:
    """Whether no other row is at least as good on both axes and better on one (y: higher; x: lower, or higher if so).

    Args:
        frame: columns x and y.
    """
    x = -frame["x"].to_numpy(dtype=float) if more_is_better else frame["x"].to_numpy(dtype=float)
    y = frame["y"].to_numpy(dtype=float)
    as_good = (x[None, :] <= x[:, None]) & (y[None, :] >= y[:, None])
    better = (x[None, :] < x[:, None]) | (y[None, :] > y[:, None])
    return pd.Series(~(as_good & better).any(axis=1), index=frame.index)
