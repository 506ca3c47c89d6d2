"""Samples of (X, Y): the same for every method, by loops; and the table of estimates of small runs."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pandas as pd
import pytest
import torch
from torch import Tensor

from unisr.analysis import input_output as io
from unisr.analysis.mutual_information import ESTIMATORS, EstimatorSettings, over_seeds
from unisr.config import RunConfig
from unisr.data.batches import Batch
from unisr.data.schema import Split, Task
from unisr.data.text_vectors import text_vectors
from unisr.errors import UnknownNameError
from unisr.models.base import Scorer
from unisr.run import Inputs, build_scorer, prepare_inputs

FAST = io.InputOutput(
    seeds=1, inputs=2, items=20, history=5, input_dims=3, output_dims=2,
    estimator=EstimatorSettings(steps=20, check=10, batch=32, width=8, resamples=20),
)  # fmt: skip
TRAINING = {"epochs": 1, "epoch_examples": 64}


def config(method: str = "Popularity", **settings: object) -> RunConfig:
    return RunConfig.model_validate({"method": method, "dataset": "synthetic", "preset": "quick", **settings})


@pytest.fixture(scope="module")
def inputs(_private_folders: Path) -> Inputs:
    return prepare_inputs(config())


@pytest.fixture(scope="module")
def popularity(inputs: Inputs) -> Scorer:
    return build_scorer(inputs.config, "cpu").eval()


class Parity:
    """Knows nothing but whether the item's id is even, and the user's."""

    def __init__(self, scorer: Scorer) -> None:
        self.card, self.history_length = scorer.card, scorer.history_length

    def parameters(self) -> list[Tensor]:
        return []

    buffers = parameters

    def score(self, batch: Batch) -> Tensor:
        return (batch.candidates % 2).float() * (1 - 2 * (batch.user[:, None] % 2))


@pytest.mark.parametrize("task", ["rec", "src"])
def test_a_positive_and_a_negative_of_every_test_query(inputs: Inputs, popularity: Scorer, task: str) -> None:
    found, other = io.relevance(popularity, inputs, task), io.relevance(Parity(popularity), inputs, task)
    rows, items, positive = inputs.candidates.of(Split.TEST, task)
    assert len(found.x) == len(found.y) == 2 * len(rows)
    assert np.array_equal(found.y, other.y) and np.array_equal(found.users, other.users)
    counts = inputs.corpus.popularity[items]
    for i in (0, 3, len(rows) - 1):
        for place, label in ((i, 1), (len(rows) + i, 0)):
            assert found.y[place] == label and found.users[place] == inputs.dataset.column("user")[rows[i]]
        scores = (counts[i] - counts[i].mean()) / counts[i].std()
        assert found.x[i, 0] == pytest.approx(scores[positive[i]], abs=1e-5)
        negatives = np.delete(scores, positive[i])
        assert np.abs(negatives - found.x[len(rows) + i, 0]).min() < 1e-5


def test_the_negative_is_not_the_positive(inputs: Inputs, popularity: Scorer) -> None:
    class Known(Parity):
        def score(self, batch: Batch) -> Tensor:
            rows, items, positive = inputs.candidates.of(Split.TEST, "src")
            targets = dict(zip(inputs.dataset.column("user")[rows], items[np.arange(len(rows)), positive], strict=True))
            return (batch.candidates == torch.tensor([targets[u] for u in batch.user.tolist()])[:, None]).float()

    found = io.relevance(Known(popularity), inputs, "src")
    assert (found.x[found.y == 1] > 5).all() and (found.x[found.y == 0] < 0).all()
    value = over_seeds(found.x, found.y, "KSG", (0,), groups=found.users).value
    assert value == pytest.approx(io.LN2, abs=0.05)


@pytest.mark.parametrize("task", ["rec", "src"])
def test_inputs_are_described_from_what_came_before(inputs: Inputs, task: str) -> None:
    rows = io._targets(inputs, task, 2)
    events = inputs.dataset.events
    assert (events["task"].to_numpy()[rows] == {"rec": Task.REC, "src": Task.SRC}[task]).all()
    assert events.iloc[rows].groupby("user").size().max() == 2 and len(np.unique(rows)) == len(rows)
    found = io._description(inputs, rows, task, FAST)
    corpus = inputs.corpus
    vectors = text_vectors([*corpus.item_texts, *corpus.query_texts], "lsa")
    for i in (0, len(rows) // 2, len(rows) - 1):
        row = events.iloc[rows[i]]
        before = events[(events["user"] == row["user"]) & (events["time"] < row["time"])].tail(FAST.history)
        expected = vectors[before["item"].to_numpy()].mean(0)
        if task == "src":
            expected = np.r_[expected, vectors[len(corpus.item_texts) + row["query"]]]
        assert np.allclose(found[i], expected, atol=1e-5)


def test_the_output_is_the_same_items_for_every_method(inputs: Inputs, popularity: Scorer) -> None:
    found = io.response(Parity(popularity), inputs, "rec", FAST)
    assert found.x.shape == (len(found.users), 3) and found.y.shape == (len(found.users), 2)
    # Scores know the user's parity alone: one component, two values, by parity.
    even = found.users % 2 == 0
    assert np.ptp(found.y[even, 0]) < 1e-9 and np.ptp(found.y[~even, 0]) < 1e-9
    assert abs(found.y[even, 0][0] - found.y[~even, 0][0]) > 1 and np.allclose(found.y[:, 1], 0)
    assert np.array_equal(found.x, io.response(popularity, inputs, "rec", FAST).x)


def test_one_ranking_for_everybody_shares_nothing_with_the_input(inputs: Inputs, popularity: Scorer) -> None:
    found = io.response(popularity, inputs, "rec", FAST)
    assert np.allclose(found.y, 0)
    for name in ESTIMATORS:
        assert abs(over_seeds(found.x, found.y, name, (0,), groups=found.users, settings=FAST.estimator).value) < 0.1


def test_shuffled_pairs_keep_both_margins(inputs: Inputs, popularity: Scorer) -> None:
    found = io.relevance(popularity, inputs, "rec")
    torn = found.shuffled(0)
    assert np.array_equal(torn.x, found.x) and torn.y.sum() == found.y.sum() and (torn.y != found.y).any()


def test_unknown_quantities_are_refused(inputs: Inputs, popularity: Scorer) -> None:
    with pytest.raises(UnknownNameError, match="quantity"):
        io.pairs(popularity, inputs, "rec", "score", FAST)


@pytest.fixture(scope="module")
def table(_private_folders: Path) -> pd.DataFrame:
    configs = [config("UniSAR", seed=seed, training=TRAINING) for seed in (0, 1)]
    return io.information([*configs, config(), config(seed=1)], FAST, device="cpu")


def test_every_run_control_task_and_estimator_has_a_row(table: pd.DataFrame) -> None:
    own = table[table["against"] == ""]
    assert not own.duplicated(["method", "control", "task", "quantity", "estimator", "seed"]).any()
    cells = 2 * len(io.QUANTITIES) * len(ESTIMATORS)
    sizes = own.groupby(["method", "control", "seed"]).size().to_dict()
    kinds = [("UniSAR", "trained", 0), ("UniSAR", "untrained", 0), ("UniSAR", "shuffled", 0), ("UniSAR", "trained", 1)]
    kinds += [("Popularity", "trained", 0), ("Popularity", "shuffled", 0), ("Popularity", "trained", 1)]
    assert sizes == dict.fromkeys(kinds, cells)
    assert np.isfinite(own[["value", "low", "high"]]).all(axis=None)
    assert (own["trained_on"].isna() == (own["estimator"] == "KSG")).all()


def test_differences_are_of_trained_runs_of_one_seed(table: pd.DataFrame) -> None:
    apart = table[table["against"] != ""]
    assert set(zip(apart["method"], apart["against"], strict=True)) == {("UniSAR", "Popularity")}
    key = ["task", "quantity", "estimator", "seed"]
    own = table[(table["against"] == "") & (table["control"] == "trained")]
    wide = own.pivot(index=key, columns="method", values="value")
    found = apart.set_index(key)["value"]
    assert len(found) == len(wide)
    assert np.allclose(found, (wide["UniSAR"] - wide["Popularity"]).loc[found.index])


def test_the_table_is_kept(table: pd.DataFrame, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(io, "_information", lambda *_: pytest.fail("computed again"))
    configs = [config("UniSAR", seed=seed, training=TRAINING) for seed in (0, 1)]
    again = io.information([*configs, config(), config(seed=1)], FAST, device="cpu")
    pd.testing.assert_frame_equal(again, table)
