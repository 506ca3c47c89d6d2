"""Figures of notebook 11: quality against general knowledge, what rank buys, one setting at a time."""

from __future__ import annotations

import pandas as pd
import plotly.graph_objects as go
from matplotlib.figure import Figure
from plotly.subplots import make_subplots

from unisr.data.schema import TASK_TITLES
from unisr.report.adaptation import METRIC, WHOLE
from unisr.report.figures import LEGEND_BELOW, PALETTE, TEMPLATE, error_bars, figure
from unisr.report.svg import svg_text

SHARES = {"recommendation": "energy_rec", "search": "energy_src", "the batch it came from": "energy_own",
          "random basis": "random"}  # fmt: skip
"""Lines of `rank_buys` and their columns."""
KNOWLEDGE = "change of general knowledge [nats a token, more is worse]"


def trade_off(knowledge: pd.DataFrame, means: pd.DataFrame, task: str) -> go.Figure:
    """Change of general knowledge across, quality upwards, a point per variant.

    Args:
        knowledge: of `unisr.report.adaptation.kept_knowledge`.
        means: columns variant, and a column per task.
    """
    frame = knowledge.merge(means, on="variant")
    plot = figure(f"{TASK_TITLES[task]} and what it costs", KNOWLEDGE, f"{METRIC} [0–1]", height=460)
    rows = frame.set_axis([{"nats": "value", "nats_low": "low", "nats_high": "high"}.get(c, c) for c in frame], axis=1)
    for own, color, label in ((True, PALETTE[0], WHOLE), (False, "#767676", "others")):
        some = rows[(rows["variant"] == WHOLE) == own]
        plot.add_scatter(x=some["value"].round(4).tolist(), y=some[task].round(4).tolist(), error_x=error_bars(some),
                         text=some["variant"].tolist(), mode="markers+text", textposition="top center", name=label,
                         marker={"color": color, "size": 10},
                         hovertemplate="%{text}: %{y:.3f}, %{x:+.3f} nats<extra></extra>")  # fmt: skip
    plot.add_vline(x=0, line={"color": "#999", "width": 1})
    return plot.update_layout(**LEGEND_BELOW)


def trade_off_svg(knowledge: pd.DataFrame, means: pd.DataFrame) -> str:
    """`trade_off` of both tasks as SVG."""
    frame = knowledge.merge(means, on="variant")

    def draw() -> Figure:
        plot = Figure(figsize=(11, 4.6), layout="constrained")
        for axis, (task, title) in zip(plot.subplots(1, 2), TASK_TITLES.items(), strict=True):
            for row in frame.itertuples():
                color = PALETTE[0] if row.variant == WHOLE else "#767676"
                ends = [[row.nats - row.nats_low], [row.nats_high - row.nats]]
                axis.errorbar(row.nats, getattr(row, task), xerr=ends, fmt="o", color=color, ms=5, capsize=2, lw=1)
                axis.annotate(row.variant, (row.nats, getattr(row, task)), (0, 5), textcoords="offset points",
                              fontsize=8, ha="center", color=color)  # fmt: skip
            axis.axvline(0, color="#999", lw=1)
            axis.set(title=title, xlabel=KNOWLEDGE, ylabel=f"{METRIC} [0–1]")
            axis.spines[["top", "right"]].set_visible(False)
        return plot

    return svg_text(draw)


def rank_buys(frame: pd.DataFrame, layer: str = "all") -> go.Figure:
    """By rank: share of the gradients' energy in the subspace, and cosines of the tasks inside and outside of it.

    Args:
        frame: of `unisr.analysis.subspace_conflict.subspace_conflict`; means over probes are drawn.
    """
    inside, outside, floor = _spaces(frame, layer)
    ranks = inside.index.tolist()
    plot = make_subplots(cols=2, horizontal_spacing=0.1,
                         subplot_titles=["energy of gradients held", "cosine of the tasks' gradients"])  # fmt: skip
    for (title, column), color in zip(SHARES.items(), PALETTE, strict=False):
        dash = "dot" if column == "random" else "solid"
        plot.add_scatter(x=ranks, y=inside[column].round(4).tolist(), name=title, row=1, col=1,
                         mode="lines+markers", line={"color": color, "dash": dash})  # fmt: skip
    for some, title, color in ((inside, "inside", PALETTE[3]), (outside, "outside", PALETTE[4])):
        plot.add_scatter(x=some.index.tolist(), y=some["cosine"].round(4).tolist(), name=title, row=1, col=2,
                         mode="lines+markers", line={"color": color})  # fmt: skip
    plot.add_scatter(x=ranks, y=floor.round(4).tolist(), name="two halves of one task, inside", row=1,
                     col=2, mode="lines", line={"color": "#999", "dash": "dot"})  # fmt: skip
    plot.update_xaxes(title="rank of the shared subspace, log scale", type="log", tickvals=ranks)
    plot.update_yaxes(title="share of squared norm [0–1]", range=[0, 1.05], col=1)
    plot.update_yaxes(title="cosine", zeroline=True, zerolinecolor="#999", col=2)
    return plot.update_layout(template=TEMPLATE, title=f"What rank buys: {layer}", height=450, margin_t=80,
                              **LEGEND_BELOW)  # fmt: skip


def rank_buys_svg(frame: pd.DataFrame, layer: str) -> str:
    """`rank_buys` as SVG."""
    inside, outside, floor = _spaces(frame, layer)

    def draw() -> Figure:
        plot = Figure(figsize=(9, 3.4), layout="constrained", dpi=72)
        energy, cosine = plot.subplots(1, 2)
        for (title, column), color in zip(SHARES.items(), PALETTE, strict=False):
            line = "o:" if column == "random" else "o-"
            energy.plot(inside.index, inside[column], line, ms=3, color=color, label=title)
        for some, title, color in ((inside, "inside", PALETTE[3]), (outside, "outside", PALETTE[4])):
            cosine.plot(some.index, some["cosine"], "o-", ms=3, color=color, label=title)
        cosine.plot(inside.index, floor, ":", color="#999", label="two halves of one task, inside")
        cosine.axhline(0, color="#999", lw=1)
        energy.set(ylabel="share of squared norm [0–1]", ylim=(0, 1.05), title="energy of gradients held")
        cosine.set(ylabel="cosine", title="cosine of the tasks' gradients")
        for axis in (energy, cosine):
            axis.set_xscale("log", base=2)
            axis.set_xticks(inside.index, inside.index)
            axis.set_xlabel("rank of the shared subspace, log scale")
            axis.spines[["top", "right"]].set_visible(False)
            axis.legend(frameon=False, fontsize=8)
        return plot

    return svg_text(draw)


def _spaces(frame: pd.DataFrame, layer: str) -> tuple[pd.DataFrame, pd.DataFrame, pd.Series]:
    """Means over the probes of a layer by rank, inside the subspace and outside, and the noise floor inside."""
    mean = frame[(frame["layer"] == layer) & (frame["rank"] > 0)].groupby(["space", "rank"]).mean(numeric_only=True)
    inside, outside = mean.loc["inside"], mean.loc["outside"]
    return inside, outside, inside[["noise_rec", "noise_src"]].mean(axis=1)


def over(frame: pd.DataFrame, setting: str) -> go.Figure:
    """Quality of both tasks and change of general knowledge over one setting.

    Args:
        frame: of `unisr.report.adaptation.turned`.
    """
    rows = frame[frame["setting"] == setting]
    plot = make_subplots(cols=3, horizontal_spacing=0.12, subplot_titles=[*TASK_TITLES.values(), "general knowledge"])
    panels = [*((task, f"{METRIC} [0–1]") for task in TASK_TITLES), ("nats", "change [nats a token]")]
    for col, (column, title) in enumerate(panels, start=1):
        plot.add_scatter(x=rows["value"].tolist(), y=rows[column].round(4).tolist(), mode="lines+markers",
                         row=1, col=col, line={"color": PALETTE[col - 1]}, showlegend=False)  # fmt: skip
        plot.update_yaxes(title=title, row=1, col=col)
    plot.update_xaxes(title=f"{setting}, log scale", type="log", tickvals=rows["value"].tolist())
    return plot.update_layout(template=TEMPLATE, title=f"GEMS over its {setting}", height=380, margin_t=80)
