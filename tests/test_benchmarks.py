"""The benchmark commands measure what they say, on small sizes."""

from __future__ import annotations

import pytest
import torch

from unisr.benchmarks import layouts, optimizers, ranking
from unisr.data.batches import Batch
from unisr.models.joint import GenSR
from unisr.paths import results_dir


@pytest.fixture
def small_catalog(monkeypatch: pytest.MonkeyPatch) -> None:
    for name, value in {"ITEMS": 60, "QUERIES": 10, "WORDS": 80, "VOCABULARY": 4000, "OFFICIAL_USERS": 1}.items():
        monkeypatch.setattr(ranking, name, value)


def test_every_path_ranks_and_trains(small_catalog: None) -> None:
    for path in ranking.build_paths().values():
        assert path.rank().shape == (path.users, ranking.CANDIDATES)
        before = path.model.projection.weight.clone()
        path.train()
        assert not torch.equal(path.model.projection.weight, before)


def test_the_check_of_equal_scores_can_fail(small_catalog: None, monkeypatch: pytest.MonkeyPatch) -> None:
    model = ranking.build_paths()["naive"].model
    ranking.check_equal(model)
    scored = GenSR.score
    monkeypatch.setattr(GenSR, "score", lambda self, batch: scored(self, batch) + batch.candidates / 1000)
    with pytest.raises(AssertionError):
        ranking.check_equal(model)


def test_naive_rows_hold_one_candidate_each() -> None:
    batch: Batch = ranking.random_batch(3, 4)
    rows = ranking.explode(batch)
    assert rows.candidates.shape == rows.labels.shape == (12, 1)
    assert torch.equal(rows.candidates.view(3, 4), batch.candidates)
    assert torch.equal(rows.items.view(3, 4, -1)[:, 2], batch.items)


def test_layouts_are_compared_on_the_same_queries(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(layouts, "BUDGET", {"epochs": 1, "epoch_examples": 64})
    monkeypatch.setattr(layouts, "PRESET", "quick")
    tidy = layouts.compare_layouts("synthetic", seeds=2, jobs=1)
    assert set(tidy["method"]) == {"joint", "packed"} and set(tidy["task"]) == {"rec", "src"}
    assert (tidy["seeds"] == 2).all() and tidy["n"].nunique() <= 2
    assert (tidy["rows_per_second"] > 0).all()
    assert (results_dir() / "synthetic" / "quick" / "tables" / "layouts.md").exists()


def test_optimizers_are_compared_on_the_same_gradients(monkeypatch: pytest.MonkeyPatch) -> None:
    """The bytes are checked against the formula within, and are at most half of AdamW's at a rank of s / 8."""
    monkeypatch.setattr(optimizers, "WORDS", 64)
    world = optimizers.build("testbed", layers=1, rows=2, tokens=6)
    rows = {row["optimizer"]: row for row in optimizers.measure(world, gap=50, steps=1)}
    covered = sum(weight.numel() for weight in world.covered)
    assert rows["AdamW"]["bytes"] == covered * 8 and rows["AdamW"]["ratio"] == rows["AdamW"]["share"] == 1
    assert all(row["share"] <= 0.5 for name, row in rows.items() if name != "AdamW")
    assert rows["GEMS, bf16"]["bytes"] * 2 == rows["GEMS, svd"]["bytes"] == rows["GaLore, svd"]["bytes"] * 2
    monkeypatch.setattr(optimizers, "state_numbers", lambda weight, settings: 1)
    with pytest.raises(AssertionError, match="by the formula"):
        optimizers.measure(world, gap=50, steps=1)
