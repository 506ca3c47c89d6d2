"""Quality against cost as an inline SVG: a point per method, its name, and the line of those that nothing dominates."""

from __future__ import annotations

import io
from collections.abc import Iterator, Sequence

import matplotlib
import numpy as np
import pandas as pd
from matplotlib.axes import Axes
from matplotlib.figure import Figure

from unisr.data.schema import TASK_TITLES
from unisr.report import cost
from unisr.report.figures import FAMILY_COLORS
from unisr.report.store import Run

SIZE = (9.0, 5.2)
"""Inches."""
LABEL_SIZE = 8.5
"""Points."""
DISTANCES = (8, 14, 22, 32, 44)
"""Points between a point and its name, the nearest that is free."""
SIDES = ((0.6, 1), (1, 0), (-1, 0), (0.6, -1), (-0.6, 1), (-0.6, -1), (0, 1), (0, -1))
FAR = 2 * len(SIDES)
"""Places from this one on get a line between point and name."""


def view(runs: Sequence[Run], task: str, metric: str, axis: str) -> str:
    """The plot of stored runs, as `svg`.

    Args:
        axis: a key of `unisr.report.cost.AXES`.
    """
    frame = cost.points(runs, task, metric, axis)
    title = f"{metric} of {TASK_TITLES[task]} [0–1]"
    return svg(frame, x=axis, y=title, more_is_better=cost.AXES[axis] in cost.MORE_IS_BETTER)


def svg(frame: pd.DataFrame, *, x: str, y: str, more_is_better: bool = False) -> str:
    """The plot as an SVG element; the same frame gives the same text.

    References below every other method stand at the lower edge, as triangles with their value.

    Args:
        frame: columns method, family, x (at least 0), y.
        x, y: titles of the axes.
        more_is_better: whether a larger x is better too (a speed), not worse (a cost).
    """
    style = {"svg.hashsalt": "unisr", "svg.fonttype": "none", "font.family": "sans-serif"}
    with matplotlib.rc_context(style):
        plot = Figure(figsize=SIZE, layout="constrained", dpi=72)  # as SVG files have, so that a pixel is a point
        axis = plot.subplots()
        shown = _raised(frame.assign(front=cost.front(frame, more_is_better=more_is_better)))
        _points(axis, shown, steps="steps-pre" if more_is_better else "steps-post")
        _scale(axis, frame["x"].to_numpy(dtype=float))
        axis.set(xlabel=x + (" (more is better)" if more_is_better else ""), ylabel=y)
        axis.margins(x=0.08, y=0.09)
        axis.grid(color="#e6e6e6")
        axis.set_axisbelow(True)
        axis.spines[["top", "right"]].set_visible(False)
        plot.legend(loc="outside lower center", ncols=6, frameon=False)
        plot.draw_without_rendering()
        plot.set_layout_engine("none")
        _names(axis, shown)
        text = io.StringIO()
        plot.savefig(text, format="svg", metadata={"Date": None})
    return text.getvalue()[text.getvalue().index("<svg") :]


def _raised(frame: pd.DataFrame) -> pd.DataFrame:
    """The frame with columns label and low; low references are lifted to just below the lowest other method."""
    others = frame.loc[frame["family"] != "reference", "y"]
    if others.empty:
        return frame.assign(label=frame["method"], low=False)
    floor = others.min() - 0.12 * (frame["y"].max() - others.min())
    low = frame["y"] < floor
    values = [f"{m} ({y:.3f})" if below else m for m, y, below in zip(frame["method"], frame["y"], low, strict=True)]
    return frame.assign(label=values, low=low, y=frame["y"].clip(lower=floor))


def _points(axis: Axes, frame: pd.DataFrame, *, steps: str) -> None:
    """A filled point per method on the front, a hollow one per other method, and the front as steps."""
    line = frame[frame["front"]].sort_values(["x", "y"])
    axis.plot(line["x"], line["y"], color="#999", lw=1.2, ls="--", zorder=1, drawstyle=steps, label="not dominated")
    for family, color in FAMILY_COLORS.items():
        of_family = frame[frame["family"] == family]
        for low, rows in of_family.groupby("low"):
            faces = [color if on_front else "white" for on_front in rows["front"]]
            axis.scatter(rows["x"], rows["y"], s=42, c=faces, edgecolors=color, linewidths=1.6, zorder=2,
                         marker="v" if low else "o")
        if len(of_family):
            axis.scatter([], [], s=42, color=color, label=family)


def _scale(axis: Axes, x: np.ndarray) -> None:
    """A logarithmic x axis where the values span more than a factor of 10, linear around 0 if there is a 0."""
    positive = x[x > 0]
    axis.xaxis.set_major_formatter("{x:,g}")
    if len(positive) and positive.max() > 10 * positive.min():
        if (x > 0).all():
            axis.set_xscale("log")
        else:
            axis.set_xscale("symlog", linthresh=float(positive.min()))
            axis.set_xlim(left=-0.15 * float(positive.min()))


def _names(axis: Axes, frame: pd.DataFrame) -> None:
    """Write every name beside its point where no point or name is, with a line where that is far; the front first."""
    points = axis.transData.transform(frame[["x", "y"]].to_numpy(dtype=float))
    area, right = axis.get_window_extent(), axis.figure.bbox.x1
    taken = [(px - 6, py - 6, px + 6, py + 6) for px, py in points]
    for place in np.argsort(~frame["front"].to_numpy(), kind="stable"):
        name, bold = str(frame["label"].iloc[place]), bool(frame["front"].iloc[place])
        boxes = list(_boxes(*points[place], 0.6 * LABEL_SIZE * len(name), 1.15 * LABEL_SIZE))
        inside = [i for i, box in enumerate(boxes) if box[0] >= area.x0 and box[2] <= right]
        number = next((i for i in inside if not any(_overlap(boxes[i], t) for t in taken)), 0)
        left, bottom, _, top = boxes[number]
        taken.append(boxes[number])
        line = {"arrowstyle": "-", "color": "#bbb", "lw": 0.7, "shrinkA": 0, "shrinkB": 3} if number >= FAR else None
        axis.annotate(name, points[place], (left, (bottom + top) / 2), xycoords="figure points",
                      textcoords="figure points", va="center", fontsize=LABEL_SIZE, color="#222", arrowprops=line,
                      weight="bold" if bold else "normal", annotation_clip=False)


def _boxes(x: float, y: float, width: float, height: float) -> Iterator[tuple[float, float, float, float]]:
    """Places for a text around a point, the best first: (left, bottom, right, top) in points."""
    for distance in DISTANCES:
        for dx, dy in SIDES:
            left = x + dx * distance - (width if dx < 0 else width / 2 if dx == 0 else 0)
            bottom = y + (distance - 1 if dy > 0 else 1 - distance - height if dy < 0 else -height / 2)
            yield left, bottom, left + width, bottom + height


def _overlap(a: tuple[float, float, float, float], b: tuple[float, float, float, float]) -> bool:
    return a[0] < b[2] and b[0] < a[2] and a[1] < b[3] and b[1] < a[3]
