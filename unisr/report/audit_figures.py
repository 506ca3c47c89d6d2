"""Figures of the audit, each for the page (plotly) and as SVG (matplotlib)."""

from __future__ import annotations

import numpy as np
import pandas as pd
import plotly.graph_objects as go
from matplotlib.figure import Figure

from unisr.analysis.artefacts import SAMPLED, START
from unisr.report import figures, paper_audit
from unisr.report.figures import PALETTE
from unisr.report.svg import svg_text

UP, DOWN, TOTAL = PALETTE[0], PALETTE[3], "#767676"
RATIO = "(NDCG@10 − NDCG@5) / (Recall@10 − Recall@5)"
DOTS = {True: ("possible", PALETTE[0], ("circle", "o")), False: ("impossible", PALETTE[3], ("x", "x"))}
"""By whether a row is possible: name, color, symbols of plotly and matplotlib."""
SHOWN = (-0.1, 1.2)
"""Ratios that the axis shows; those outside stand at its end, with their number."""


def waterfall(found: pd.DataFrame, *, title: str, metric: str = "NDCG@10") -> go.Figure:
    """From the released protocol (left) to the clean one and to full ranking (right), in points.

    Args:
        found: from `unisr.report.audit.waterfall`.
    """
    bars = _bars(found)
    plot = figures.figure(title, "", f"{metric} [points]", height=500)
    kinds = {"total": ("protocol as a whole", TOTAL), "up": ("removed: gain", UP), "down": ("removed: loss", DOWN)}
    for kind, (name, color) in kinds.items():
        own = bars[bars["kind"] == kind]
        plot.add_bar(x=own["name"].tolist(), y=own["height"].round(2).tolist(), base=own["base"].round(2).tolist(),
                     name=name, marker_color=color, text=own["text"].tolist(), textposition="outside",
                     hovertemplate="%{x}: %{text}<extra></extra>", cliponaxis=False)  # fmt: skip
    plot.update_xaxes(categoryorder="array", categoryarray=bars["name"].tolist(), tickangle=-30)
    plot.update_yaxes(rangemode="tozero")
    return plot.update_layout(bargap=0.35, **figures.LEGEND_BELOW)


def waterfall_svg(found: pd.DataFrame, *, title: str, metric: str = "NDCG@10") -> str:
    """`waterfall` as SVG."""
    bars = _bars(found)

    def draw() -> Figure:
        plot = Figure(figsize=(9, 4.6), layout="constrained")
        axis, places = plot.subplots(), np.arange(len(bars))
        colors = bars["kind"].map({"total": TOTAL, "up": UP, "down": DOWN})
        axis.bar(places, bars["height"], bottom=bars["base"], color=colors, width=0.65)
        for place, bar in zip(places, bars.itertuples(), strict=True):
            top = max(bar.base, bar.base + bar.height)
            axis.annotate(bar.text, (place, top), (0, 3), textcoords="offset points", ha="center", fontsize=9)
        axis.set(title=title, ylabel=f"{metric} [points]", xticks=places)
        axis.set_xticklabels(bars["name"], rotation=30, ha="right")
        axis.spines[["top", "right"]].set_visible(False)
        return plot

    return svg_text(draw)


def ratios(frame: pd.DataFrame) -> go.Figure:
    """The arithmetic test of every printed row, a dot each with what rounding allows; the band is what can be.

    Args:
        frame: from `unisr.report.audit.ratios`.
    """
    plot = figures.figure("Rows of the paper's tables against what one target per query allows", RATIO, "", height=400)
    plot.add_vrect(*paper_audit.WINDOW, fillcolor=PALETTE[2], opacity=0.25, line_width=0)
    for possible, (name, color, (symbol, _)) in DOTS.items():
        rows = frame[frame["possible"] == possible]
        shown = rows["ratio"].clip(*SHOWN)
        plot.add_scatter(x=shown.round(4).tolist(), y=_heights(frame)[rows.index].round(3).tolist(), mode="markers",
                         name=name, text=(rows["row"] + ": " + rows["ratio"].map("{:.3f}".format)).tolist(),
                         marker={"size": 9, "color": color, "symbol": symbol},
                         hovertemplate="%{text}<extra></extra>")  # fmt: skip
    tables = list(frame["table"].unique())
    plot.update_yaxes(tickvals=list(range(len(tables))), ticktext=[f"Table {n}" for n in tables],
                      range=[len(tables) - 0.5, -0.5])  # fmt: skip
    plot.update_xaxes(range=[SHOWN[0] - 0.03, SHOWN[1] + 0.03])
    return plot.update_layout(**figures.LEGEND_BELOW)


def ratios_svg(frame: pd.DataFrame) -> str:
    """`ratios` as SVG."""
    heights, tables = _heights(frame), list(frame["table"].unique())

    def draw() -> Figure:
        plot = Figure(figsize=(9, 3.8), layout="constrained")
        axis = plot.subplots()
        axis.axvspan(*paper_audit.WINDOW, color=PALETTE[2], alpha=0.25, lw=0, label="what can be")
        for possible, (name, color, (_, marker)) in DOTS.items():
            rows = frame[frame["possible"] == possible]
            axis.scatter(rows["ratio"].clip(*SHOWN), heights[rows.index], c=color, marker=marker, s=36, label=name)
        axis.set(xlabel=RATIO, ylim=(len(tables) - 0.5, -0.5), yticks=range(len(tables)))
        axis.set_yticklabels([f"Table {n}" for n in tables])
        axis.spines[["top", "right"]].set_visible(False)
        plot.legend(loc="outside lower center", ncols=3, frameon=False)
        return plot

    return svg_text(draw)


def _bars(found: pd.DataFrame) -> pd.DataFrame:
    """name, kind (total, up, down), base, height and text of the bars, with the clean total before full ranking."""
    bars = []
    for row in found.itertuples():
        if row.removed == START:
            bars.append((START, "total", 0.0, row.value, f"{row.value:.1f}"))
            continue
        if row.removed == SAMPLED:
            bars.append(("clean", "total", 0.0, row.value - row.change, f"{row.value - row.change:.1f}"))
        kind = "up" if row.change >= 0 else "down"
        bars.append((row.removed, kind, row.value - row.change, row.change, f"{row.change:+.1f}"))
    last = found["value"].iloc[-1]
    bars.append(("full ranking", "total", 0.0, last, f"{last:.1f}"))
    return pd.DataFrame(bars, columns=["name", "kind", "base", "height", "text"])


def _heights(frame: pd.DataFrame) -> np.ndarray:
    """[n] heights of the dots: the place of the table, dots of one table spread over it."""
    place = frame["table"].map({number: i for i, number in enumerate(frame["table"].unique())}).to_numpy()
    within = frame.groupby("table").cumcount().to_numpy()
    size = frame.groupby("table")["row"].transform("size").to_numpy()
    return place + 0.6 * ((within + 0.5) / size - 0.5)
