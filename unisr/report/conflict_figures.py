"""Figures of gradient conflict: the curve of the GenSR paper's Fig. 4, and a model part by part.

Each has a plotly form for reading and an SVG form (text) for files and for views that a control redraws.
"""

from __future__ import annotations

import numpy as np
import pandas as pd
import plotly.graph_objects as go
from matplotlib.figure import Figure
from plotly.subplots import make_subplots

from unisr.report.conflict import PAPER_LAYER, SEVERE, of_part
from unisr.report.figures import LEGEND_BELOW, PALETTE, TEMPLATE
from unisr.report.studies import number
from unisr.report.svg import svg_text

BOUNDS = (-1.05, 1.05)
COSINE = "cosine of the tasks' gradients [−1, 1]"
FLOORS = {"noise_rec": "recommendation with itself", "noise_src": "search with itself"}


def curve(frame: pd.DataFrame, part: str = PAPER_LAYER) -> go.Figure:
    """Fig. 4: the cosine between the tasks over optimizer steps, a panel per method, the mean over seeds.

    The shaded band lies between the two noise floors: how far each task's gradients agree with themselves on other
    users. A line far below a band that is far from 0 tells of the tasks; a band at 0 tells of noise.
    """
    curves = _curves(frame, part)
    plot = make_subplots(cols=len(curves), shared_yaxes=True, subplot_titles=list(curves), horizontal_spacing=0.03)
    for col, mean in enumerate(curves.values(), 1):
        for trace in _traces(mean, PALETTE[(col - 1) % len(PALETTE)], first=col == 1):
            plot.add_trace(trace, row=1, col=col)
        plot.update_xaxes(title="optimizer step", row=1, col=col)
    plot.add_hline(y=0, line={"color": "#444", "width": 1})
    plot.add_hline(y=SEVERE, line={"color": "#999", "width": 1, "dash": "dot"})
    plot.update_yaxes(title=COSINE, col=1)
    plot.update_yaxes(range=BOUNDS)
    plot.update_layout(template=TEMPLATE, title=part, height=430, **LEGEND_BELOW)
    plot.update_layout(margin_t=80)
    return plot


def _traces(mean: pd.DataFrame, color: str, *, first: bool) -> list[go.Scatter]:
    steps = mean["step"].tolist()
    band = go.Scatter(x=steps + steps[::-1], y=mean["high"].tolist() + mean["low"].tolist()[::-1], fill="toself",
                      fillcolor="rgba(140,140,140,0.25)", line={"width": 0}, hoverinfo="skip", mode="lines",
                      name="noise floor (a task with itself)", legendgroup="noise", showlegend=first)  # fmt: skip
    line = go.Scatter(x=steps, y=mean["cosine"].tolist(), mode="lines+markers", name="recommendation with search",
                      line={"color": color}, marker={"size": 4}, legendgroup="cosine", showlegend=first,
                      hovertemplate="step %{x}: %{y:.3f}<extra></extra>")  # fmt: skip
    return [band, line]


def curve_svg(frame: pd.DataFrame, part: str = PAPER_LAYER) -> str:
    """`curve` as SVG text; the same bytes for the same frame."""
    curves = _curves(frame, part)

    def draw() -> Figure:
        plot = Figure(figsize=(4.5 * len(curves), 3.4), layout="constrained")
        axes = np.atleast_1d(plot.subplots(1, len(curves), sharey=True))
        for place, (axis, (title, mean)) in enumerate(zip(axes, curves.items(), strict=True)):
            axis.fill_between(mean["step"], mean["low"], mean["high"], color="#8c8c8c40", lw=0, label="noise floor")
            axis.plot(mean["step"], mean["cosine"], color=PALETTE[place % len(PALETTE)], lw=1.2, label="between tasks")
            axis.axhline(0, color="#444", lw=0.8)
            axis.axhline(SEVERE, color="#999", lw=0.8, ls=":")
            axis.set(title=title, xlabel="optimizer step", ylim=BOUNDS)
            axis.spines[["top", "right"]].set_visible(False)
            axis.legend(frameon=False, fontsize=8, loc="lower left")
        axes[0].set_ylabel(COSINE)
        plot.suptitle(part)
        return plot

    return svg_text(draw)


def _curves(frame: pd.DataFrame, part: str) -> dict[str, pd.DataFrame]:
    """Title of a panel -> step, cosine, low and high of the band; means over seeds."""
    rows, found = of_part(frame, part), {}
    for name, own in rows.groupby("method", sort=False):
        mean = own.groupby("step")[["cosine", *FLOORS]].mean().round(4).reset_index()
        ends = mean[list(FLOORS)]
        title = f"{name} ({number(own['seed'].nunique(), 'seed')}, {number(own['trained_epochs'].iloc[0], 'epoch')})"
        found[title] = mean.assign(low=ends.min(axis=1), high=ends.max(axis=1))
    return found


def bars(frame: pd.DataFrame, method: str, epoch: int) -> go.Figure:
    """Mean cosine of every part of a method over the probes of one epoch (its last one, if it has fewer), with the
    noise floors of both tasks as marks."""
    mean, title = _parts(frame, method, epoch)
    labels = mean["label"].tolist()
    plot = go.Figure(layout={"template": TEMPLATE, "height": 170 + 22 * len(mean), "title": title})
    plot.add_bar(x=mean["cosine"].tolist(), y=labels, orientation="h", name="between tasks",
                 marker_color=mean["color"].tolist(), customdata=mean["parameters"].astype(int).tolist(),
                 hovertemplate="%{y}: %{x:.3f}, %{customdata} values<extra></extra>")  # fmt: skip
    for (column, name), symbol in zip(FLOORS.items(), ("circle-open", "diamond-open"), strict=True):
        plot.add_scatter(x=mean[column].tolist(), y=labels, mode="markers", name=name,
                         marker={"symbol": symbol, "color": "#444", "size": 8})  # fmt: skip
    plot.update_xaxes(title=f"mean {COSINE}", range=BOUNDS)
    plot.update_yaxes(autorange="reversed", title="part")
    plot.update_layout(**LEGEND_BELOW)
    return plot


def bars_svg(frame: pd.DataFrame, method: str, epoch: int) -> str:
    """`bars` as SVG text."""
    mean, title = _parts(frame, method, epoch)

    def draw() -> Figure:
        plot = Figure(figsize=(9, 1.3 + 0.27 * len(mean)), layout="constrained")
        axis = plot.subplots()
        axis.barh(mean["label"], mean["cosine"], color=mean["color"], label="between tasks")
        for (column, name), mark in zip(FLOORS.items(), ("o", "D"), strict=True):
            axis.plot(mean[column], mean["label"], mark, mfc="none", mec="#444", ms=5, label=name)
        axis.axvline(0, color="#444", lw=0.8)
        axis.set(title=title, xlabel=f"mean {COSINE}", xlim=BOUNDS)
        axis.invert_yaxis()
        axis.spines[["top", "right"]].set_visible(False)
        plot.legend(loc="outside lower center", ncols=3, frameon=False, fontsize=8)
        return plot

    return svg_text(draw)


def _parts(frame: pd.DataFrame, method: str, epoch: int) -> tuple[pd.DataFrame, str]:
    """Means of one epoch with a label and a color per part, and the title."""
    own = frame[frame["method"] == method]
    shown = min(epoch, int(own["epoch"].max()))
    rows = own[own["epoch"] == shown]
    columns = ["cosine", *FLOORS, "parameters"]
    mean = rows.groupby(["kind", "part", "paper"], sort=False)[columns].mean().round(4).reset_index()
    kinds = mean["kind"].where(~mean["paper"], PAPER_LAYER)
    mean["label"] = kinds + ": " + mean["part"]
    mean["color"] = np.where(mean["cosine"] < 0, PALETTE[3], PALETTE[0])
    title = (f"{method}, epoch {shown} of {own['epoch'].max()} ({number(rows['step'].nunique(), 'probe')}, "
             f"{number(rows['seed'].nunique(), 'seed')})")  # fmt: skip
    return mean, title
