"""What the playground shows of a run: curves, a table beside stored runs, one user's ranking before and after."""

from __future__ import annotations

import html
from collections.abc import Mapping, Sequence
from functools import lru_cache
from typing import Any

import pandas as pd
import plotly.graph_objects as go
from matplotlib.figure import Figure
from plotly.subplots import make_subplots

from unisr import registry
from unisr.config import RunConfig
from unisr.data.schema import TASK_TITLES
from unisr.errors import UnisrError
from unisr.evaluation.statistics import bootstrap_interval
from unisr.report import store
from unisr.report.controls import changes
from unisr.report.figures import LEGEND_BELOW, PALETTE, TEMPLATE
from unisr.report.inspect import Inspector, RankView
from unisr.report.lineup import ordered
from unisr.report.store import Run
from unisr.report.svg import svg_text
from unisr.report.widgets import side_by_side, table

METRIC = "NDCG@10"
AGAINST = "against preset"
BESIDE = ("Popularity", "Lexical+Popularity")
"""Methods that the notebook runs at the quick preset so that a first table has rows to compare with: a second each."""


def curves(rows: Sequence[Mapping[str, float]] | pd.DataFrame) -> pd.DataFrame:
    """The epoch log in long form: axis (`loss` or `validation NDCG@10`), series, epoch, value.

    Series are the whole loss and its terms, and the tasks.
    """
    log = pd.DataFrame(rows)
    names = {name: ("loss", name.removeprefix("loss_")) for name in log if name == "loss" or name.startswith("loss_")}
    names |= {column: (f"validation {METRIC}", title) for task, title in TASK_TITLES.items()
              if (column := f"validation_{task}_{METRIC}") in log}  # fmt: skip
    parts = [pd.DataFrame({"axis": axis, "series": series, "epoch": log["epoch"], "value": log[column]})
             for column, (axis, series) in names.items()]  # fmt: skip
    return pd.concat(parts, ignore_index=True) if parts else pd.DataFrame(columns=["axis", "series", "epoch", "value"])


def _panels(frame: pd.DataFrame) -> list[tuple[str, str, pd.DataFrame]]:
    """Axis, color and rows of every series, colors from the start on each axis."""
    return [
        (axis, PALETTE[i % len(PALETTE)], rows)
        for axis, part in frame.groupby("axis", sort=False)
        for i, (_, rows) in enumerate(part.groupby("series", sort=False))
    ]


def curves_figure(frame: pd.DataFrame, *, title: str) -> go.Figure:
    """The curves for reading: losses left, validation right. `frame` is from `curves`."""
    axes = list(frame["axis"].unique())
    plot = make_subplots(cols=max(1, len(axes)), horizontal_spacing=0.12)
    for axis, color, rows in _panels(frame):
        plot.add_scatter(x=rows["epoch"].tolist(), y=rows["value"].round(4).tolist(), name=rows["series"].iloc[0],
                         mode="lines+markers", line={"color": color}, legendgroup=axis, row=1,
                         col=axes.index(axis) + 1)  # fmt: skip
    for col, axis in enumerate(axes, 1):
        plot.update_xaxes(title="epoch", dtick=max(1, int(frame["epoch"].max()) // 8), row=1, col=col)
        plot.update_yaxes(title=axis + (" [0–1]" if METRIC in axis else " [nats]"), row=1, col=col)
    plot.update_layout(template=TEMPLATE, title=title, height=420, **LEGEND_BELOW)
    return plot


def curves_svg(frame: pd.DataFrame) -> str:
    """The same curves as an SVG with a description of their last points: what a widget can show while they grow."""
    axes = list(frame["axis"].unique())
    if not axes:
        return "<p>No epoch yet.</p>"
    told = [f"{axis}, {rows['series'].iloc[0]}: {rows['value'].iloc[-1]:.4f} after epoch {rows['epoch'].iloc[-1]:g}"
            for axis, _, rows in _panels(frame)]  # fmt: skip

    def draw() -> Figure:
        plot = Figure(figsize=(9, 2.8), layout="constrained")
        panels = dict(zip(axes, plot.subplots(1, len(axes), squeeze=False)[0], strict=True))
        for axis, color, rows in _panels(frame):
            panels[axis].plot(rows["epoch"], rows["value"], marker="o", ms=3, color=color, label=rows["series"].iloc[0])
        for axis, panel in panels.items():
            panel.set(xlabel="epoch", ylabel=axis)
            panel.xaxis.get_major_locator().set_params(integer=True)
            panel.grid(color="#e6e6e6")
            panel.spines[["top", "right"]].set_visible(False)
            panel.legend(frameon=False, fontsize="small")
        return plot

    return f'<div role="img" aria-label="{html.escape("; ".join(told), quote=True)}">{svg_text(draw)}</div>'


def beside(config: RunConfig, mine: Sequence[Run] = ()) -> pd.DataFrame:
    """`mine` (latest first), then the stored runs of every method's preset on the users and with the seed of `config`.

    Columns: run, settings (what differs from the preset), users, seed, `rec` and `src` (mean NDCG@10 over test queries,
    in words), `… against preset` (mean difference from the method's own preset on the same queries with its 95 %
    bootstrap interval, where something differs and that run is stored; of one seed, so it tells of queries and not of
    trainings), train [s]. Rows on other users rank other queries: their means are not to be compared.
    """
    keys = ("seed", "max_users", "histories", "candidates")
    same = [
        run for run in store.runs(config.dataset, config.preset)
        if not changes(run.config) and all(getattr(run.config, key) == getattr(config, key) for key in keys)
    ]  # fmt: skip
    place = {name: i for i, name in enumerate(ordered([run.config.method for run in same]))}
    own = {run.folder for run in mine}
    others = sorted((run for run in same if run.folder not in own), key=lambda run: place[run.config.method])
    frame = pd.DataFrame([_row(run, mark="▶ ") for run in mine] + [_row(run) for run in others])
    columns = ["run", "settings", "users", "seed", *(f"{title} {what}" for title in TASK_TITLES.values()
                                                     for what in (METRIC, AGAINST)), "train [s]"]  # fmt: skip
    return frame[[column for column in columns if column in frame]].fillna("")


def _row(run: Run, *, mark: str = "") -> dict[str, Any]:
    config, altered = run.config, changes(run.config)
    row = {"run": mark + config.method, "settings": altered or "preset", "users": config.max_users or "all",
           "seed": config.seed}  # fmt: skip
    for task, title in TASK_TITLES.items():
        if task in run.metrics:
            row[f"{title} {METRIC}"] = f"{run.metrics[task][METRIC]:.4f}"
            if altered:
                row[f"{title} {AGAINST}"] = _against_preset(run, task)
    return row | {"train [s]": f"{run.cost.seconds.train:.0f}"}


def _against_preset(run: Run, task: str) -> str:
    whole = run.config.model_dump(exclude={"training", "model"})
    preset = store.find(RunConfig.model_validate(whole))
    if preset is None:
        return "not stored"
    ours, theirs = (r.per_query[r.per_query["task"] == task].set_index("event")[METRIC] for r in (run, preset))
    difference = (ours - theirs).to_numpy()
    low, high = map(float, bootstrap_interval(difference))
    return f"{difference.mean():+.3f} ({low:+.3f} to {high:+.3f})"


def ranking(config: Mapping[str, Any], user: int, task: str, *, rows: int = 10) -> dict[str, Any]:
    """One user's candidates as the method ranks them untrained and trained, with titles.

    Args:
        config: a dumped `RunConfig` whose run is stored with its weights.
        user: takes the first user with a target where this one has none among the users kept.
        task: takes the method's first task where it does not do this one.

    Returns:
        html; user and task shown; users (all that have a target); before and after (rank of the positive, 1-based);
        asked (the user and task given).

    Raises:
        StoreError: the run is not stored, or was stored without weights.
    """
    asked = [user, task]
    before, after = _desks(RunConfig.model_validate(config).model_dump_json())
    tasks = after.scorer.card.tasks
    task = task if task in tasks else tasks[0]
    users = after.users(task).tolist()
    user = user if user in users else users[0]
    views = before.view(user, task), after.view(user, task)
    return {"html": _both(*views, after.scorer.trainable, rows), "user": user, "task": task, "users": users,
            "before": views[0].rank, "after": views[1].rank, "asked": asked}  # fmt: skip


def ranking_html(config: RunConfig, user: int, task: str) -> str:
    """`ranking` as HTML; an error that the reader can mend is shown as its message."""
    try:
        return ranking(config.model_dump(), user, task)["html"]
    except UnisrError as error:
        return message(str(error))


def message(text: str, *, details: str = "") -> str:
    """A note that screen readers announce; `details` open by a click or Enter."""
    more = f"<details><summary>details</summary><pre>{html.escape(details)}</pre></details>" if details else ""
    return f'<div role="status" aria-live="polite">{html.escape(text)}{more}</div>'


@lru_cache(maxsize=2)
def _desks(dumped: str) -> tuple[Inspector, Inspector]:
    """The method of a stored run as it was built, and trained."""
    from unisr.run import build_scorer, load_scorer, prepare_inputs, run

    config = RunConfig.model_validate_json(dumped)
    inputs = prepare_inputs(config)
    scorers = [load_scorer(run(config, mode="only-cached"))]
    scorers.insert(0, build_scorer(config, "cpu").eval())
    return tuple(Inspector(scorer, inputs.dataset, inputs.candidates, inputs.histories) for scorer in scorers)


def _both(before: RankView, after: RankView, trained: bool, rows: int) -> str:
    asked = f"query “{html.escape(before.query)}”" if before.query else "no query"
    moved = (f"training moves it from rank {before.rank:g} to rank {after.rank:g} of {len(after.ranking)}" if trained
             else f"rank {after.rank:g} of {len(after.ranking)}; this method is not trained")  # fmt: skip
    head = (f"<p><b>user {after.user}, {TASK_TITLES[after.task]}</b>: {asked}; the item chosen is "
            f"“{html.escape(after.target)}”: {moved}.</p>")  # fmt: skip
    shown = {"before training": before, "after training": after} if trained else {"candidates": after}
    tables = [table(_chosen(view.ranking, rows), caption=f"{name}, best first") for name, view in shown.items()]
    history = after.history[["event", "task", "title"]].head(rows)
    return head + side_by_side(*tables, table(history, caption="history, latest first"))


def _chosen(candidates: pd.DataFrame, rows: int) -> pd.DataFrame:
    """The first rows, and the positive's own where it comes later."""
    shown = candidates[(candidates["rank"] <= rows) | candidates["target"]]
    return shown.assign(target=shown["target"].map({True: "◀ chosen", False: ""}))


def tasks_of(method: str) -> dict[str, str]:
    """Title -> name of the tasks that a method does."""
    return {TASK_TITLES[task]: task for task in registry.method(method).card.tasks}
