"""Figures of the studies: what GenSR's parts are worth (Fig. 5), and how it depends on τ and β (Fig. 6).

Plotly for the reader; the SVG twins (matplotlib) are for files, and for views that a control redraws.
"""

from __future__ import annotations

import numpy as np
import pandas as pd
import plotly.graph_objects as go
from matplotlib.figure import Figure
from matplotlib.patches import Patch
from plotly.subplots import make_subplots

from unisr.data.schema import TASK_TITLES
from unisr.report import figures
from unisr.report.figures import PALETTE
from unisr.report.sensitivity import AXES, Axis, curve
from unisr.report.svg import svg_text
from unisr.variants import OWN

COLORS = {"supported": PALETTE[3], "not supported": PALETTE[0], "undecided": "#9a9a9a"}


def drops(frame: pd.DataFrame, metric: str, *, title: str) -> go.Figure:
    """Bars of the drops with their intervals, a panel per task; a diamond is the paper's drop, colors are verdicts.

    Args:
        frame: from `unisr.report.ablation.drops`.
    """
    tasks = list(frame["task"].unique())
    names = [TASK_TITLES[task] for task in tasks]
    plot = make_subplots(cols=len(tasks), shared_yaxes=True, subplot_titles=names, horizontal_spacing=0.04)
    for col, task in enumerate(tasks, start=1):
        rows = frame[frame["task"] == task]
        for name, color in COLORS.items():
            own = rows[rows["verdict"] == name]
            drop = own[["drop", "drop_low", "drop_high"]].set_axis(["value", "low", "high"], axis=1)
            bars = figures.error_bars(drop, digits=3, color="#333")
            plot.add_bar(x=own["drop"].round(3).tolist(), y=own["part"].tolist(), error_x=bars, orientation="h",
                         name=name, legendgroup=name, showlegend=col == 1, marker_color=color,
                         hovertemplate="%{y}: %{x:.1f} %<extra>" + name + "</extra>", row=1, col=col)  # fmt: skip
        known = rows.dropna(subset=["paper"])
        plot.add_scatter(x=known["paper"].tolist(), y=known["part"].tolist(), mode="markers", name="paper, NDCG@5",
                         legendgroup="paper", showlegend=col == 1, row=1, col=col,
                         marker={"symbol": "diamond", "size": 10, "color": "black"},
                         hovertemplate="%{y}: about %{x:.1f} %<extra>paper, Amazon</extra>")  # fmt: skip
    plot.update_xaxes(title=f"drop of {metric} [%]", zeroline=True, zerolinecolor="#999")
    plot.update_yaxes(categoryorder="array", categoryarray=_parts(frame)[::-1])
    plot.update_layout(template=figures.TEMPLATE, title=title, height=190 + 30 * frame["part"].nunique(),
                       **figures.LEGEND_BELOW)  # fmt: skip
    return plot.update_layout(margin_t=80)


def drops_svg(frame: pd.DataFrame, metric: str) -> str:
    """`drops` as SVG (matplotlib)."""
    order, tasks = _parts(frame), list(frame["task"].unique())

    def draw() -> Figure:
        plot = Figure(figsize=(9, 1.2 + 0.32 * len(order)), layout="constrained")
        axes = np.atleast_1d(plot.subplots(1, len(tasks), sharey=True))
        for axis, task in zip(axes, tasks, strict=True):
            rows = frame[frame["task"] == task]
            places = rows["part"].map(order.index)
            ends = np.stack([rows["drop"] - rows["drop_low"], rows["drop_high"] - rows["drop"]])
            axis.barh(places, rows["drop"], xerr=ends, color=rows["verdict"].map(COLORS), capsize=2)
            axis.scatter(rows["paper"], places, marker="D", color="black", s=28, zorder=3, label="paper, NDCG@5")
            axis.axvline(0, color="#999", lw=1)
            axis.set(title=TASK_TITLES[task], xlabel=f"drop of {metric} [%]", yticks=range(len(order)))
            axis.set_yticklabels(order)
            axis.spines[["top", "right"]].set_visible(False)
        axes[0].invert_yaxis()
        handles = [Patch(color=color, label=name) for name, color in COLORS.items()]
        handles += axes[0].get_legend_handles_labels()[0]
        plot.legend(handles=handles, loc="outside lower center", ncols=4, frameon=False)
        return plot

    return svg_text(draw)


def curves(frame: pd.DataFrame, found: pd.DataFrame, metric: str, *, title: str) -> go.Figure:
    """Two panels, τ and β, with 95 % intervals over queries; a ring is GenSR's own setting, diamonds are the paper's
    drops measured from our peak.

    Args:
        frame: from `unisr.report.sensitivity.points`, for one task.
        found: rows of `unisr.report.sensitivity.ends` for the same task.
    """
    plot = make_subplots(cols=2, shared_yaxes=True, horizontal_spacing=0.04,
                         subplot_titles=[f"β = {OWN[1]:g}", f"τ = {OWN[0]:g}"])  # fmt: skip
    for col, (axis, color) in enumerate(zip(AXES, PALETTE, strict=False), start=1):
        line = curve(frame, axis)
        bars = figures.error_bars(line)
        plot.add_scatter(x=line["x"].tolist(), y=line["value"].round(4).tolist(), error_y=bars, mode="lines+markers",
                         line_color=color, marker_size=8, name=f"over {axis}", row=1, col=col)  # fmt: skip
        own = line[line["x"] == OWN[col - 1]]
        plot.add_scatter(x=own["x"].tolist(), y=own["value"].round(4).tolist(), mode="markers", name="GenSR's own",
                         showlegend=col == 1, row=1, col=col,
                         marker={"symbol": "circle-open", "size": 15, "color": "black", "line_width": 2})  # fmt: skip
        known = _paper_points(found, axis)
        plot.add_scatter(x=known["end"].tolist(), y=known["level"].round(4).tolist(), mode="markers", row=1, col=col,
                         name="paper's drop from the peak", showlegend=axis == "τ",
                         marker={"symbol": "diamond", "size": 10, "color": "black"})  # fmt: skip
        plot.update_xaxes(title=axis + (", log scale" if axis == "β" else ""), row=1, col=col,
                          type="log" if axis == "β" else "linear", tickvals=line["x"].tolist(),
                          ticktext=[f"{x:g}" for x in line["x"]])  # fmt: skip
    plot.update_yaxes(title=f"{metric} [0–1]", col=1)
    plot.update_layout(template=figures.TEMPLATE, title=title, height=420, **figures.LEGEND_BELOW)
    return plot.update_layout(margin_t=80)


def heat_map(frame: pd.DataFrame, metric: str, *, title: str) -> go.Figure:
    """τ upwards, β across, the mean in every cell that is stored; cells are spaced evenly."""
    wide = frame.pivot(index="tau", columns="beta", values="value")
    text = [["" if np.isnan(v) else f"{v:.3f}" for v in row] for row in wide.to_numpy()]
    z = [[None if np.isnan(v) else round(float(v), 4) for v in row] for row in wide.to_numpy()]
    plot = figures.figure(title, "β", "τ", height=120 + 56 * len(wide))
    plot.add_heatmap(x=[f"{v:g}" for v in wide.columns], y=[f"{v:g}" for v in wide.index], z=z, text=text,
                     texttemplate="%{text}", colorscale="Cividis", colorbar_title=metric,
                     hovertemplate="τ %{y}, β %{x}: %{z:.4f}<extra></extra>")  # fmt: skip
    return plot.update_xaxes(type="category").update_yaxes(type="category")


def curves_svg(frame: pd.DataFrame, found: pd.DataFrame, metric: str) -> str:
    """Both curves and the heat map as one SVG (matplotlib). Arguments as in `curves`."""

    def draw() -> Figure:
        plot = Figure(figsize=(10, 3.2), layout="constrained")
        *lines, grid = plot.subplots(1, 3)
        for place, (axis, target) in enumerate(zip(AXES, lines, strict=True)):
            line = curve(frame, axis)
            spread = np.stack([line["value"] - line["low"], line["high"] - line["value"]])
            target.errorbar(line["x"], line["value"], yerr=spread, fmt="o-", ms=5, capsize=2,
                            color=PALETTE[place])  # fmt: skip
            known = _paper_points(found, axis)
            target.scatter(known["end"], known["level"], marker="D", color="black", s=28, zorder=3)
            target.set(xlabel=axis, ylabel=f"{metric} [0–1]", xscale="log" if axis == "β" else "linear")
            target.set_xticks(line["x"], [f"{x:g}" for x in line["x"]])
            target.set_xticks([], minor=True)
            target.spines[["top", "right"]].set_visible(False)
        wide = frame.pivot(index="tau", columns="beta", values="value")
        grid.imshow(wide, origin="lower", aspect="auto", cmap="cividis")
        grid.set(xlabel="β", ylabel="τ", xticks=range(len(wide.columns)), yticks=range(len(wide)), title=metric)
        grid.set_xticklabels([f"{v:g}" for v in wide.columns])
        grid.set_yticklabels([f"{v:g}" for v in wide.index])
        for (row, column), value in np.ndenumerate(wide.to_numpy()):
            label = "" if np.isnan(value) else f"{value:.3f}"
            bright = value > (frame["value"].min() + frame["value"].max()) / 2
            grid.text(column, row, label, ha="center", va="center", fontsize=8, color="black" if bright else "white")
        return plot

    return svg_text(draw)


def _parts(frame: pd.DataFrame) -> list[str]:
    """The variants in the order of the study."""
    return list(dict.fromkeys(frame["part"]))


def _paper_points(found: pd.DataFrame, axis: Axis) -> pd.DataFrame:
    """The paper's drops as levels below our peak."""
    rows = found[found["axis"] == axis].dropna(subset=["paper"]) if len(found) else pd.DataFrame(columns=["end"])
    return rows.assign(level=rows["value"] * (1 - rows["paper"] / 100) if len(rows) else [])
