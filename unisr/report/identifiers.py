"""Item ids made visible: a tree of codes, a map of the vectors they come from, and the items that share a beginning."""

from __future__ import annotations

from collections.abc import Sequence
from html import escape

import numpy as np
import pandas as pd
import plotly.graph_objects as go
import torch
from torch import Tensor

from unisr.analysis.separation import NEIGHBORS, umap
from unisr.data.sources import office
from unisr.errors import UnknownNameError
from unisr.models.identifiers import ItemIds
from unisr.report.figures import PALETTE, TEMPLATE, figure, plain
from unisr.report.widgets import table

ROOT = "catalog"
SHOWN = 5
"""Titles that a box names."""


def tree(ids: ItemIds, titles: Sequence[str], *, levels: int, title: str) -> go.Figure:
    """The first `levels` codes of the ids as nested boxes: a click opens one, the mouse names some of its items.

    Args:
        titles: [V + 1] of the items, row 0 is padding.
    """
    members: dict[tuple[int, ...], list[int]] = {(): list(range(1, ids.n_items + 1))}
    for item, row in enumerate(ids.codes[1:, :levels].tolist(), start=1):
        start = tuple(code for code in row if code >= 0)
        for length in range(1, len(start) + 1):
            members.setdefault(start[:length], []).append(item)
    starts = list(members)
    boxes = go.Treemap(
        ids=[_key(start) or ROOT for start in starts],
        parents=[_key(start[:-1]) or ROOT if start else "" for start in starts],
        labels=[f"code {start[-1]}" if start else "all items" for start in starts],
        text=[_some([titles[item] for item in members[start]]) if len(start) == levels else "" for start in starts],
        values=np.array([len(members[start]) for start in starts], dtype=np.int32), branchvalues="total",
        hovertemplate="%{label}: %{value} items<br>%{text}<extra></extra>", root={"color": "#eee"},
    )  # fmt: skip
    layout = {"template": TEMPLATE, "title": plain(title), "height": 560, "treemapcolorway": PALETTE,
              "uniformtext": {"minsize": 9, "mode": "hide"}}
    return go.Figure(boxes, layout=layout)


def coordinates(vectors: np.ndarray | Tensor, *, seed: int = 0) -> np.ndarray:
    """UMAP of item vectors [V + 1, d] without row 0 to the plane, `[V, 2]` (cosine distance, 15 neighbors)."""
    rows = np.asarray(vectors, dtype=np.float32)[1:]
    return umap(rows, neighbors=min(NEIGHBORS, len(rows) - 1), seed=seed, metric="cosine")


def plane(places: np.ndarray, ids: ItemIds, titles: Sequence[str], *, title: str, shown: int = 7) -> go.Figure:
    """Items at places [V, 2], colored by the first code of their id: the `shown` most common codes, then the rest."""
    first = ids.codes[1:, 0].numpy()
    common = pd.Series(first).value_counts().index[:shown].tolist()
    places = places.astype(np.float32)  # arrays, which a notebook stores in a few bytes a number
    plot = figure(title, "first dimension (UMAP, no unit)", "second dimension (UMAP, no unit)", height=560)
    groups = [(f"code {code}", first == code) for code in common] + [("other codes", ~np.isin(first, common))]
    for place, (name, rows) in enumerate(groups):
        rows = np.flatnonzero(rows)
        plot.add_scatter(
            x=places[rows, 0], y=places[rows, 1], mode="markers", name=name,
            text=[plain(titles[row + 1]) for row in rows], hovertemplate="%{text}<extra></extra>",
            marker={"size": 6, "color": PALETTE[place] if name != "other codes" else "#cccccc"},
        )  # fmt: skip
    beside = {"orientation": "v", "yref": "paper", "x": 1.02, "xanchor": "left", "y": 1, "yanchor": "top"}
    plot.update_layout(legend=beside)
    return plot


def relatives(ids: ItemIds, titles: Sequence[str], title: str, *, most: int = 12) -> str:
    """HTML: the items whose ids begin like that of the item called `title`, the longest common beginning first.

    Raises:
        UnknownNameError: no item has the title.
    """
    if title not in titles[1:]:
        raise UnknownNameError("title", title, titles[1:])
    own = list(titles).index(title, 1)
    same = (ids.codes == ids.codes[own]).long().cumprod(1).sum(1)
    same[0], same[own] = 0, 0
    order = same.argsort(descending=True, stable=True)
    order = order[same[order] > 0][:most].tolist()
    frame = pd.DataFrame({
        "title": [titles[item] for item in order], "id": [_key(ids.codes[item].tolist()) for item in order],
        "codes in common": [int(same[item]) for item in order],
    })  # fmt: skip
    caption = f"{title}: id {_key(ids.codes[own].tolist())}"
    return table(frame, caption=caption) if order else f"<p>{escape(caption)}; no item begins alike</p>"


def published(dataset: str) -> str:
    """HTML: the report on the ids that others publish for a dataset's items (office), or that there are none."""
    if dataset != "office":
        return f"<p>No ids are published for {dataset}; there are some for office.</p>"
    codes = torch.from_numpy(office.published_codes())
    ids = ItemIds(codes, tuple((codes.max(0).values + 1).tolist()))
    return table(ids.report().drop(columns="error").round(3), caption="published ids (MiniOneRec)")


def _some(titles: Sequence[str]) -> str:
    return "<br>".join([*map(plain, titles[:SHOWN]), *(["…"] if len(titles) > SHOWN else [])])


def _key(start: Sequence[int]) -> str:
    return " ".join(map(str, start))
