"""Every kind of file that unisr writes and reads again: how it is made, and what its reader finds in it."""

from __future__ import annotations

import hashlib
import json
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

import nbformat
import numpy as np
import pandas as pd
import pytest
from torch import nn

from tests.report.stored import config, random_ranks, saved
from tests.training.tiny import TinyLoader, tiny_scorer, tiny_validation
from unisr.analysis.store import kept
from unisr.config import Settings, TrainConfig
from unisr.data import load_dataset, prose, text_vectors
from unisr.data.candidates import load_candidates
from unisr.report import notebooks, searches, store
from unisr.seals import SUMS
from unisr.training import checkpoint, pretraining, train
from unisr.training.pretraining import TestbedConfig

SMALL = TestbedConfig(width=16, layers=1, heads=2, feed_forward=16, vocabulary=260, steps=2, batch_size=2, block=8)
TEXTS = ("the river holds a stone", "one winter covers this house", "a stone outlives the river")


@dataclass(frozen=True)
class Artefact:
    """`make` writes files under `results` or `data`; `read` gives what is in them, making again what it may."""

    make: Callable[[], Any]
    read: Callable[[], Any]
    where: str = "*"
    """Pattern of its files."""
    structure_only: bool = False
    """Whether a file of another content is as good: then only what is no such file at all is damage."""


def _model() -> nn.Module:
    layer = nn.Linear(4, 4)
    nn.init.ones_(layer.weight)
    nn.init.zeros_(layer.bias)
    return layer


def _run() -> list[Any]:
    run, model = store.load(store.folder_of(config())), nn.Linear(4, 4)
    if run.checkpoint is None:
        return []
    run.load_weights(model)
    tables = [run.per_query.to_dict("list"), run.losses.to_dict("list")]
    state = {name: value.tolist() for name, value in model.state_dict().items()}
    return [run.config.model_dump(), asdict(run.environment), run.metrics, run.cost.model_dump(), *tables, state]


def _dataset() -> list[Any]:
    found = load_dataset("synthetic")
    return [found.filters, *(t.to_dict("list") for t in (found.users, found.items, found.queries, found.events))]


def _vectors() -> list[Any]:
    text_vectors._stored.cache_clear()
    return text_vectors.text_vectors(TEXTS, "lsa").tolist()


def _analysis() -> list[Any]:
    table = pd.DataFrame({"task": ["rec"] * 40, "value": np.arange(40) / 7})
    return kept("mine", Settings(), [config()], lambda: table).to_dict("list")


def _search() -> searches.Search:
    trial = searches.Trial(number=0, settings={"training.learning_rate": 1e-3}, value=0.25, epochs=3, best_epoch=2,
                           seconds=1.5)  # fmt: skip
    return searches.Search(method="SASRec", method_version=1, dataset="synthetic", preset="quick", seed=0, epochs=3,
                           space={"training.learning_rate": (1e-3, 1e-2)}, trials=(trial,))  # fmt: skip


def _partial() -> Path:
    return store.folder_of(config()).with_name("training.partial")


def _train() -> None:
    scorer = tiny_scorer()
    train(scorer, TinyLoader(steps=2), TrainConfig(epochs=1), seed=0, checkpoints=_partial(), owner="me",
          validate=lambda: tiny_validation(scorer))  # fmt: skip


def _checkpoint() -> list[Any]:
    found = checkpoint.load(_partial(), "me")
    return [] if found is None else [repr(found.position), str(found.weights), str(found.best), str(found.optimizer)]


def _prose() -> list[Any]:
    prose._parts.cache_clear()
    return list(prose.prose("evaluation"))


def _testbed() -> dict[str, str]:
    folder = pretraining.testbed(SMALL)
    return {p.name: hashlib.sha256(p.read_bytes()).hexdigest() for p in folder.iterdir() if p.name != SUMS}


def _notebook() -> Path:
    return store.results_dir() / "synthetic" / "quick" / "notebooks" / "00_mine.ipynb"


def _write_notebook() -> None:
    cells = [nbformat.v4.new_markdown_cell("# Mine"), nbformat.v4.new_code_cell("preset: str = 'quick'")]
    cells[1].metadata["tags"] = ["parameters"]
    _notebook().parent.mkdir(parents=True)
    nbformat.write(nbformat.v4.new_notebook(cells=cells), _notebook())


ARTEFACTS = {
    "run": Artefact(lambda: saved(random_ranks(30), model=_model()), _run),
    "tables": Artefact(_dataset, _dataset),
    "candidates": Artefact(lambda: _candidates(), lambda: _candidates(), where="*/candidates/*"),
    "text vectors": Artefact(_vectors, _vectors),
    "analysis": Artefact(_analysis, _analysis),
    "search": Artefact(lambda: searches.save(_search()), lambda: searches.find("synthetic", "SASRec")),
    "checkpoint": Artefact(_train, _checkpoint),
    "prose": Artefact(_prose, _prose),
    "language model": Artefact(_testbed, _testbed),
    "notebook": Artefact(_write_notebook, lambda: notebooks.parameters(_notebook()), structure_only=True),
}


def _candidates() -> str:
    return load_candidates(load_dataset("synthetic")).digest()


@contextmanager
def small_prose() -> Iterator[None]:
    """Prose of a few sentences, where the installed packages' takes seconds to read."""
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(prose, "_read", lambda: {part: [text * 20 for text in TEXTS] for part in prose.PARTS})
        prose._parts.cache_clear()
        yield
        prose._parts.cache_clear()


def flipped(content: bytes, place: int) -> bytes:
    """`content` with one bit of a byte turned."""
    return content[:place] + bytes([content[place] ^ (1 << place % 8)]) + content[place + 1 :]


def as_text(value: Any) -> str:
    """For comparison: NaN equals NaN."""
    return json.dumps(value, default=str, sort_keys=True)
