"""A view shows the target's own history, the scorer's order and weights on the right events."""

from __future__ import annotations

import numpy as np
import pytest
import torch
from torch import Tensor

from unisr.data.batches import Batch
from unisr.data.candidates import load_candidates
from unisr.data.corpus import Corpus
from unisr.data.histories import Histories
from unisr.data.prepare import load_dataset
from unisr.errors import ConfigError
from unisr.models.base import Scorer
from unisr.registry import Card
from unisr.report.inspect import Inspector


class ByNumber(Scorer):
    """Higher item ids first; weights are the place in the window."""

    card = Card(name="ByNumber", family="joint", tasks=("rec", "src"), paper="none", signals=(), loss="none")
    history_length = (3, 3)

    def score(self, batch: Batch) -> Tensor:
        return batch.candidates.float()

    def explain(self, batch: Batch) -> dict[str, Tensor]:
        place = torch.arange(batch.items.shape[1]).float().expand(*batch.candidates.shape, -1)
        return {"cf": place, "semantic": place * batch.candidates[..., None]}


@pytest.fixture(scope="module")
def inspector(tmp_path_factory: pytest.TempPathFactory) -> Inspector:
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("UNISR_DATA", str(tmp_path_factory.mktemp("data")))
        dataset = load_dataset("synthetic")
        return Inspector(
            ByNumber(ByNumber.Config(), Corpus.of(dataset)), dataset, load_candidates(dataset), Histories(dataset)
        )


@pytest.mark.parametrize("task", ["rec", "src"])
def test_view_orders_candidates_and_finds_the_target(inspector: Inspector, task: str) -> None:
    user = int(inspector.users(task)[0])
    view = inspector.view(user, task)
    assert (np.diff(view.ranking["score"]) <= 0).all() and len(view.ranking) == 100
    row = view.ranking[view.ranking["target"]].squeeze()
    assert (row["rank"], row["title"]) == (view.rank, view.target)
    assert bool(view.query) == (task == "src")
    assert view.explained == view.ranking["title"].iloc[0]


def test_history_is_latest_first_and_keeps_its_weights(inspector: Inspector) -> None:
    user = int(inspector.users("rec")[0])
    history = inspector.view(user, "rec").history
    dataset = inspector.dataset
    target = next(r for r in inspector._targets["rec"][0] if dataset.column("user")[r] == user)
    window = inspector.histories.window(np.array([target]), 3, 3)[0]
    window = window[window >= 0][::-1]
    assert history["title"].tolist() == dataset.items["title"].iloc[dataset.column("item")[window]].tolist()
    assert history["task"].tolist() == [("rec", "src")[t - 1] for t in dataset.column("task")[window]]
    assert history["cf"].tolist() == [5.0 - i for i in range(len(window))]


def test_weights_are_long_and_html_escapes(inspector: Inspector) -> None:
    view = inspector.view(int(inspector.users("src")[0]), "src")
    read = view.history[view.history["cf"] > 0]
    assert view.weights["event"].tolist() == 2 * [f"{e} {t}" for e, t in zip(read["event"], read["title"], strict=True)]
    assert len(read) == len(view.history) - 1
    assert set(view.weights["view"]) == {"cf", "semantic"}
    assert "search" in view.html() and "◀ chosen" in view.html(rows=100)


def test_an_unknown_user_or_task_is_named(inspector: Inspector) -> None:
    with pytest.raises(ConfigError, match="user 0 has no recommendation target"):
        inspector.view(0, "rec")
    with pytest.raises(ConfigError, match="does not do 'both'; it does rec, src"):
        inspector.view(1, "both")
