"""Negatives, stored candidates and loaders."""

from __future__ import annotations

import dataclasses
from pathlib import Path

import numpy as np
import pytest
import torch

from unisr.config import TrainConfig
from unisr.data.candidates import KINDS, N_NEGATIVES, draw_candidates, load_candidates
from unisr.data.histories import Histories
from unisr.data.loaders import EvaluationLoader, SequenceLoader, TrainLoader
from unisr.data.negatives import Sampler, popularity_weights
from unisr.data.schema import Dataset, Split, Task
from unisr.errors import ConfigError, DataError
from unisr.random import generator


def test_distinct_samples_are_unseen_and_uniform() -> None:
    user, item = np.array([1, 1, 2]), np.array([3, 4, 1])
    sampler = Sampler(2, 10, user, item)
    drawn = sampler.sample(generator(0), np.repeat([1, 2], 4000), 3, distinct=True)
    assert (np.diff(np.sort(drawn, axis=1), axis=1) > 0).all()
    counts = np.stack([np.bincount(d.ravel(), minlength=11) for d in (drawn[:4000], drawn[4000:])])
    assert counts[:, 0].sum() == counts[0, [3, 4]].sum() == counts[1, 1] == 0
    assert np.allclose(counts[0, [1, 2, 5, 6, 7, 8, 9, 10]] / 4000, 3 / 8, atol=0.04)
    assert np.allclose(counts[1, 2:] / 4000, 3 / 9, atol=0.04)


def test_all_unseen_items_can_be_asked_for_but_not_one_more() -> None:
    sampler = Sampler(1, 10, np.array([1, 1]), np.array([3, 4]))
    drawn = sampler.sample(generator(0), np.array([1]), 8, distinct=True)
    assert sorted(drawn[0].tolist()) == [1, 2, 5, 6, 7, 8, 9, 10]
    with pytest.raises(DataError, match="user 1 has 8 unseen items of 10, 9 negatives"):
        sampler.sample(generator(0), np.array([1]), 9, distinct=True)
    assert sampler.sample(generator(0), np.array([1]), 20, distinct=False).shape == (1, 20)


def test_weighted_samples_follow_the_weights() -> None:
    weights = np.array([9.0, 1, 0, 3])
    sampler = Sampler(1, 3, np.array([], dtype=int), np.array([], dtype=int), weights=weights)
    drawn = sampler.sample(generator(0), np.ones(8000, dtype=int), 1, distinct=False)
    assert np.allclose(np.bincount(drawn.ravel(), minlength=4) / 8000, [0, 0.25, 0, 0.75], atol=0.03)


@pytest.mark.parametrize("kind", KINDS)
def test_candidates_hold_one_positive_and_unseen_negatives(world: Dataset, kind: str) -> None:
    stored = draw_candidates(world, kind, 0).validate()
    assert stored.items.shape == (len(stored.rows), N_NEGATIVES + 1)
    rows, items, positive = stored.of(Split.TEST, "src")
    assert np.array_equal(rows, world.rows(Split.TEST, Task.SRC))
    assert np.array_equal(items[np.arange(len(rows)), positive], world.column("item")[rows])
    assert len(np.unique(positive)) > 40, "the positive stands in many columns"
    seen = {(u, i) for u, i in zip(world.column("user"), world.column("item"), strict=True)}
    for row, own, column in zip(rows, items, positive, strict=True):
        others = np.delete(own, column)
        assert len(set(others)) == N_NEGATIVES
        assert not any((world.column("user")[row], i) in seen for i in others)


def test_kinds_differ_as_their_names_say(movies: Dataset) -> None:
    drawn = {kind: draw_candidates(movies, kind, 0) for kind in KINDS}
    weights, category = popularity_weights(movies), movies.items["category"].to_numpy()
    mean = {k: weights[c.items].mean() for k, c in drawn.items()}
    assert mean["popularity"] > 1.5 * mean["uniform"]
    for task in ("rec", "src"):
        same = {}
        for kind, stored in drawn.items():
            rows, items, _ = stored.of(Split.TEST, task)
            same[kind] = (category[items] == category[movies.column("item")[rows]][:, None]).mean()
        assert same["hard"] > 3 * same["uniform"]


def test_hard_searches_match_their_query(movies: Dataset) -> None:
    rows, items, _ = draw_candidates(movies, "hard", 0).of(Split.TEST, "src")
    texts = [set(t.lower().split()) for t in movies.items["text"]]
    queries = [set(t.split()) for t in movies.queries["text"]]
    asked = movies.column("query")[rows]
    shared = [bool(queries[q] & texts[i]) for q, own in zip(asked, items, strict=True) for i in own]
    assert np.mean(shared) > 0.95


def test_candidates_are_stored_once_and_drawn_again_when_damaged(
    world: Dataset, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    monkeypatch.setenv("UNISR_DATA", str(tmp_path))
    first = load_candidates(world)
    (path,) = (tmp_path / "synthetic" / "candidates").iterdir()
    stamp = path.stat().st_mtime_ns
    assert np.array_equal(load_candidates(world).items, first.items) and path.stat().st_mtime_ns == stamp
    assert not np.array_equal(load_candidates(world, seed=1).items, first.items)
    path.write_bytes(path.read_bytes()[:-50])
    assert np.array_equal(load_candidates(world).items, first.items)
    assert "drawing again" in caplog.text
    with pytest.raises(ConfigError, match="uniform, popularity, hard"):
        load_candidates(world, "easy")


def test_candidates_of_another_dataset_are_refused(world: Dataset) -> None:
    stored = draw_candidates(world, "uniform", 0)
    broken = stored.items.copy()
    broken[3, (stored.positive[3] + 1) % 100] = broken[3, stored.positive[3]]
    with pytest.raises(DataError, match=f"event row {stored.rows[3]}: an item stands twice"):
        dataclasses.replace(stored, items=broken).validate()
    with pytest.raises(DataError, match="not the targets"):
        dataclasses.replace(stored, rows=stored.rows[::-1]).validate()


def tensors(batch: object) -> list[torch.Tensor]:
    return [v for v in vars(batch).values() if v is not None]


def equal(one: list, other: list) -> bool:
    pairs = list(zip(one, other, strict=True))
    return all(torch.equal(x, y) for a, b in pairs for x, y in zip(tensors(a), tensors(b), strict=True))


@pytest.mark.parametrize("kind", [TrainLoader, SequenceLoader])
def test_an_epoch_depends_on_seed_and_number_only(world: Dataset, kind: type) -> None:
    config = TrainConfig(batch_size=50, epoch_examples=400)
    histories = Histories(world)
    loader, other, different = (
        kind(world, histories, ("rec",), config=config, history_length=(8, 0), seed=s) for s in (5, 5, 6)
    )
    list(loader.epoch(0))
    assert equal(list(loader.epoch(3)), list(other.epoch(3)))
    assert not equal(list(loader.epoch(3)), list(loader.epoch(4)))
    assert not equal(list(loader.epoch(3)), list(different.epoch(3)))
    assert len(list(loader.epoch(3))) == loader.steps


def test_training_batches_share_tasks_and_hide_the_positive(world: Dataset) -> None:
    config = TrainConfig(batch_size=128, negatives=4)
    loader = TrainLoader(world, Histories(world), config=config)
    share = len(world.rows(Split.TRAIN, Task.REC)) / loader.examples
    columns = []
    kept = world.events[world.events["split"] == Split.TRAIN]
    trained = set(zip(kept["user"], kept["item"], strict=True))
    for batch in loader.epoch(0):
        assert batch.labels.sum(dim=1).tolist() == [1.0] * len(batch)
        assert abs((batch.task == Task.REC).float().mean().item() - share) < 2 / len(batch)
        assert batch.items.shape == batch.tasks.shape == batch.queries.shape == (len(batch), 60)
        assert ((batch.queries > 0) == (batch.tasks == Task.SRC)).all()
        columns.append(batch.labels.argmax(dim=1))
        negatives = batch.candidates[batch.labels == 0].reshape(len(batch), 4)
        pairs = zip(batch.user.repeat_interleave(4).tolist(), negatives.ravel().tolist(), strict=True)
        assert not any((user, item) in trained for user, item in pairs)
    assert torch.bincount(torch.cat(columns)).min() > 0.15 * loader.examples


def test_training_negatives_know_nothing_of_evaluation(world: Dataset) -> None:
    """A user's validation and test items are drawn as negatives like any item outside their training items."""
    loader = TrainLoader(world, Histories(world), config=TrainConfig(batch_size=10_000, negatives=50))
    (batch,) = loader.epoch(0)
    users = np.repeat(batch.user.numpy(), 50)
    drawn = set(zip(users.tolist(), batch.candidates[batch.labels == 0].tolist(), strict=True))
    own = {s: world.events[world.events["split"] == s][["user", "item"]].apply(tuple, axis=1) for s in Split}
    held_out = (set(own[Split.VALIDATION]) | set(own[Split.TEST])) - set(own[Split.TRAIN])
    assert len(held_out & drawn) > 0.95 * len(held_out)
    assert not drawn & set(own[Split.TRAIN])


def test_an_epoch_is_bounded_and_later_epochs_bring_other_positives(world: Dataset) -> None:
    loader = TrainLoader(world, Histories(world), config=TrainConfig(batch_size=64, epoch_examples=150))
    sizes = [len(b) for b in loader.epoch(0)]
    assert sizes == [64, 64, 22] and loader.steps == 3 and loader.examples == 150
    seen = [torch.cat([b.candidates[b.labels == 1] for b in loader.epoch(e)]).sort().values for e in (0, 1)]
    assert not torch.equal(*seen)
    only = TrainLoader(world, Histories(world), ("src",), config=TrainConfig(), history_length=(10, 0))
    batch = next(only.epoch(0))
    assert (batch.task == Task.SRC).all() and (batch.query > 0).all() and batch.items.shape[1] == 10


def test_sequence_epochs_are_bounded_by_targets_on_average(world: Dataset) -> None:
    histories, configs = Histories(world), [TrainConfig(batch_size=16, epoch_examples=n) for n in (None, 300)]
    whole, part = (SequenceLoader(world, histories, config=c, history_length=(8, 0)) for c in configs)
    count = [np.mean([sum((b.targets > 0).sum().item() for b in x.epoch(e)) for e in range(6)]) for x in (whole, part)]
    assert count[0] > 1000 and abs(count[1] - 300) < 40
    with pytest.raises(ConfigError, match="'rec' is missing"):
        SequenceLoader(world, Histories(world), ("src",), config=TrainConfig())


def test_sequence_offsets_change_with_the_epoch(world: Dataset) -> None:
    loader = SequenceLoader(world, Histories(world), config=TrainConfig(batch_size=10_000), history_length=(7, 0))
    (one,), (other,) = (list(loader.epoch(e)) for e in (0, 1))
    order = [np.lexsort(b.items.numpy().T) for b in (one, other)]
    assert not np.array_equal(one.items.numpy()[order[0]], other.items.numpy()[order[1]])


def test_evaluation_keeps_a_fixed_set_of_users(world: Dataset) -> None:
    stored, histories = draw_candidates(world, "uniform", 0), Histories(world)
    kept = {}
    for task in ("rec", "src"):
        loader = EvaluationLoader(world, histories, Split.VALIDATION, task, stored, (30, 30), 16, max_users=40)
        batches = list(loader)
        assert len(batches) == len(loader) == 3 and batches[0][0].labels is None
        kept[task] = torch.cat([b.user for b, _, _ in batches]).tolist()
        assert len(set(kept[task])) == 40
    assert kept["rec"] == kept["src"]


def test_batch_size_never_changes_evaluation(world: Dataset) -> None:
    stored, histories = draw_candidates(world, "uniform", 0), Histories(world)
    both = []
    for size in (7, 1000):
        loader = EvaluationLoader(world, histories, Split.TEST, "src", stored, (5, 9), size)
        both.append([torch.cat(parts) for parts in zip(*(tensors(b) for b, _, _ in loader), strict=True)])
    assert all(torch.equal(a, b) for a, b in zip(*both, strict=True))


def test_the_benchmark_measures_every_event_of_a_generated_table() -> None:
    from unisr.benchmarks.data import generated, measure, table

    dataset = generated(20_000)
    measured = measure(dataset)
    assert measured.events == len(dataset.events) > 15_000 and measured.events_per_second > 0
    assert table({"generated": measured})["times_official"].iloc[0] > 0
