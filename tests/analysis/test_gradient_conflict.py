"""Gradient conflict: numbers against plain backward passes, paired batches, and trainings that do not notice."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pandas as pd
import pytest
import torch
from torch import Tensor

from tests.contract import Setting
from tests.training.tiny import TinyLoader, TinyScorer, tiny_batch, tiny_scorer
from unisr import registry
from unisr.analysis import gradient_conflict
from unisr.analysis.gradient_conflict import (
    ConflictSettings,
    PairedBatches,
    Watched,
    conflict,
    groups,
    measure,
    ratios,
    watch,
)
from unisr.config import RunConfig, TrainConfig
from unisr.data.batches import Batch
from unisr.data.schema import Dataset, Split
from unisr.errors import ConfigError
from unisr.models.base import Scorer
from unisr.random import generator
from unisr.run import Inputs, prepare_inputs
from unisr.training import train

NUMBERS = ["cosine", "across", "within", "noise_rec", "noise_src", "norm_ratio"]


@pytest.fixture
def halves() -> tuple[Batch, Batch]:
    rng = generator(0, "halves")
    return tiny_batch(rng), tiny_batch(rng)


def cosine(a: np.ndarray, b: np.ndarray) -> float:
    return float(a @ b / np.linalg.norm(a) / np.linalg.norm(b))


def test_ratios_of_four_vectors() -> None:
    ra, rb, sa, sb = vectors = generator(0, "ratios").normal(size=(4, 7)) + [[0], [1], [2], [0]]
    found = ratios(torch.from_numpy(vectors @ vectors.T))
    rec, src = (ra + rb) / 2, (sa + sb) / 2
    expected = {
        "cosine": cosine(rec, src), "across": (cosine(ra, sb) + cosine(rb, sa)) / 2,
        "within": (cosine(ra, sa) + cosine(rb, sb)) / 2,
        "noise_rec": cosine(ra, rb), "noise_src": cosine(sa, sb),
        "norm_ratio": float(np.linalg.norm(src) / np.linalg.norm(rec)),
    }  # fmt: skip
    assert found == pytest.approx(expected, rel=1e-9)


def plain_gradients(scorer: Scorer, batch: Batch, task: str, names: list[str]) -> np.ndarray:
    """One backward pass of one term, flattened."""
    scorer.eval().zero_grad()
    torch.manual_seed(0)
    scorer.losses(batch)[task].backward()
    named = dict(scorer.named_parameters())
    return np.concatenate([named[name].grad.double().numpy().ravel() for name in names])


@pytest.mark.parametrize("method", ["UniSAR", "GenSR"])
def test_parts_against_plain_backward_passes(inputs: Inputs, world: Dataset, method: str) -> None:
    scorer = Setting(world, registry.method(method)).build()
    first, second = PairedBatches(inputs, scorer, ConflictSettings(users=8))[0]
    table = measure(scorer, (first, second)).set_index(["kind", "part"])
    (layer,) = table.index[table["paper"]]
    layer_names = [name for name, _ in scorer.named_parameters() if name.startswith(f"{layer[1]}.")]
    for part, names in {layer: layer_names, ("group", "embeddings"): groups(scorer)[("group", "embeddings")]}.items():
        whole = {
            (task, half): plain_gradients(scorer, batch, task, names)
            for task in ("rec", "src") for half, batch in enumerate((first, second))
        }  # fmt: skip
        rec, src = (whole[task, 0] + whole[task, 1] for task in ("rec", "src"))
        row = table.loc[part]
        assert row["cosine"] == pytest.approx(cosine(rec, src), abs=1e-4)
        assert row["noise_rec"] == pytest.approx(cosine(whole["rec", 0], whole["rec", 1]), abs=1e-4)
        assert row["norm_ratio"] == pytest.approx(np.linalg.norm(src) / np.linalg.norm(rec), rel=1e-3)


@pytest.mark.parametrize("sign, cos", [(1.0, 1.0), (-1.0, -1.0)])
def test_tasks_that_agree_and_tasks_that_oppose(halves: tuple[Batch, Batch], sign: float, cos: float) -> None:
    class Signed(TinyScorer):
        def losses(self, batch: Batch) -> dict[str, Tensor]:
            term = super().losses(batch)["rec"]
            return {"rec": term, "src": 3 * sign * term, "contrastive": term * 100}

    scorer = Signed(tiny_scorer().config)
    table = measure(scorer, halves)
    assert table["cosine"].to_numpy() == pytest.approx(cos)
    assert table["norm_ratio"].to_numpy() == pytest.approx(3.0)
    assert table["noise_rec"].to_numpy() == pytest.approx(table["noise_src"].to_numpy())
    assert table["within"].to_numpy() == pytest.approx(cos)
    assert table["across"].to_numpy() == pytest.approx(sign * table["noise_rec"].to_numpy())
    assert not table["paper"].any(), "a scorer without attention has groups alone"


def test_one_task_s_own_parameters_count_nowhere(world: Dataset, inputs: Inputs) -> None:
    scorer = Setting(world, registry.method("UniSAR")).build()
    table = measure(scorer, PairedBatches(inputs, scorer, ConflictSettings(users=8))[0])
    assert "heads" not in set(table["part"]) and "ple" in set(table["part"])
    parts = groups(scorer)
    trainable = {name for name, _ in scorer.named_parameters()}
    split = [set(parts["group", name]) for name in ("embeddings", "attention", "others")]
    assert set.union(*split) == trainable and sum(map(len, split)) == len(trainable), "every parameter once"
    assert set(parts["group", "without embeddings"]) == split[1] | split[2]
    sizes = table.set_index("part")["parameters"]
    assert sizes["all"] == sizes["embeddings"] + sizes["attention"] + sizes["others"]


def test_measuring_leaves_everything_as_it_was(halves: tuple[Batch, Batch]) -> None:
    scorer = tiny_scorer().train()
    scorer.norm.eval()
    before, state = torch.get_rng_state(), {k: v.clone() for k, v in scorer.state_dict().items()}
    measure(scorer, halves)
    assert torch.equal(torch.get_rng_state(), before)
    assert scorer.training and not scorer.norm.training
    assert all(torch.equal(v, scorer.state_dict()[k]) for k, v in state.items())
    assert all(p.grad is None for p in scorer.parameters())


class Drawn:
    """Paired batches of the tiny world."""

    def __getitem__(self, number: int) -> tuple[Batch, Batch]:
        rng = generator(0, "drawn", number)
        return tiny_batch(rng), tiny_batch(rng)


@pytest.mark.parametrize("accumulation", [1, 4])
def test_a_watched_training_ends_with_the_same_weights(accumulation: int) -> None:
    """Dropout, batch norm, accumulation: bit for bit."""
    config = TrainConfig(epochs=3, learning_rate=0.05, accumulation=accumulation)
    plain, seen = tiny_scorer(), tiny_scorer()
    train(plain, TinyLoader(), config, seed=0)
    watched = Watched(TinyLoader(), seen, Drawn(), 5, config)
    train(seen, watched, config, seed=0)
    assert all(torch.equal(value, seen.state_dict()[name]) for name, value in plain.state_dict().items())
    table = watched.frame()
    steps = 3 * -(-6 // accumulation)
    assert table["step"].unique().tolist() == np.unique(np.linspace(0, steps - 1, 5).round()).tolist()
    assert (table["epoch"] == table["step"] // (steps // 3) + 1).all()
    assert table.groupby("part")["cosine"].nunique().min() > 1, "the probes see the weights change"


@pytest.fixture
def results(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    monkeypatch.setenv("UNISR_RESULTS", str(tmp_path))
    return tmp_path


@pytest.fixture
def config(results: Path) -> RunConfig:
    return RunConfig(method="UniSAR", dataset="synthetic", preset="quick", training={"epoch_examples": 256})


@pytest.fixture(scope="module")
def inputs(_private_folders: Path) -> Inputs:
    return prepare_inputs(RunConfig(method="UniSAR", dataset="synthetic", preset="quick"))


def test_a_run_s_training_is_watched_and_kept(config: RunConfig, monkeypatch: pytest.MonkeyPatch) -> None:
    settings = ConflictSettings(probes=4, users=8, epochs=1, epoch_examples=128)
    first = conflict(config, settings, device="cpu")
    assert list(first)[:4] == ["method", "seed", "step", "epoch"] and {"kind", "part", *NUMBERS} <= set(first)
    assert set(first["trained_epochs"]) == {1} and set(first["epoch_examples"]) == {128}
    assert first["step"].unique().tolist() == [0, 1], "an epoch of two batches has two steps to probe"
    monkeypatch.setattr(gradient_conflict, "watch", lambda *_, **__: pytest.fail("computed again"))
    pd.testing.assert_frame_equal(conflict(config, settings), first)


def test_the_watched_run_is_the_real_training(config: RunConfig, monkeypatch: pytest.MonkeyPatch) -> None:
    """UniSAR draws random items in its losses: the weights that `watch` trains are those of a plain training."""
    scorers: list[Scorer] = []
    real = gradient_conflict.train

    def spy(scorer: Scorer, *rest: object, **options: object) -> object:
        scorers.append(scorer)
        return real(scorer, *rest, **options)

    monkeypatch.setattr(gradient_conflict, "train", spy)
    watch(config, ConflictSettings(probes=3, users=8, epochs=1), device="cpu")
    plain = gradient_conflict.build_scorer(config, "cpu")
    training = config.training.model_copy(update={"epochs": 1})
    train(plain, prepare_inputs(config).training(plain), training, seed=config.seed)
    assert all(torch.equal(value, plain.state_dict()[name]) for name, value in scorers[0].state_dict().items())


def test_paired_batches_hold_both_tasks_of_the_same_users(inputs: Inputs, world: Dataset) -> None:
    scorers = [Setting(world, registry.method(name)).build() for name in ("UniSAR", "JSR")]
    assert scorers[0].history_length != scorers[1].history_length
    settings = ConflictSettings(users=10, negatives=3)
    batches, others = (PairedBatches(inputs, scorer, settings) for scorer in scorers)
    seen: list[Tensor] = []
    column = inputs.dataset.column
    rows = np.concatenate([inputs.dataset.rows(Split.TRAIN, task) for task in (1, 2)])
    events = set(zip(*(column(name)[rows].tolist() for name in ("user", "task", "item")), strict=True))
    for half, other in zip(batches[2], others[2], strict=True):
        assert half.task.tolist() == [1] * 5 + [2] * 5
        assert half.user[:5].tolist() == half.user[5:].tolist()
        for name in ("user", "candidates", "labels", "query", "task"):
            assert torch.equal(getattr(half, name), getattr(other, name)), f"{name} is the same for all methods"
        seen.append(half.user[:5])
        positives = half.candidates[half.labels > 0]
        assert set(zip(half.user.tolist(), half.task.tolist(), positives.tolist(), strict=True)) <= events
    assert torch.cat(seen).unique().numel() == 10, "the halves share no user"
    assert not torch.equal(batches[3][0].user, batches[2][0].user)


@pytest.mark.parametrize("method, named", [("SASRec", "rec"), ("TEM", "src"), ("Query-SeqRec", "sequences")])
def test_methods_without_both_terms_are_refused(method: str, named: str, results: Path) -> None:
    config = RunConfig(method=method, dataset="synthetic", preset="quick")
    with pytest.raises(ConfigError, match=rf"{method} is trained on .*{named}.*joint"):
        conflict(config, ConflictSettings())


def test_a_missing_term_is_named(halves: tuple[Batch, Batch]) -> None:
    class Half(TinyScorer):
        def losses(self, batch: Batch) -> dict[str, Tensor]:
            return {"rec": super().losses(batch)["rec"], "alignment": torch.zeros(())}

    with pytest.raises(ConfigError, match="losses gave rec, alignment, not src"):
        measure(Half(tiny_scorer().config), halves)
