"""Data whose every title and query holds markup that would run, and all that notebooks show of it."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path

import nbformat.v4 as nbf
import numpy as np
import plotly.io as pio
import torch
from plotly.graph_objects import Figure
from torch import Tensor

from unisr.data.batches import Batch
from unisr.data.candidates import load_candidates
from unisr.data.corpus import Corpus
from unisr.data.histories import Histories
from unisr.data.prepare import load_dataset
from unisr.data.schema import Dataset
from unisr.models.base import Scorer
from unisr.models.identifiers import ItemIds
from unisr.registry import Card
from unisr.report import datasets, figures, identifiers, notebooks, playground, widgets
from unisr.report.inspect import Inspector

MARKUP = "</td></script><img src=x onerror='document.hostile=1'><script>document.hostile=1</script>&amp;"


class Last(Scorer):
    """Higher item ids first; every event of the history has the same weight."""

    card = Card(name="Last", family="joint", tasks=("rec", "src"), paper="none", signals=(), loss="none")
    history_length = (3, 3)

    def score(self, batch: Batch) -> Tensor:
        return batch.candidates.float()

    def explain(self, batch: Batch) -> dict[str, Tensor]:
        return {"cf": torch.ones(*batch.candidates.shape, batch.items.shape[1])}


def dataset() -> Dataset:
    """The synthetic world with markup in titles and queries."""
    world = load_dataset("synthetic")
    titles, texts = ([MARKUP + text if number else text for number, text in enumerate(column)]
                     for column in (world.items["title"], world.queries["text"]))  # fmt: skip
    return replace(world, items=world.items.assign(title=titles), queries=world.queries.assign(text=texts))


def shown() -> tuple[list[str], list[Figure]]:
    """HTML and figures of everything in the notebooks that names an item, a query or an error."""
    world = dataset()
    desk = Inspector(Last(Last.Config(), Corpus.of(world)), world, load_candidates(world), Histories(world))
    view = desk.view(int(desk.users("src")[0]), "src")
    titles = world.items["title"].tolist()[:5]
    ids = ItemIds(torch.tensor([[-1, -1], [0, 0], [0, 1], [0, 2], [1, 0]]), (2, 3))
    html = [
        view.html(), widgets.table(view.ranking, caption=MARKUP), playground.message(MARKUP, details=MARKUP),
        widgets.table(datasets.timeline(world, 1), caption=MARKUP), world.items.head()._repr_html_(),
        identifiers.relatives(ids, titles, titles[1]), identifiers.relatives(ids, titles, titles[4]),
    ]  # fmt: skip
    plots = [
        figures.weights(view.weights, title=f"Soft filter for “{view.explained}”"),
        identifiers.tree(ids, titles, levels=2, title=MARKUP),
        identifiers.plane(np.arange(8.0).reshape(4, 2), ids, titles, title=MARKUP),
    ]
    return html, plots


def executed(path: Path) -> None:
    """Write a notebook whose cells have all that is `shown`, a printed line and an error as outputs."""
    html, plots = shown()
    pages = [*html, *(pio.to_html(plot, full_html=False, include_plotlyjs=False) for plot in plots)]
    outputs = [nbf.new_output("display_data", {"text/html": text, "text/plain": MARKUP}) for text in pages]
    outputs += [
        nbf.new_output("stream", name="stdout", text=MARKUP),
        nbf.new_output("execute_result", {"text/plain": MARKUP}),
        nbf.new_output("error", ename="UnisrError", evalue=MARKUP, traceback=[f"UnisrError: {MARKUP}"]),
    ]
    path.parent.mkdir(parents=True, exist_ok=True)
    cells = [nbf.new_code_cell(repr(MARKUP), outputs=[output]) for output in outputs]
    path.write_text(notebooks.nbformat.writes(nbf.new_notebook(cells=cells)), encoding="utf-8")
