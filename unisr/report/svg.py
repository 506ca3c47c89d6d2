"""SVG twins of the figures, drawn with matplotlib: the same drawing gives the same bytes."""

from __future__ import annotations

import base64
import html
import io
import re
from collections.abc import Callable
from pathlib import Path

import matplotlib
from matplotlib.figure import Figure

from unisr.paths import results_dir, whole_file

NAMESPACE = "http://www.w3.org/2000/svg"
STYLE = {"svg.hashsalt": "unisr", "svg.fonttype": "none", "font.family": "sans-serif", "path.simplify": False}


def svg_text(draw: Callable[[], Figure]) -> str:
    """What `draw` makes as an SVG element, for a page or a file."""
    with matplotlib.rc_context(STYLE):
        plot, text = draw(), io.StringIO()
        plot.savefig(text, format="svg", metadata={"Date": None})
    return text.getvalue()[text.getvalue().index("<svg") :]


def as_images(page: str, alt: str) -> str:
    """`page` with its SVG elements as images, which JupyterLab also shows in a notebook that it does not trust yet.

    Args:
        alt: what the images show, in words.
    """

    def image(found: re.Match[str]) -> str:
        text = found[0] if "xmlns=" in found[0] else found[0].replace("<svg", f'<svg xmlns="{NAMESPACE}"', 1)
        data = base64.b64encode(text.encode()).decode()
        return (f'<img style="max-width:100%" alt="{html.escape(alt, quote=True)}" '
                f'src="data:image/svg+xml;base64,{data}">')  # fmt: skip

    return re.sub(r"<svg\b.*?</svg>", image, page, flags=re.DOTALL)


def write_svg(text: str, path: Path) -> Path:
    """Store an SVG element as a file."""
    with whole_file(path) as draft:
        draft.write_text(text, encoding="utf-8")
    return path


def store_svg(text: str, stem: str, *, dataset: str, preset: str) -> Path:
    """Store an SVG beside the figures of a dataset and preset: `results/<dataset>/<preset>/figures/<stem>.svg`."""
    return write_svg(text, results_dir() / dataset / preset / "figures" / f"{stem}.svg")
