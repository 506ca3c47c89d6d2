"""Conflict inside and outside the shared subspace: numbers against plain backward passes and loops."""

from __future__ import annotations

import numpy as np
import pandas as pd
import pytest
import torch

from tests.training.covered import CoveredScorer, covered_scorer
from tests.training.tiny import tiny_batch
from unisr.analysis.gradient_conflict import Watched
from unisr.analysis.subspace_conflict import OTHER_BATCH, SubspaceConflictSettings, measure, subspace_conflict
from unisr.config import RunConfig, TrainConfig
from unisr.data.batches import Batch
from unisr.errors import ConfigError
from unisr.random import generator

RANKS = (2, 5, 64)


def halves(name: str) -> tuple[Batch, Batch]:
    rng = generator(0, name)
    return tiny_batch(rng), tiny_batch(rng)


def plain(scorer: CoveredScorer, pair: tuple[Batch, Batch], layer: str) -> dict[tuple[str, int], np.ndarray]:
    """One backward pass of one term at a time, [o, i]."""
    found = {}
    for half, batch in enumerate(pair):
        for task in ("rec", "src"):
            scorer.zero_grad()
            scorer.losses(batch)[task].backward()
            found[task, half] = scorer.covered()[layer].weight.grad.double().numpy().copy()
    return found


def cosine(a: np.ndarray, b: np.ndarray) -> float:
    return float((a * b).sum() / np.linalg.norm(a) / np.linalg.norm(b))


@pytest.fixture(scope="module")
def table() -> pd.DataFrame:
    return measure(covered_scorer(), halves("measured"), halves("other"), RANKS)


@pytest.mark.parametrize("layer", ["square", "up", "down"])
@pytest.mark.parametrize("rank", [2, 5])
def test_inside_and_outside_against_plain_projections(table: pd.DataFrame, layer: str, rank: int) -> None:
    scorer = covered_scorer()
    found, source = plain(scorer, halves("measured"), layer), plain(scorer, halves("other"), layer)
    shared = sum(source.values()) / 4
    u, s, vt = np.linalg.svd(shared, full_matrices=False)
    tall = shared.shape[0] >= shared.shape[1]

    def inside(g: np.ndarray) -> np.ndarray:
        return g @ vt[:rank].T @ vt[:rank] if tall else u[:, :rank] @ u[:, :rank].T @ g

    rows = table[(table["layer"] == layer) & (table["rank"] == rank)].set_index("space")
    for space, part in (("inside", inside), ("outside", lambda g: g - inside(g))):
        own = {key: part(g) for key, g in found.items()}
        rec, src = ((own[task, 0] + own[task, 1]) / 2 for task in ("rec", "src"))
        energy = [np.mean([(own["rec", h] ** 2).sum() / (found["rec", h] ** 2).sum() for h in (0, 1)])]
        expected = {
            "cosine": cosine(rec, src), "noise_rec": cosine(own["rec", 0], own["rec", 1]),
            "across": (cosine(own["rec", 0], own["src", 1]) + cosine(own["rec", 1], own["src", 0])) / 2,
            "energy_rec": energy[0],
        }  # fmt: skip
        assert rows.loc[space, list(expected)].to_dict() == pytest.approx(expected, rel=1e-3, abs=1e-4)
    assert rows.loc["inside", "energy_own"] == pytest.approx((s[:rank] ** 2).sum() / (s**2).sum(), rel=1e-4)
    assert rows.loc["inside", "random"] == rank / min(shared.shape)


def test_the_whole_space_is_what_gradient_conflict_says(table: pd.DataFrame) -> None:
    found = plain(covered_scorer(), halves("measured"), "up")
    row = table[(table["layer"] == "up") & (table["space"] == "whole")].iloc[0]
    rec, src = ((found[task, 0] + found[task, 1]) / 2 for task in ("rec", "src"))
    assert row["cosine"] == pytest.approx(cosine(rec, src), abs=1e-5)
    assert row["rank"] == 0 and row["energy_rec"] == row["energy_own"] == row["random"] == 1


def test_all_layers_and_whole_ranks(table: pd.DataFrame) -> None:
    assert set(table["layer"]) == {"square", "up", "down", "all"} and len(table) == 4 * (1 + 2 * len(RANKS))
    full = table[table["rank"] == 64].set_index(["layer", "space"])
    assert full.xs("inside", level="space")[["energy_rec", "energy_own", "random"]].to_numpy() == pytest.approx(1)
    assert full.xs("outside", level="space")[["energy_rec", "random"]].to_numpy() == pytest.approx(0)
    assert full.xs("outside", level="space")["cosine"].isna().all()
    part = table[(table["space"] == "inside") & (table["rank"] < 64)]
    assert (part["energy_own"] >= part["random"] - 1e-9).all()
    inside, outside = (table[(table["space"] == s) & (table["rank"] == 2)] for s in ("inside", "outside"))
    for column in ("energy_rec", "energy_src", "energy_own", "random"):
        assert inside[column].to_numpy() + outside[column].to_numpy() == pytest.approx(1)


def test_bases_of_the_same_batch_hold_more_than_those_of_another(table: pd.DataFrame) -> None:
    """Why bases come from another batch: the measured one would flatter the rank."""
    same = measure(covered_scorer(), halves("measured"), halves("measured"), RANKS)
    chosen = (table["layer"] == "all") & (table["space"] == "inside") & (table["rank"] == 2)
    assert float(same[chosen]["energy_rec"].iloc[0]) > float(table[chosen]["energy_rec"].iloc[0])


def test_probes_draw_two_batches_each_and_leave_the_training_as_it_was() -> None:
    drawn: list[int] = []

    class Batches:
        def __getitem__(self, number: int) -> tuple[Batch, Batch]:
            drawn.append(number)
            return halves(str(number))

    class Loader:
        steps = 4

        def epoch(self, epoch: int) -> list[Batch]:
            rng = generator(0, "epoch", epoch)
            return [tiny_batch(rng) for _ in range(self.steps)]

    from unisr.training import train

    config = TrainConfig(epochs=2, subspace={"rank": 4, "gap": 3})
    plainly, watched = covered_scorer(), covered_scorer()
    train(plainly, Loader(), config, seed=0)
    probes = Watched(Loader(), watched, Batches(), 3, config,
                     lambda s, b, n: measure(s, b[n], b[OTHER_BATCH + n], (2,)))  # fmt: skip
    train(watched, probes, config, seed=0)
    assert all(torch.equal(v, watched.state_dict()[k]) for k, v in plainly.state_dict().items())
    assert drawn == [0, OTHER_BATCH, 1, OTHER_BATCH + 1, 2, OTHER_BATCH + 2]
    frame = probes.frame()
    assert sorted(set(frame["step"])) == [0, 4, 7] and len(frame) == 3 * 4 * 3


def test_a_method_that_covers_nothing_is_refused() -> None:
    config = RunConfig(method="UniSAR", dataset="synthetic", preset="quick")
    with pytest.raises(ConfigError, match="covers no weights"):
        subspace_conflict(config, SubspaceConflictSettings())
