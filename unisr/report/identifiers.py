"""Item ids made visible: a tree of codes, a map of the vectors they come from, and the items that share a beginning."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
import pandas as pd
import plotly.graph_objects as go
import torch
from torch import Tensor

from unisr.data.sources import office
from unisr.errors import UnknownNameError
from unisr.models.identifiers import ItemIds
from unisr.report.figures import PALETTE, TEMPLATE, figure
from unisr.report.widgets import table

ROOT = "catalog"


def tree(ids: ItemIds, titles: Sequence[str], *, title: str) -> go.Figure:
    """The ids as nested boxes, one per beginning of an id, the items innermost; a click opens a box.

    Args:
        titles: [V + 1] of the items, row 0 is padding.
    """
    rows = [{"id": ROOT, "parent": "", "label": "all items", "items": ids.n_items}]
    codes = ids.codes[1:].tolist()
    counts: dict[tuple[int, ...], int] = {}
    for row in codes:
        own = tuple(code for code in row if code >= 0)
        for length in range(1, len(own) + 1):
            counts[own[:length]] = counts.get(own[:length], 0) + 1
    for start, count in counts.items():
        label = f"code {start[-1]}"
        rows.append({"id": _key(start), "parent": _key(start[:-1]) or ROOT, "label": label, "items": count})
    for item, row in enumerate(codes, start=1):
        own = tuple(code for code in row if code >= 0)
        rows.append({"id": f"item {item}", "parent": _key(own), "label": titles[item], "items": 1})
    frame = pd.DataFrame(rows)
    boxes = go.Treemap(
        ids=frame["id"].tolist(), parents=frame["parent"].tolist(),
        labels=frame["label"].tolist(), values=frame["items"].tolist(), branchvalues="total", maxdepth=3,
        hovertemplate="%{label}: %{value} items<extra></extra>", root={"color": "#eee"}, pathbar={"visible": True},
    )  # fmt: skip
    return go.Figure(boxes, layout={"template": TEMPLATE, "title": title, "height": 560, "treemapcolorway": PALETTE})


def coordinates(vectors: np.ndarray | Tensor, *, seed: int = 0) -> np.ndarray:
    """UMAP of item vectors [V + 1, d] without row 0 to the plane, `[V, 2]` (cosine distance, 15 neighbors)."""
    from umap import UMAP

    rows = np.asarray(vectors, dtype=np.float32)[1:]
    reducer = UMAP(n_neighbors=min(15, len(rows) - 1), metric="cosine", random_state=seed, n_jobs=1)
    return reducer.fit_transform(rows)


def plane(places: np.ndarray, ids: ItemIds, titles: Sequence[str], *, title: str, shown: int = 7) -> go.Figure:
    """Items at places [V, 2], colored by the first code of their id: the `shown` most common codes, then the rest."""
    first = ids.codes[1:, 0].numpy()
    common = pd.Series(first).value_counts().index[:shown].tolist()
    texts = [f"{titles[item]}<br>{' '.join(map(str, row))}" for item, row in enumerate(ids.codes[1:].tolist(), start=1)]
    plot = figure(title, "first dimension (UMAP, no unit)", "second dimension (UMAP, no unit)", height=560)
    groups = [(f"code {code}", first == code) for code in common] + [("other codes", ~np.isin(first, common))]
    for place, (name, rows) in enumerate(groups):
        rows = np.flatnonzero(rows)
        plot.add_scatter(
            x=places[rows, 0].tolist(), y=places[rows, 1].tolist(), mode="markers", name=name,
            text=[texts[row] for row in rows], hovertemplate="%{text}<extra></extra>",
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
    return table(frame, caption=caption) if order else f"<p>{caption}; no item begins alike</p>"


def published(dataset: str) -> str:
    """HTML: the report on the ids that others publish for a dataset's items (office), or that there are none."""
    if dataset != "office":
        return f"<p>No ids are published for {dataset}; there are some for office.</p>"
    codes = torch.from_numpy(office.published_codes())
    ids = ItemIds(codes, tuple((codes.max(0).values + 1).tolist()))
    return table(ids.report().drop(columns="error").round(3), caption="published ids (MiniOneRec)")


def _key(start: Sequence[int]) -> str:
    return " ".join(map(str, start))
