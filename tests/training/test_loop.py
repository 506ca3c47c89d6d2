"""The loop: what it minimises, when it stops, what it logs, what it refuses."""

from __future__ import annotations

import math
from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path

import pytest
import torch
from torch import Tensor

from tests.training.tiny import TinyLoader, TinyScorer, tiny_batch, tiny_scorer, tiny_validation
from unisr.config import ModelConfig, TrainConfig
from unisr.data.batches import Batch
from unisr.errors import ConfigError, UnisrError
from unisr.models.base import build
from unisr.random import generator
from unisr.training import train
from unisr.training.loop import _groups


def weights(scorer: TinyScorer) -> dict[str, Tensor]:
    return {k: v.clone() for k, v in scorer.state_dict().items()}


def test_learns_and_logs_every_epoch(scorer: TinyScorer, loader: TinyLoader) -> None:
    config = TrainConfig(epochs=8, learning_rate=0.05, patience=8)
    log = train(scorer, loader, config, seed=0, validate=lambda: tiny_validation(scorer)).frame()
    assert log["epoch"].tolist() == list(range(1, 9))
    assert log["loss"].iloc[-1] < 0.8 * log["loss"].iloc[0]
    assert {
        "loss_rec", "loss_src", "learning_rate", "gradient_norm", "seconds", "examples_per_second",
        "validation_rec_NDCG@5", "validation_src_NDCG@5",
    } <= set(log)  # fmt: skip
    assert (log["gradient_norm"] > 0).all()
    assert log["loss"].to_numpy() == pytest.approx((log["loss_rec"] + log["loss_src"]).to_numpy(), rel=1e-5)


def test_same_seed_same_weights_and_the_global_generator_is_untouched(loader: TinyLoader) -> None:
    first, second, other = tiny_scorer(), tiny_scorer(), tiny_scorer()
    before = torch.get_rng_state()
    train(first, loader, TrainConfig(epochs=2), seed=0)
    assert torch.equal(before, torch.get_rng_state())
    torch.rand(7)
    train(second, loader, TrainConfig(epochs=2), seed=0)
    train(other, loader, TrainConfig(epochs=2), seed=1)
    assert torch.equal(first.items.weight, second.items.weight)
    assert not torch.equal(first.items.weight, other.items.weight), "dropout must follow the seed"
    assert not torch.are_deterministic_algorithms_enabled()


def test_best_epoch_is_restored_and_patience_stops(scorer: TinyScorer, loader: TinyLoader) -> None:
    values = iter([0.1, 0.3, 0.2, 0.3, 0.25, 0.9])
    seen: list[dict[str, Tensor]] = []

    def validate() -> dict[str, float]:
        assert not scorer.training
        seen.append(weights(scorer))
        value = next(values)
        return {"rec_NDCG@5": value - 0.05, "src_NDCG@5": value + 0.05, "rec_MRR": 1 / value}

    log = train(scorer, loader, TrainConfig(epochs=9, patience=3), seed=0, validate=validate)
    assert len(log.rows) == 5 and log.best_epoch == 2
    assert all(torch.equal(v, seen[1][k]) for k, v in scorer.state_dict().items())
    assert not torch.equal(seen[1]["items.weight"], seen[2]["items.weight"])


def test_without_validation_all_epochs_run_and_the_last_weights_stay(scorer: TinyScorer, loader: TinyLoader) -> None:
    log = train(scorer, loader, TrainConfig(epochs=7, patience=1), seed=0)
    assert len(log.rows) == 7 and log.best_epoch == 7
    assert not scorer.training


def test_accumulated_small_batches_equal_one_large_batch() -> None:
    """Two optimisers' paths agree when the loss is a mean over rows and dropout and norm are off."""

    class Plain(TinyScorer):
        def losses(self, batch: Batch) -> dict[str, Tensor]:
            self.eval()
            return {"all": torch.nn.functional.cross_entropy(self.score(batch), batch.labels.argmax(1))}

    class Whole:
        steps = 3

        def epoch(self, epoch: int) -> Iterator[Batch]:
            rng = generator(0, "accumulation", epoch)
            yield from (tiny_batch(rng, rows=32) for _ in range(self.steps))

    class Halves(Whole):
        steps = 6

        def epoch(self, epoch: int) -> Iterator[Batch]:
            for batch in Whole().epoch(epoch):
                yield from (batch.select(torch.arange(16)), batch.select(torch.arange(16, 32)))

    results = []
    for loader, accumulation in ((Whole(), 1), (Halves(), 2)):
        torch.manual_seed(0)
        scorer = Plain(TinyScorer.Config())
        train(scorer, loader, TrainConfig(epochs=2, accumulation=accumulation, clip_norm=None), seed=0)
        results.append(scorer.items.weight)
    torch.testing.assert_close(results[0], results[1], rtol=1e-4, atol=1e-5)


def test_last_short_window_is_stepped(scorer: TinyScorer) -> None:
    before = weights(scorer)
    train(scorer, TinyLoader(steps=1), TrainConfig(epochs=1, accumulation=4), seed=0)
    assert not torch.equal(before["items.weight"], scorer.items.weight)


def test_clipping_bounds_the_step(loader: TinyLoader) -> None:
    """With one step of plain size the norm logged is the one before clipping, the applied one is smaller."""
    free, clipped = tiny_scorer(), tiny_scorer()
    one = TinyLoader(steps=1)
    logged = [
        train(s, one, TrainConfig(epochs=1, clip_norm=c), seed=0).rows[0]["gradient_norm"]
        for s, c in ((free, None), (clipped, 1e-9))
    ]
    start = tiny_scorer().items.weight
    assert logged[0] == logged[1] > 1e-3
    assert (free.items.weight - start).norm() > 10 * (clipped.items.weight - start).norm()


def test_decay_only_on_matrices(scorer: TinyScorer) -> None:
    decayed, plain = _groups(scorer, TrainConfig(weight_decay=0.1))
    assert (decayed["weight_decay"], plain["weight_decay"]) == (0.1, 0.0)
    assert [p.shape for p in decayed["params"]] == [scorer.items.weight.shape]
    assert len(plain["params"]) == 3 and all(p is not scorer.frozen for p in plain["params"])


def test_fused_step_raises_the_version_counter(scorer: TinyScorer) -> None:
    """Scorers cache tables by this counter (LightGCN does)."""
    before = scorer.items.weight._version
    train(scorer, TinyLoader(steps=1), TrainConfig(epochs=1), seed=0)
    assert scorer.items.weight._version > before


@pytest.mark.parametrize("place", [3, 60])
def test_non_finite_loss_names_epoch_batch_and_terms(place: int) -> None:
    class Diverging(TinyScorer):
        calls = 0

        def losses(self, batch: Batch) -> dict[str, Tensor]:
            self.calls += 1
            terms = super().losses(batch)
            return {**terms, "extra": terms["rec"] * (math.inf if self.calls == 80 + place else 1)}

    with pytest.raises(UnisrError, match=rf"epoch 2, batch {place}: .*loss_rec = .*loss_extra = inf.*learning_rate"):
        train(Diverging(TinyScorer.Config()), TinyLoader(steps=80), TrainConfig(epochs=3), seed=0)


def test_scorer_without_parameters_is_not_trained(scorer: TinyScorer, loader: TinyLoader) -> None:
    scorer.requires_grad_(False)
    before = weights(scorer)
    log = train(scorer, loader, TrainConfig(epochs=3), seed=0)
    assert log.rows == [] and log.best_epoch == 0
    assert all(torch.equal(v, before[k]) for k, v in scorer.state_dict().items())


def test_bf16_and_full_precision_in_one_process(loader: TinyLoader) -> None:
    dtypes = []

    class Watching(TinyScorer):
        def losses(self, batch: Batch) -> dict[str, Tensor]:
            dtypes.append(torch.nn.functional.linear(self.items.weight, self.items.weight).dtype)
            return super().losses(batch)

    for precision in ("bf16", "no"):
        train(Watching(TinyScorer.Config()), TinyLoader(steps=1), TrainConfig(epochs=1, precision=precision), seed=0)
    assert dtypes == [torch.bfloat16, torch.float32]


def test_refusals(scorer: TinyScorer, loader: TinyLoader) -> None:
    with pytest.raises(ConfigError, match="plateau"):
        train(scorer, loader, TrainConfig(epochs=1, schedule="plateau"), seed=0)
    with pytest.raises(ConfigError, match="NDCG@5"):
        train(scorer, loader, TrainConfig(epochs=1), seed=0, validate=lambda: {"rec_MRR": 0.5})
    with pytest.raises(ConfigError, match="cpu, cuda"):
        train(scorer, loader, TrainConfig(epochs=1), seed=0, device="cuda:7")
    with pytest.raises(ConfigError, match="batch_size"):
        train(scorer, TinyLoader(steps=0), TrainConfig(epochs=1), seed=0)


def test_scorers_are_told_every_epoch(loader: TinyLoader) -> None:
    told = []

    class Staged(TinyScorer):
        def start_epoch(self, epoch: int, epochs: int) -> None:
            told.append((epoch, epochs))

    train(Staged(tiny_scorer().config), loader, TrainConfig(epochs=3), seed=0)
    assert told == [(0, 3), (1, 3), (2, 3)]


class Failing(TinyScorer):
    """In its batch number `at`, over all epochs, the loss is infinite, or memory does not suffice."""

    at, calls, lacks_memory = 0, 0, False

    def losses(self, batch: Batch) -> dict[str, Tensor]:
        self.calls += 1
        if self.calls == self.at and self.lacks_memory:
            torch.empty(1 << 60)
        return {k: v * (math.inf if self.calls == self.at else 1) for k, v in super().losses(batch).items()}


def failing(at: int, *, lacks_memory: bool = False) -> Failing:
    scorer = build(Failing, ModelConfig(), None, seed=0)
    scorer.at, scorer.lacks_memory = at, lacks_memory
    return scorer


class Numbered(TinyLoader):
    """Batch n of an epoch is of the users 100 n, 100 n + 1, …"""

    def epoch(self, epoch: int) -> Iterator[Batch]:
        for number, batch in enumerate(super().epoch(epoch), start=1):
            yield replace(batch, user=100 * number + torch.arange(len(batch)))


def test_a_non_finite_loss_names_users_and_items_of_its_batch() -> None:
    batch = list(Numbered().epoch(1))[4 - 1]
    items = sorted(set(batch.candidates[:, 0].tolist()))[:8]
    expected = rf"epoch 2, batch 4: .*\(users 400, 401, .* 407, … 16 in all; items {', '.join(map(str, items))}"
    with pytest.raises(UnisrError, match=expected):
        train(failing(6 + 4), Numbered(), TrainConfig(epochs=3), seed=0)


@pytest.mark.parametrize("lacks_memory", [False, True])
def test_what_stops_a_training_leaves_the_last_good_checkpoint(tmp_path: Path, lacks_memory: bool) -> None:
    """An epoch later, a training from there ends as one that nothing stopped."""
    config, whole = TrainConfig(epochs=3), failing(0)
    train(whole, TinyLoader(), config, seed=0)
    with pytest.raises(UnisrError, match="batch_size" if lacks_memory else "diverged"):
        train(failing(6 + 4, lacks_memory=lacks_memory), TinyLoader(), config, seed=0, checkpoints=tmp_path)
    assert [path.name for path in tmp_path.iterdir()] == ["epoch-0001"]
    resumed = failing(0)
    train(resumed, TinyLoader(), config, seed=0, checkpoints=tmp_path)
    assert torch.equal(resumed.items.weight, whole.items.weight)
