"""SVG twins of the figures, drawn with matplotlib: the same drawing gives the same bytes."""

from __future__ import annotations

import io
from collections.abc import Callable
from pathlib import Path

import matplotlib
from matplotlib.figure import Figure

from unisr.paths import results_dir, whole_file

STYLE = {"svg.hashsalt": "unisr", "svg.fonttype": "none", "font.family": "sans-serif", "path.simplify": False}


def svg_text(draw: Callable[[], Figure]) -> str:
    """What `draw` makes as an SVG element, for a page or a file."""
    with matplotlib.rc_context(STYLE):
        plot, text = draw(), io.StringIO()
        plot.savefig(text, format="svg", metadata={"Date": None})
    return text.getvalue()[text.getvalue().index("<svg") :]


def write_svg(text: str, path: Path) -> Path:
    """Store an SVG element as a file."""
    with whole_file(path) as draft:
        draft.write_text(text, encoding="utf-8")
    return path


def store_svg(text: str, stem: str, *, dataset: str, preset: str) -> Path:
    """Store an SVG beside the figures of a dataset and preset: `results/<dataset>/<preset>/figures/<stem>.svg`."""
    return write_svg(text, results_dir() / dataset / preset / "figures" / f"{stem}.svg")
