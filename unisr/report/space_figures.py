"""Hidden states of both tasks in the plane: the paper's Figure 3, and any method, layer and projection."""

from __future__ import annotations

import re

import numpy as np
import pandas as pd
import plotly.graph_objects as go
from matplotlib.figure import Figure
from plotly.subplots import make_subplots

from unisr.analysis.parameter_space import DATA
from unisr.analysis.separation import density
from unisr.data.schema import TASK_TITLES
from unisr.report.figures import LEGEND_BELOW, PALETTE, TEMPLATE
from unisr.report.space import Spaces, chosen, numbers_table
from unisr.report.svg import svg_text

COLORS = {"rec": PALETTE[0], "src": PALETTE[1]}
PROJECTION_TITLES = {"pca": "PCA", "umap": "UMAP", "tsne": "t-SNE"}
SIDE = np.linspace(-3, 3, 25)
"""Grid of a density, in standard deviations."""
LEVELS = np.linspace(0.1, 0.9, 5)
"""Contours, in shares of a density's maximum."""


def figure_3(all_: Spaces, left: str, right: str) -> go.Figure:
    """The paper's three panels: the data (t-SNE, with kernel density), and both methods' main layers (PCA)."""
    panels = _panels(all_, left, right)
    plot = make_subplots(cols=3, subplot_titles=[_wrapped(title) for title in panels], horizontal_spacing=0.05)
    for col, rows in enumerate(panels.values(), start=1):
        for trace in _clouds(rows, legend=col == 1):
            plot.add_trace(trace, row=1, col=col)
    plot.update_annotations(font_size=12)
    plot.update_xaxes(title="first axis [standard deviations]")
    plot.update_yaxes(title="second axis [standard deviations]", col=1)
    return plot.update_layout(template=TEMPLATE, height=460, margin_t=90, **LEGEND_BELOW)


def figure_3_svg(all_: Spaces, left: str, right: str) -> str:
    """`figure_3` as SVG."""
    panels = _panels(all_, left, right)
    return clouds_svg({_wrapped(title).replace("<br>", "\n"): rows for title, rows in panels.items()}, "")


def _panels(all_: Spaces, left: str, right: str) -> dict[str, pd.DataFrame]:
    """Points by the panel's title."""
    data = all_.layers(DATA)[-1]
    panels = {f"data: {data} (t-SNE)": chosen(all_, DATA, data, "tsne", "none")}
    for method in (left, right):
        layer = all_.main(method)
        panels[f"{method}: {layer} (PCA)"] = chosen(all_, method, layer, "pca", "trained")
    return panels


def _wrapped(title: str) -> str:
    """Lines of at most about 34 characters, broken behind the colon and at dots of a layer's name."""
    head, rest = title.split(": ", 1)
    lines = [""]
    for part in re.split(r"(?<=\.)", rest):
        if len(lines[-1]) + len(part) > 34 and lines[-1]:
            lines.append("")
        lines[-1] += part
    return "<br>".join([f"{head}:", *lines])


def _clouds(rows: pd.DataFrame, *, legend: bool) -> list[go.Scatter | go.Contour]:
    traces: list[go.Scatter | go.Contour] = []
    for task, points in rows.groupby("task", sort=False):
        color, xy = COLORS[task], points[["x", "y"]].to_numpy()
        if _spread(xy):
            z = density(xy, SIDE, SIDE)
            levels = LEVELS * z.max()
            lines = {"coloring": "none", "start": levels[0], "end": levels[-1], "size": levels[1] - levels[0]}
            traces.append(go.Contour(
                x=_short(SIDE), y=_short(SIDE), z=_short(z), contours=lines, showscale=False, showlegend=False,
                line={"color": color, "width": 1}, hoverinfo="skip",
            ))  # fmt: skip
        traces.append(go.Scatter(
            x=_short(xy[:, 0]), y=_short(xy[:, 1]), mode="markers", name=TASK_TITLES[task], legendgroup=task,
            showlegend=legend, hoverinfo="skip", marker={"color": color, "size": 4, "opacity": 0.6},
        ))  # fmt: skip
    return traces


def _short(numbers: np.ndarray) -> np.ndarray:
    """An array, which a notebook stores in a few bytes a number."""
    return np.ascontiguousarray(numbers, dtype=np.float32)


def _dots(places: np.ndarray) -> np.ndarray:
    """[n, 2] -> [2, 3 n]: each place as a line without length; as markers the file would be three times as long."""
    return np.concatenate([places, places, np.full_like(places, np.nan)], axis=1).reshape(-1, 2).T


def _spread(places: np.ndarray) -> bool:
    """Whether a density can be estimated: the points do not lie on a line."""
    return len(places) > 2 and np.linalg.matrix_rank(np.cov(places.T)) == 2


def view(all_: Spaces, *, method: str, layer: str, projection: str) -> str:
    """HTML: one method's states after training and as initialized (SVG), and its numbers.

    Args:
        layer: a name, or `""` for the layer that stands for the paper's.
    """
    layer = layer or all_.main(method)
    states = ["none"] if method == DATA else ["trained", "untrained"]
    panels = {weights: chosen(all_, method, layer, projection, weights) for weights in states}
    title = f"{method}, {layer}, {PROJECTION_TITLES[projection]}"
    return clouds_svg(panels, title) + numbers_table(all_, method, layer)


def clouds_svg(panels: dict[str, pd.DataFrame], title: str) -> str:
    """Panels with points and density contours of both tasks as an SVG element; the same frames give the same text."""
    def draw() -> Figure:
        plot = Figure(figsize=(4.2 * len(panels) + 0.4, 4), layout="constrained", dpi=72)
        for axis, (name, rows) in zip(np.atleast_1d(plot.subplots(1, len(panels))), panels.items(), strict=True):
            for task, points in rows.groupby("task", sort=False):
                xy = points[["x", "y"]].to_numpy()
                if _spread(xy):
                    z = density(xy, SIDE, SIDE)
                    axis.contour(SIDE, SIDE, z, levels=LEVELS * z.max(), colors=COLORS[task], linewidths=0.8)
                axis.plot(*_dots(xy), lw=3, solid_capstyle="round", color=COLORS[task], alpha=0.6,
                          label=TASK_TITLES[task])  # fmt: skip
            axis.set(title=name if name != "none" else "", xlabel="first axis [sd]", ylabel="second axis [sd]")
            axis.spines[["top", "right"]].set_visible(False)
        axis.legend(frameon=False, fontsize=8)
        plot.suptitle(title, fontsize=10)
        return plot

    return svg_text(draw)
