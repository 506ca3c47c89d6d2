"""Figures over tidy frames: plotly for the reader, matplotlib for the SVG file of the same frame.

Every function takes a frame with the columns it names and returns a figure; none computes results.
"""

from __future__ import annotations

import html
import os
from pathlib import Path

import numpy as np
import pandas as pd
import plotly.graph_objects as go
import plotly.io as pio
from matplotlib.figure import Figure
from plotly.subplots import make_subplots

from unisr import registry
from unisr.data.schema import TASK_TITLES
from unisr.report.svg import svg_text, write_svg

# A figure in a notebook is its JSON: nbval compares it, and JupyterLab draws it without a network.
if "PLOTLY_RENDERER" not in os.environ:
    pio.renderers.default = "plotly_mimetype"

PALETTE = ("#0072B2", "#E69F00", "#009E73", "#D55E00", "#CC79A7", "#56B4E9", "#F0E442", "#000000")
"""Okabe and Ito (2008): distinguishable with every common form of color blindness."""

FAMILY_COLORS = dict(zip(registry.FAMILIES, ("#767676", *PALETTE), strict=False))
FONT = "system-ui, -apple-system, 'Segoe UI', Roboto, sans-serif"

AXIS = {"gridcolor": "#e6e6e6", "zeroline": False, "linecolor": "#999", "automargin": True}
TEMPLATE = go.layout.Template(
    layout={
        "font": {"family": FONT, "size": 13, "color": "#222"},
        "colorway": list(PALETTE),
        "paper_bgcolor": "white",
        "plot_bgcolor": "white",
        "margin": {"l": 60, "r": 20, "t": 50, "b": 55},
        "xaxis": AXIS | {"title": {"standoff": 8}},
        "yaxis": AXIS | {"title": {"standoff": 12}, "ticklabelstandoff": 4},
        "legend": {"orientation": "h", "yref": "container", "y": 0.99, "yanchor": "top", "x": 1, "xanchor": "right",
                   "itemsizing": "constant"},
    }
)
LEGEND_BELOW = {"margin_b": 95, "legend": {"yref": "container", "y": 0.01, "yanchor": "bottom"}}
"""Layout of figures whose titles are too long to share their line with a legend."""


def plain(text: str) -> str:
    """A label that plotly shows as it stands: it takes tags and entities in labels for markup."""
    return html.escape(text, quote=False)


def figure(title: str, x: str, y: str, *, height: int = 380) -> go.Figure:
    """An empty figure in the house style with a title and axis titles (units in brackets)."""
    layout = {"template": TEMPLATE, "title": plain(title), "height": height, "xaxis_title": x, "yaxis_title": y}
    return go.Figure(layout=layout)


def error_bars(rows: pd.DataFrame, *, digits: int = 4, color: str | None = None) -> dict[str, object]:
    """plotly's `error_x` or `error_y` of rows with the columns value, low and high."""
    ends = {"array": rows["high"] - rows["value"], "arrayminus": rows["value"] - rows["low"]}
    return {"type": "data", "symmetric": False, "thickness": 1.5, "width": 4, "color": color,
            **{name: length.round(digits).tolist() for name, length in ends.items()}}  # fmt: skip


def ordered(frame: pd.DataFrame) -> list[str]:
    """Methods of a comparison frame from weakest to strongest (mean over the tasks they have)."""
    return frame.groupby("method")["value"].mean().sort_values(kind="stable").index.tolist()


def _names(frame: pd.DataFrame) -> list[str]:
    """The methods' names as labels."""
    return frame["method"].map(plain).tolist()


def comparison(frame: pd.DataFrame, metric: str) -> go.Figure:
    """Dot plot of one metric with its interval, a panel per task.

    Args:
        frame: columns method, family, task, metric, value, low, high (the interval's ends, may be NaN).
        metric: the metric to show, such as `NDCG@10`.
    """
    frame = frame[frame["metric"] == metric]
    frame = frame.assign(method=_names(frame))
    tasks = [t for t in TASK_TITLES if t in set(frame["task"])]
    titles = [TASK_TITLES[t] for t in tasks]
    plot = make_subplots(cols=max(1, len(tasks)), shared_yaxes=True, subplot_titles=titles, horizontal_spacing=0.04)
    for col, task in enumerate(tasks, start=1):
        for family, color in FAMILY_COLORS.items():
            rows = frame[(frame["task"] == task) & (frame["family"] == family)]
            if len(rows):
                first = task == next(t for t in tasks if ((frame["task"] == t) & (frame["family"] == family)).any())
                plot.add_trace(_dots(rows, family, color, legend=first), row=1, col=col)
        plot.update_xaxes(title=f"{metric} [0–1]", rangemode="tozero", row=1, col=col)
    plot.update_yaxes(categoryorder="array", categoryarray=ordered(frame))
    plot.update_layout(template=TEMPLATE, height=160 + 28 * frame["method"].nunique(), **LEGEND_BELOW)
    return plot


def _dots(rows: pd.DataFrame, family: str, color: str, *, legend: bool) -> go.Scatter:
    return go.Scatter(x=rows["value"], y=rows["method"], error_x=error_bars(rows), mode="markers", name=family,
                      legendgroup=family, showlegend=legend, marker={"color": color, "size": 9},
                      hovertemplate="%{y}: %{x:.4f}<extra>" + family + "</extra>")


def differences(frame: pd.DataFrame, metric: str, *, title: str) -> go.Figure:
    """Two panels with a line per method: means with intervals, and paired differences from the best with theirs.

    A filled point differs from the best by the corrected test, a hollow one does not. The second panel shows the range
    of the methods that are not references; a reference further left has an arrow with its difference.

    Args:
        frame: from `unisr.report.gains.against_best`.
    """
    frame = frame.assign(method=_names(frame))
    plot = make_subplots(cols=2, shared_yaxes=True, horizontal_spacing=0.03,
                         subplot_titles=["mean over queries", "difference from the best on the same queries"])
    for family, color in FAMILY_COLORS.items():
        rows = frame[frame["family"] == family]
        if len(rows):
            plot.add_trace(_dots(rows, family, color, legend=True), row=1, col=1)
            ends = {"value": "difference", "low": "difference_low", "high": "difference_high"}
            moved = rows[["method"]].assign(**{name: rows[column] for name, column in ends.items()})
            dots = _dots(moved, family, color, legend=False)
            fills = [color if clear or value == 0 else "white"
                     for clear, value in zip(rows["significant"], rows["difference"], strict=True)]
            dots.marker.update(color=fills, line={"color": color, "width": 1.5})
            dots.error_x.color = color
            plot.add_trace(dots, row=1, col=2)
    plot.update_xaxes(title=f"{metric} [0–1]", rangemode="tozero", col=1)
    plot.update_xaxes(title=f"difference of {metric}", col=2)
    plot.update_yaxes(categoryorder="array", categoryarray=ordered(frame), tickmode="linear")
    plot.add_vline(x=0, line={"color": "#999", "width": 1}, col=2)
    _focus(plot, frame)
    plot.update_layout(template=TEMPLATE, title=plain(title), height=190 + 24 * len(frame), **LEGEND_BELOW)
    plot.update_layout(margin_t=80)
    return plot


SIDES = ("top center", "bottom right", "top left", "bottom center", "middle right", "middle left")
"""Where names of neighbors stand, in turn, so that they overlap less."""


def agreement(frame: pd.DataFrame, *, title: str, x: str, y: str) -> go.Figure:
    """A point per method with its name: `sampled` across, `full` upwards.

    The view opens on the methods that are not references; zoom out (double click) to see all.

    Args:
        frame: from `unisr.report.sampled.agreement`.
    """
    plot = figure(title, x, y, height=520)
    for family, color in FAMILY_COLORS.items():
        rows = frame[frame["family"] == family]
        if len(rows):
            sides = [SIDES[place % len(SIDES)] for place in rows.index]
            plot.add_scatter(x=rows["sampled"].tolist(), y=rows["full"].tolist(), text=_names(rows),
                             mode="markers+text", textposition=sides, textfont={"size": 10}, name=family,
                             marker={"color": color, "size": 9},
                             hovertemplate="%{text}: %{x:.4f} sampled, %{y:.4f} full<extra></extra>")  # fmt: skip
    trained = frame[frame["family"] != "reference"]
    if len(trained) > 1:
        for column, update in (("sampled", plot.update_xaxes), ("full", plot.update_yaxes)):
            low, high = float(trained[column].min()), float(trained[column].max())
            update(range=[low - 0.1 * (high - low), high + 0.1 * (high - low)])
    plot.update_layout(**LEGEND_BELOW)
    return plot


def trade_off(frame: pd.DataFrame, metric: str, *, title: str) -> go.Figure:
    """Recommendation across, search upwards: a point per method of both tasks, a line per method of one.

    Args:
        frame: columns method, family, rec and src (means; NaN where a method does not do the task).
    """
    plot = figure(title, f"{metric} of recommendation [0–1]", f"{metric} of search [0–1]", height=520)
    for family, color in FAMILY_COLORS.items():
        rows = frame[(frame["family"] == family) & frame["rec"].notna() & frame["src"].notna()]
        if len(rows):
            plot.add_scatter(x=rows["rec"].tolist(), y=rows["src"].tolist(), text=_names(rows), name=family,
                             mode="markers+text", textposition="top center", marker={"color": color, "size": 10},
                             hovertemplate="%{text}: %{x:.4f}, %{y:.4f}<extra></extra>")  # fmt: skip
    for row in frame.itertuples():
        line = {"line": {"color": "#999", "dash": "dot", "width": 1}, "annotation_font_size": 10}
        if np.isnan(row.src):
            plot.add_vline(x=row.rec, annotation_text=plain(row.method), annotation_textangle=-90,
                           annotation_position="bottom right", **line)  # fmt: skip
        elif np.isnan(row.rec):
            plot.add_hline(y=row.src, annotation_text=plain(row.method), annotation_position="bottom left", **line)
    plot.update_layout(**LEGEND_BELOW)
    return plot


def _focus(plot: go.Figure, frame: pd.DataFrame) -> None:
    """Limit the panel of differences to the range of the methods that are not references."""
    shown = frame[frame["family"] != "reference"]
    if shown.empty or shown["difference_low"].min() >= 0:
        return
    low, high = float(shown["difference_low"].min()), max(0.0, float(shown["difference_high"].max()))
    margin = 0.08 * (high - low)
    plot.update_xaxes(range=[low - margin, high + margin], col=2)
    for row in frame[frame["difference"] < low - margin].itertuples():
        plot.add_annotation(x=low - margin, y=row.method, text=f"◂ {row.difference:.3f}", showarrow=False,
                            xanchor="left", font={"size": 11, "color": FAMILY_COLORS[row.family]}, row=1, col=2)


def comparison_svg(frame: pd.DataFrame, metric: str, path: Path) -> Path:
    """The dot plot of `comparison` as an SVG file (matplotlib); same bytes for the same frame."""
    frame = frame[frame["metric"] == metric]
    order = ordered(frame)
    tasks = [t for t in TASK_TITLES if t in set(frame["task"])]
    def draw() -> Figure:
        plot = Figure(figsize=(9, 0.9 + 0.32 * len(order)), layout="constrained")
        axes = np.atleast_1d(plot.subplots(1, max(1, len(tasks)), sharey=True))
        for axis, task in zip(axes, tasks, strict=False):
            for family, color in FAMILY_COLORS.items():
                rows = frame[(frame["task"] == task) & (frame["family"] == family)]
                ends = np.stack([rows["value"] - rows["low"], rows["high"] - rows["value"]])
                axis.errorbar(rows["value"], rows["method"].map(order.index), xerr=ends, fmt="o", color=color, ms=5,
                              capsize=2, lw=1.2, label=family)
            axis.set(title=TASK_TITLES[task], xlabel=f"{metric} [0–1]", yticks=range(len(order)), xlim=(0, None))
            axis.set_yticklabels(order)
            axis.grid(axis="x", color="#e6e6e6")
            axis.spines[["top", "right"]].set_visible(False)
        plot.legend(*_legend(axes), loc="outside lower center", ncols=4, frameon=False)
        return plot

    return write_svg(svg_text(draw), path)


def _legend(axes: np.ndarray) -> tuple[list[object], list[str]]:
    found = {}
    for axis in axes:
        for handle, label in zip(*axis.get_legend_handles_labels(), strict=True):
            if handle.lines[0].get_xdata().size:
                found.setdefault(label, handle)
    return list(found.values()), list(found)


def histogram(frame: pd.DataFrame, column: str, *, title: str, x: str, y: str, group: str | None = None) -> go.Figure:
    """Counts of the integer `column` in logarithmic bins (factor 2), one bar color per value of `group`."""
    plot = figure(title, x, y)
    edges = 2 ** np.arange(0, int(np.log2(max(1, frame[column].max()))) + 2)
    labels = [str(a) if b == a + 1 else f"{a}–{b - 1}" for a, b in zip(edges[:-1], edges[1:], strict=True)]
    groups = frame.groupby(group, sort=False) if group else [(None, frame)]
    for name, rows in groups:
        counts, _ = np.histogram(rows[column], bins=edges)
        plot.add_bar(x=labels, y=counts.tolist(), name=str(name) if name is not None else "", showlegend=bool(group))
    plot.update_xaxes(type="category", categoryorder="array", categoryarray=labels)
    return plot


def rank_frequency(counts: np.ndarray, *, title: str, x: str, y: str) -> go.Figure:
    """Counts sorted downwards against their 1-based rank, both axes logarithmic."""
    values = np.sort(counts[counts > 0])[::-1]
    plot = figure(title, x, y)
    plot.add_scatter(x=list(range(1, len(values) + 1)), y=values.tolist(), mode="lines", showlegend=False)
    plot.update_xaxes(type="log", dtick=1)
    plot.update_yaxes(type="log", dtick=1)
    return plot


def weights(frame: pd.DataFrame, *, title: str) -> go.Figure:
    """Soft-filter weights of one candidate over a history: horizontal bars in the order of the frame, from the top.

    Args:
        frame: columns event (label), view (`cf` or `semantic`), weight (0–1, sums to 1 over a view).
    """
    plot = figure(title, "attention weight [0–1]", "history event", height=160 + 18 * frame["event"].nunique())
    for view, rows in frame.groupby("view", sort=False):
        plot.add_bar(x=rows["weight"].tolist(), y=rows["event"].map(plain).tolist(), name=str(view), orientation="h")
    plot.update_yaxes(autorange="reversed")
    plot.update_layout(**LEGEND_BELOW)
    return plot
