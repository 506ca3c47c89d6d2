"""Figures of notebook 05: estimates of mutual information with intervals, and estimators against a known truth."""

from __future__ import annotations

import numpy as np
import pandas as pd
import plotly.graph_objects as go
from matplotlib.figure import Figure
from plotly.subplots import make_subplots

from unisr.analysis.input_output import CONTROLS, LN2, RELEVANCE
from unisr.analysis.mutual_information import ESTIMATORS
from unisr.data.schema import TASK_TITLES
from unisr.report.figures import LEGEND_BELOW, PALETTE, TEMPLATE, error_bars, figure
from unisr.report.svg import svg_text

SYMBOLS = dict(zip(CONTROLS, ("circle", "circle-open", "x-thin-open"), strict=True))
LOWEST = -1.0
"""Nats, where an axis ends: information is never negative, and a critic gone wrong would squeeze all others."""


def intervals(frame: pd.DataFrame, quantity: str, *, title: str = "") -> go.Figure:
    """A panel per task: estimators downwards, nats across, a color per method, hollow where weights are untrained."""
    rows = frame[(frame["against"] == "") & (frame["quantity"] == quantity)]
    tasks = [task for task in TASK_TITLES if task in set(rows["task"])]
    plot = make_subplots(cols=max(1, len(tasks)), shared_yaxes=True, horizontal_spacing=0.04,
                         subplot_titles=[TASK_TITLES[task] for task in tasks])  # fmt: skip
    for col, task in enumerate(tasks, start=1):
        for trace in _traces(rows[rows["task"] == task]):
            trace.showlegend = col == 1
            plot.add_trace(trace, row=1, col=col)
        plot.update_xaxes(title="I(X; Y) [nats]", row=1, col=col)
        plot.add_vline(x=0, line={"color": "#999", "width": 1}, row=1, col=col)
        if quantity == RELEVANCE:
            plot.add_vline(x=LN2, line={"color": "#999", "width": 1, "dash": "dot"}, row=1, col=col)
        _focus(plot, rows[rows["task"] == task], col)
    names = [name for name in ESTIMATORS if name in set(rows["estimator"])]
    plot.update_yaxes(tickvals=list(range(len(names))), ticktext=names, range=[len(names) - 0.5, -0.5])
    plot.update_layout(template=TEMPLATE, title=title or quantity, height=180 + 75 * len(names), **LEGEND_BELOW)
    plot.update_layout(margin_t=80)
    return plot


def _focus(plot: go.Figure, rows: pd.DataFrame, col: int) -> None:
    """Limit a panel to `LOWEST` and above; an estimate further left has an arrow with its value."""
    if rows["low"].min() >= LOWEST:
        return
    plot.update_xaxes(range=[LOWEST, 1.1 * max(float(rows["high"].max()), -LOWEST)], col=col)
    for (_, _, number), line, places in _series(rows):
        for value, place in zip(line["value"], places, strict=True):
            if value < LOWEST:
                plot.add_annotation(x=LOWEST, y=place, text=f"◂ {value:.1f}", showarrow=False, xanchor="left",
                                    font={"size": 11, "color": PALETTE[number % len(PALETTE)]}, row=1, col=col)


def _traces(rows: pd.DataFrame) -> list[go.Scatter]:
    """One per method and control: a point per estimator and seed, side by side."""
    traces = []
    for trace, line, places in _series(rows):
        traces.append(go.Scatter(
            x=line["value"].round(4).tolist(), y=places, error_x=error_bars(line),
            mode="markers", name=f"{trace[0]}, {trace[1]}", customdata=line["seed"].tolist(),
            marker={"color": PALETTE[trace[2] % len(PALETTE)], "symbol": SYMBOLS[trace[1]], "size": 8},
            hovertemplate="%{x:.3f} nats, seed %{customdata}<extra>%{fullData.name}</extra>",
        ))  # fmt: skip
    return traces


def _series(rows: pd.DataFrame) -> list[tuple[tuple[str, str, int], pd.DataFrame, list[float]]]:
    """(method, control, number of the method), its rows, and where they stand on the axis of estimators."""
    methods = list(dict.fromkeys(rows["method"]))
    lines = [(method, control) for method in methods for control in CONTROLS]
    lines = [line for line in lines if ((rows["method"] == line[0]) & (rows["control"] == line[1])).any()]
    names = [name for name in ESTIMATORS if name in set(rows["estimator"])]
    found = []
    for number, (method, control) in enumerate(lines):
        line = rows[(rows["method"] == method) & (rows["control"] == control)]
        offset = (number - (len(lines) - 1) / 2) * 0.8 / max(1, len(lines))
        spread = (line["seed"].rank(method="dense") - 1) * 0.8 / len(lines) / max(2, line["seed"].nunique())
        places = (line["estimator"].map(names.index) + offset + spread).round(3).tolist()
        found.append(((method, control, methods.index(method)), line, places))
    return found


def intervals_svg(frame: pd.DataFrame, quantity: str) -> str:
    """The figure of `intervals` as SVG (matplotlib)."""
    rows = frame[(frame["against"] == "") & (frame["quantity"] == quantity)]
    tasks = [task for task in TASK_TITLES if task in set(rows["task"])]
    names = [name for name in ESTIMATORS if name in set(rows["estimator"])]
    marks = dict(zip(CONTROLS, ("o", "o", "x"), strict=True))
    def draw() -> Figure:
        plot = Figure(figsize=(9, 1.2 + 0.8 * len(names)), layout="constrained")
        axes = np.atleast_1d(plot.subplots(1, max(1, len(tasks)), sharey=True))
        for axis, task in zip(axes, tasks, strict=False):
            for (method, control, number), line, places in _series(rows[rows["task"] == task]):
                color = PALETTE[number % len(PALETTE)]
                ends = np.stack([line["value"] - line["low"], line["high"] - line["value"]])
                axis.errorbar(line["value"], places, xerr=np.maximum(ends, 0), fmt=marks[control], color=color, ms=5,
                              capsize=2, lw=1.2, mfc="none" if control == CONTROLS[1] else color,
                              label=f"{method}, {control}")  # fmt: skip
            axis.axvline(0, color="#999", lw=1)
            if quantity == RELEVANCE:
                axis.axvline(LN2, color="#999", lw=1, ls=":")
            axis.set(title=TASK_TITLES[task], xlabel="I(X; Y) [nats]", ylim=(len(names) - 0.5, -0.5))
            axis.set_yticks(range(len(names)), names)
            axis.spines[["top", "right"]].set_visible(False)
        plot.suptitle(quantity)
        plot.legend(*axes[0].get_legend_handles_labels(), loc="outside lower center", ncols=3, frameon=False)
        return plot

    return svg_text(draw)


def on_gaussians(frame: pd.DataFrame) -> go.Figure:
    """Estimate against truth, a line per estimator with intervals; the diagonal is right.

    Args:
        frame: of `unisr.analysis.mutual_information.on_gaussians`.
    """
    plot = figure("Gaussian pairs of known information", "true I(X; Y) [nats]", "estimate [nats]", height=430)
    ends = [float(frame["truth"].min()), float(frame["truth"].max())]
    plot.add_scatter(x=ends, y=ends, mode="lines", name="truth", line={"color": "#999", "dash": "dot"})
    for number, name in enumerate(dict.fromkeys(frame["estimator"])):
        rows, color = frame[frame["estimator"] == name], PALETTE[number]
        plot.add_scatter(x=rows["truth"].tolist(), y=rows["value"].round(4).tolist(), error_y=error_bars(rows),
                         name=name, mode="lines+markers", line={"color": color}, marker={"size": 7})  # fmt: skip
    return plot.update_layout(**LEGEND_BELOW)
