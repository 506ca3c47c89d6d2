"""The mutual information of notebook 05: the paper's Table 5 beside ours, and what the numbers decide."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
import pandas as pd

from unisr.analysis.input_output import CONTROLS, LN2, QUANTITIES, RELEVANCE, InputOutput
from unisr.data.schema import TASK_TITLES
from unisr.errors import ConfigError
from unisr.report import tables, widgets
from unisr.report.lineup import named
from unisr.report.verdicts import REFUSED, SUPPORTED, UNDECIDED

TABLE = 5
"""The paper's table."""
LEAST_SEEDS = 3
"""Fewest seeds of training that a verdict other than undecided rests on."""


def compared(methods: str) -> tuple[str, str]:
    """The first two registered names in a list with commas: the one of the claim, and the one it is held against.

    Raises:
        UnknownNameError: no such method.
        ConfigError: fewer than two.
    """
    names = named(methods, list(TASK_TITLES))
    if len(names) < 2:
        raise ConfigError(f"methods {methods!r}: two are compared; write for instance 'GenSR,UniSAR'")
    return names[0], names[1]


def about(frame: pd.DataFrame, settings: InputOutput) -> str:
    """Markdown: runs, dimensions, splits, pairs and seeds behind a frame of `information`."""
    own, split = _trained(frame), settings.estimator
    runs = ", ".join(f"{method} {rows['seed'].nunique()}" for method, rows in own.groupby("method", sort=False))
    held = 1 - split.train - split.validation
    sizes = {name: own[own["quantity"] == name] for name in QUANTITIES}
    pairs = "; ".join(f"{name}: {rows['n'].min()} to {rows['n'].max()}" for name, rows in sizes.items() if len(rows))
    splits = "1 split and critic" if settings.seeds == 1 else f"{settings.seeds} splits and critics (controls: 1)"
    return (f"Seeds of training: {runs}. An estimate is of {splits}. Users: {split.train:.0%} train a critic, "
            f"{split.validation:.0%} stop it, {held:.0%} are held out; KSG takes one pair of each user. "
            f"Pairs that a value is a mean over: {pairs}. Input and output: "
            f"{settings.input_dims} components of X, {settings.output_dims} of the scores of {settings.items} items, "
            f"up to {settings.inputs} inputs of a user, text vectors by {settings.encoder}. 95 % intervals: "
            f"{split.resamples} bootstrap draws of users for each split.")  # fmt: skip


def paper() -> pd.DataFrame:
    """The printed bounds: dataset, task (`rec`, `src`), method, value."""
    names = {title: task for task, title in TASK_TITLES.items()}
    printed = tables.paper_numbers(TABLE)
    return printed.assign(task=printed["task"].map(names))[["dataset", "task", "method", "value"]]


def unit_remark(printed: pd.DataFrame) -> str:
    """Markdown: what the printed values could be, if Y is a yes or no."""
    low, high = printed["value"].min(), printed["value"].max()
    over = int((printed["value"] > LN2).sum())
    text = (f"The paper's {len(printed)} values lie between {low:.4f} and {high:.4f}; it names neither their unit nor "
            f"X and Y. If Y is the relevance of a candidate, yes or no, then I(X; Y) ≤ H(Y) ≤ ln 2 = {LN2:.4f} nats, "
            "which is 1 bit. ")  # fmt: skip
    if not over:
        return text + "All of them keep to that bound."
    bits = "all would keep to it in bits" if high <= 1 else "some would exceed it in bits too"
    return text + (f"{over} of them exceed that bound if they are nats; {bits}. So either the unit is the bit, or Y is "
                   "not a yes or no, or the estimate is not a bound, as where a critic is evaluated on the pairs that "
                   "it was trained on.")  # fmt: skip


def beside(frame: pd.DataFrame, *, estimator: str = "MINE") -> pd.DataFrame:
    """A row per task and method: the paper's bounds, then ours by one estimator, with intervals, and the seeds.

    Args:
        frame: of `unisr.analysis.input_output.information`.
    """
    printed, own = paper(), _trained(frame)
    own = own[own["estimator"] == estimator]
    rows = []
    for task, title in TASK_TITLES.items():
        for method in dict.fromkeys([*printed["method"], *own["method"]]):
            row: dict[str, object] = {"task": title, "method": method}
            for dataset in printed["dataset"].unique():
                cell = printed.query("dataset == @dataset and task == @task and method == @method")["value"]
                row[f"paper, {dataset}"] = f"{cell.iloc[0]:.4f}" if len(cell) else "–"
            mine = own[(own["task"] == task) & (own["method"] == method)]
            row |= {f"{quantity} [nats]": _cell(mine[mine["quantity"] == quantity]) for quantity in QUANTITIES}
            rows.append(row | {"seeds": mine["seed"].nunique()})
    return pd.DataFrame(rows)


def _cell(rows: pd.DataFrame) -> str:
    if rows.empty:
        return "–"
    return f"{rows['value'].mean():.3f} ({rows['low'].min():.3f} to {rows['high'].max():.3f})"


def _trained(frame: pd.DataFrame) -> pd.DataFrame:
    return frame[(frame["control"] == CONTROLS[0]) & (frame["against"] == "")]


def explore(frame: pd.DataFrame, *, task: str, quantity: str, estimator: str) -> str:
    """HTML: every run and control for one choice, with bars, in nats and bits."""
    chosen = frame[(frame["task"] == task) & (frame["quantity"] == quantity) & (frame["estimator"] == estimator)]
    values = chosen[chosen["against"] == ""]
    shown = pd.DataFrame({
        "method": values["method"], "weights": values["control"], "seed": values["seed"], "I [nats]": values["value"],
        "95 % interval": [f"{row.low:.3f} to {row.high:.3f}" for row in values.itertuples()],
        "I [bits]": values["value"] / LN2, "on the critic's own pairs [nats]": values["trained_on"],
        "pairs": values["n"].astype(object),
    })  # fmt: skip
    if shown["on the critic's own pairs [nats]"].isna().all():
        shown = shown.drop(columns="on the critic's own pairs [nats]")
    return widgets.table(shown, bars=["I [nats]"], caption=f"{TASK_TITLES[task].capitalize()}, {quantity}, {estimator}")


def at_truth(frame: pd.DataFrame, truth: float) -> str:
    """HTML: estimates where the truth is `truth`, and what bounds read on the critic's training pairs."""
    rows = frame[frame["truth"] == truth]
    shown = pd.DataFrame({
        "estimator": rows["estimator"], "estimate [nats]": rows["value"],
        "95 % interval": [f"{row.low:.3f} to {row.high:.3f}" for row in rows.itertuples()],
        "error [nats]": rows["value"] - truth,
        "on the critic's own pairs [nats]": [f"{v:.3f}" if np.isfinite(v) else "–" for v in rows["trained_on"]],
        "pairs": rows["n"].astype(object),
    })  # fmt: skip
    return widgets.table(shown, bars=["estimate [nats]"], caption=f"true I(X; Y) = {truth:g} nats")


def verdicts(frame: pd.DataFrame, method: str = "GenSR", other: str = "UniSAR") -> pd.DataFrame:
    """Is I larger for `method` than for `other`? A row per quantity, task and estimator.

    Supported: the interval of the difference lies above 0 at every one of at least `LEAST_SEEDS` seeds of training
    (intervals cover splits, critics and held-out pairs). Not supported: it lies below 0 at each. Otherwise undecided.

    Returns:
        columns quantity, task, estimator, difference (mean over seeds), low, high (outermost over seeds), seeds,
        verdict; empty where no seed has both.
    """
    forward = frame[(frame["method"] == method) & (frame["against"] == other)]
    turned = frame[(frame["method"] == other) & (frame["against"] == method)]
    turned = turned.assign(value=-turned["value"], low=-turned["high"], high=-turned["low"])
    both = pd.concat([forward, turned])
    rows = []
    for (quantity, task, estimator), part in both.groupby(["quantity", "task", "estimator"], sort=False):
        low, high = float(part["low"].min()), float(part["high"].max())
        seeds, found = part["seed"].nunique(), SUPPORTED if low > 0 else REFUSED if high < 0 else UNDECIDED
        rows.append({"quantity": quantity, "task": task, "estimator": estimator,
                     "difference": float(part["value"].mean()), "low": low, "high": high, "seeds": seeds,
                     "verdict": found if seeds >= LEAST_SEEDS else UNDECIDED})  # fmt: skip
    columns = ["quantity", "task", "estimator", "difference", "low", "high", "seeds", "verdict"]
    return pd.DataFrame(rows, columns=columns)


def verdict_table(found: pd.DataFrame) -> str:
    """HTML of `verdicts`."""
    shown = found.assign(task=found["task"].map(TASK_TITLES), seeds=found["seeds"].astype(object))
    interval = [f"{_signed(row.low)} to {_signed(row.high)}" for row in found.itertuples()]
    shown = shown.drop(columns=["low", "high"]).rename(columns={"difference": "difference [nats]"})
    shown.insert(4, "95 % interval", interval)
    return widgets.table(shown, caption="difference of I(X; Y), paired")


def verdict(found: pd.DataFrame, method: str = "GenSR", other: str = "UniSAR", *, estimator: str = "MINE") -> str:
    """Markdown: the paper's claim, decided for each quantity by its own estimator in both tasks."""
    lines = [f"The paper's claim: I(X; Y) of **{method}** is above that of **{other}** in both tasks."]
    if found.empty:
        return f"{lines[0]} **{UNDECIDED}**: no seed has a stored run of both."
    for quantity in found["quantity"].unique():
        rows = found[(found["quantity"] == quantity) & (found["estimator"] == estimator)]
        if set(rows["task"]) != set(TASK_TITLES):
            lines.append(f"- **{quantity}**: **{UNDECIDED}**, a task is not there.")
            continue
        told = "; ".join(f"{TASK_TITLES[r.task]} {_signed(r.difference)} ({_signed(r.low)} to {_signed(r.high)}), "
                         f"{r.verdict}" for r in rows.itertuples())  # fmt: skip
        same = _agreeing(found[found["quantity"] == quantity], rows)
        lines.append(f"- **{quantity}**: **{_both(rows['verdict'].tolist())}** by {estimator} ({told} [nats]; "
                     f"seeds of training: {rows['seeds'].min()}). {same}")  # fmt: skip
    rule = (f"Rule: supported if the paired 95 % interval of the difference lies above 0 at every one of at least "
            f"{LEAST_SEEDS} seeds of training in both tasks, not supported if it lies below 0 at each in any task, "
            "otherwise undecided.")  # fmt: skip
    return "\n".join([*lines, "", rule])


def _signed(value: float) -> str:
    return f"{round(value, 3) + 0.0:+.3f}"


def _both(parts: Sequence[str]) -> str:
    if REFUSED in parts:
        return REFUSED
    return SUPPORTED if set(parts) == {SUPPORTED} else UNDECIDED


def _agreeing(found: pd.DataFrame, chosen: pd.DataFrame) -> str:
    """How many other estimators decide each task alike."""
    wanted = dict(zip(chosen["task"], chosen["verdict"], strict=True))
    others = found[~found["estimator"].isin(chosen["estimator"])]
    alike = [name for name, rows in others.groupby("estimator", sort=False)
             if all(wanted[row.task] == row.verdict for row in rows.itertuples())]  # fmt: skip
    named = f": {', '.join(alike)}." if alike else "."
    return f"{len(alike)} of {others['estimator'].nunique()} other estimators decide both tasks alike{named}"


def reading(frame: pd.DataFrame) -> str:
    """Markdown: how far the controls are from 0 and from the trained weights, and how far estimators differ."""
    lines = []
    for quantity in QUANTITIES:
        rows = frame[(frame["quantity"] == quantity) & (frame["against"] == "")]
        if rows.empty:
            continue
        zero = rows[rows["control"] == "shuffled"]
        means = rows.groupby(["control", "method", "task"])["value"].mean()
        text = f"- **{quantity}**: shuffled pairs read {zero['value'].min():+.3f} to {zero['value'].max():+.3f} nats"
        covered = int(((zero["low"] <= 0) & (zero["high"] >= 0)).sum())
        text += f" ({covered} of {len(zero)} intervals hold 0)"
        told = []
        for method in dict.fromkeys(rows["method"]):
            for task, title in TASK_TITLES.items():
                if (CONTROLS[0], method, task) in means and (CONTROLS[1], method, task) in means:
                    trained, before = means[CONTROLS[0], method, task], means[CONTROLS[1], method, task]
                    told.append(f"{method} {title} {trained:.3f}, untrained {before:.3f}")
        lines.append(text + (f"; means over estimators: {'; '.join(told)}." if told else "."))
    return "\n".join(lines)


def check(frame: pd.DataFrame) -> dict[str, object]:
    """What must hold whatever was trained."""
    own, printed = frame[frame["against"] == ""], paper()
    relevance = own[own["quantity"] == RELEVANCE]
    return {
        "the paper's values": len(printed),
        "of these above ln 2": int((printed["value"] > LN2).sum()),
        "quantities": sorted(own["quantity"].unique()),
        "estimators": sorted(own["estimator"].unique()),
        "controls": sorted(own["control"].unique()),
        "all finite": bool(np.isfinite(own[["value", "low", "high"]]).all(axis=None)),
        "score and relevance share at most ln 2": bool((relevance["low"] <= LN2).all()),
    }
