"""What every method must do, on the synthetic world. A method's test class inherits it in two lines:

    class TestTEM(ScorerContract):
        method = "TEM"
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, replace
from functools import cache, cached_property
from pathlib import Path
from typing import ClassVar

import numpy as np
import pandas as pd
import pytest
import torch
from safetensors.torch import load_file, save_file
from torch import Tensor

from tests.offline import offline
from unisr import registry
from unisr.config import PRESETS, TrainConfig
from unisr.data import load_dataset
from unisr.data.batches import Batch, SequenceBatch
from unisr.data.corpus import Corpus
from unisr.data.histories import Histories
from unisr.data.loaders import Gather, SequenceLoader, TrainLoader
from unisr.data.schema import TASKS, Dataset, Split, Task
from unisr.data.text_vectors import text_vectors
from unisr.models.base import Scorer, Tables, build
from unisr.random import generator
from unisr.training.checkpoint import load_trained, trained_state

SIGNALS = (
    "rec history",
    "search history",
    "current query",
    "past queries",
    "item text",
    "user id",
    "item popularity",
    "cf table",
)
"""The words a card may use in `signals`."""


@dataclass
class Setting:
    """A dataset and one method on it."""

    dataset: Dataset
    method: type[Scorer]

    @cached_property
    def corpus(self) -> Corpus:
        return Corpus.of(self.dataset)

    @cached_property
    def histories(self) -> Histories:
        return Histories(self.dataset)

    @cached_property
    def tables(self) -> Tables:
        """Text vectors, and tables of the required methods, untrained."""
        required = {name: registry.method(name) for name in self.method.card.requires}
        tables = {n: build(m, m.presets["quick"][1], self.corpus, seed=0).export() for n, m in required.items()}
        return tables | {"texts": {"items": torch.from_numpy(text_vectors(self.corpus.item_texts, "lsa"))}}

    def build(self, preset: str = "quick", *, seed: int = 0, corpus: Corpus | None = None) -> Scorer:
        """The method with that preset's hyper-parameters, in evaluation mode."""
        config = offline(self.method) if preset == "paper" else self.method.presets[preset][1]
        return build(self.method, config, corpus or self.corpus, seed=seed, tables=self.tables).eval()

    def targets(self, count: int = 6, split: Split = Split.TEST) -> np.ndarray:
        """Event rows of `count` targets of each of the method's tasks, `[n]`."""
        return np.concatenate([self.dataset.rows(split, TASKS[t])[:count] for t in self.method.card.tasks])

    def batch(self, scorer: Scorer, *, rows: np.ndarray | None = None, candidates: int = 10) -> Batch:
        """Targets with their histories and random candidates that hold the target's item in column 0."""
        rows = self.targets() if rows is None else rows
        items = generator(0, "contract").integers(1, self.dataset.n_items + 1, (len(rows), candidates))
        items[:, 0] = self.dataset.column("item")[rows]
        window = self.histories.window(rows, *scorer.history_length)
        return Gather(self.dataset).batch(rows, window, items, None)

    def training_batch(self, scorer: Scorer, size: int) -> Batch | SequenceBatch:
        """The first training batch of `size` rows; sequences are cut short so that windows end before targets."""
        config, length = TrainConfig(batch_size=size), scorer.history_length
        if scorer.feeds_on == "sequences":
            length = (min(length[0], 6), min(length[1], 6))
            loader = SequenceLoader(
                self.dataset, self.histories, self.method.card.tasks, config=config, history_length=length
            )
        else:
            loader = TrainLoader(
                self.dataset, self.histories, self.method.card.tasks, config=config, history_length=length
            )
        return next(iter(loader.epoch(0)))


@cache
def _setting(method: str) -> Setting:
    return Setting(load_dataset("synthetic"), registry.method(method))


@cache
def _scorer(method: str) -> Scorer:
    return _setting(method).build()


def scores(scorer: Scorer, batch: Batch) -> Tensor:
    with torch.inference_mode():
        return scorer.score(batch)


def changed(batch: Batch, **columns: Tensor) -> Batch:
    return replace(batch, **columns)


def other_ids(ids: Tensor, count: int) -> Tensor:
    """Each id in 1…count replaced by another one; 0 stays."""
    return torch.where(ids > 0, ids % count + 1, ids)


class ScorerContract:
    """Inherit and name the method; the attributes below are for stated exceptions only."""

    method: ClassVar[str]
    unbuilt_presets: ClassVar[dict[str, str]] = {}
    """Presets that cannot be built offline, each with the reason."""
    no_gradient: ClassVar[dict[str, str]] = {}
    """Trainable parameters that `losses` does not reach, each with the reason."""
    not_in_batch: ClassVar[dict[str, str]] = {}
    """Declared signals that a score does not read from the batch, each with where they enter."""
    overfit_steps: ClassVar[int] = 80
    overfit_rate: ClassVar[float] = 1e-2
    overfit_factor: ClassVar[float] = 0.3
    """The loss of 8 rows falls below this share of its start."""
    draws_targets: ClassVar[bool] = False
    """Each step draws one target of a window; only those that are ranked afterwards are then learnt by heart."""
    tolerance: ClassVar[float] = 2e-5

    @pytest.fixture
    def setting(self) -> Setting:
        return _setting(self.method)

    @pytest.fixture
    def scorer(self) -> Scorer:
        """An untrained scorer in evaluation mode, shared by the tests of a method: they leave it as it is."""
        return _scorer(self.method)

    @pytest.fixture
    def batch(self, setting: Setting, scorer: Scorer) -> Batch:
        return setting.batch(scorer)

    def assert_same(self, a: Tensor, b: Tensor) -> None:
        torch.testing.assert_close(a, b, rtol=self.tolerance, atol=self.tolerance)

    # Card and presets.

    def test_the_card_is_complete(self, setting: Setting) -> None:
        card = setting.method.card
        assert card.name == self.method and card.paper and card.loss
        assert card.tasks and set(card.tasks) <= set(TASKS)
        assert card.signals and set(card.signals) <= set(SIGNALS)
        assert set(PRESETS) == set(setting.method.presets)

    def test_builds_from_every_preset(self, setting: Setting) -> None:
        for preset in setting.method.presets:
            if preset in self.unbuilt_presets:
                continue
            made = setting.build(preset)
            assert torch.isfinite(scores(made, setting.batch(made))).all(), preset

    def test_the_same_seed_gives_the_same_weights(self, setting: Setting, scorer: Scorer) -> None:
        torch.rand(7)
        again = setting.build().state_dict()
        assert all(torch.equal(tensor, again[name]) for name, tensor in scorer.state_dict().items())

    # Scores.

    def test_scores_are_finite_fp32_of_the_candidates_shape(self, scorer: Scorer, batch: Batch) -> None:
        found = scores(scorer, batch)
        assert found.shape == batch.candidates.shape and found.dtype == torch.float32
        assert torch.isfinite(found).all()

    def test_each_task_alone_is_scored_as_in_the_mixed_batch(self, scorer: Scorer, batch: Batch) -> None:
        mixed = scores(scorer, batch)
        for task in scorer.task_ids:
            rows = batch.task == task
            assert rows.any()
            self.assert_same(scores(scorer, batch.select(rows)), mixed[rows])

    def test_scoring_twice_gives_equal_scores_and_keeps_the_weights(self, scorer: Scorer, batch: Batch) -> None:
        before = {k: v.clone() for k, v in scorer.state_dict().items()}
        assert torch.equal(scores(scorer, batch), scores(scorer, batch))
        assert all(torch.equal(v, before[k]) for k, v in scorer.state_dict().items())

    def test_permuting_candidates_permutes_scores(self, scorer: Scorer, batch: Batch) -> None:
        order = torch.from_numpy(generator(0, "order").permutation(batch.candidates.shape[1]))
        permuted = scores(scorer, changed(batch, candidates=batch.candidates[:, order]))
        self.assert_same(permuted, scores(scorer, batch)[:, order])

    def test_a_score_does_not_depend_on_the_other_candidates(
        self, setting: Setting, scorer: Scorer, batch: Batch
    ) -> None:
        others = other_ids(batch.candidates, setting.dataset.n_items)
        others[:, :3] = batch.candidates[:, :3]
        reference = scores(scorer, batch)[:, :3]
        self.assert_same(scores(scorer, changed(batch, candidates=others))[:, :3], reference)
        self.assert_same(scores(scorer, changed(batch, candidates=batch.candidates[:, :3])), reference)

    def test_the_catalog_is_scored_as_candidates_are(self, setting: Setting, scorer: Scorer, batch: Batch) -> None:
        with torch.inference_mode():
            catalog = scorer.score_catalog(batch)
        assert catalog.shape == (len(batch), setting.dataset.n_items) and catalog.dtype == torch.float32
        self.assert_same(catalog.gather(1, batch.candidates - 1), scores(scorer, batch))

    def test_longer_left_padding_changes_nothing(self, scorer: Scorer, batch: Batch) -> None:
        history = {name: getattr(batch, name) for name in ("items", "tasks", "queries")}
        padded = {name: torch.nn.functional.pad(ids, (5, 0)) for name, ids in history.items()}
        self.assert_same(scores(scorer, changed(batch, **padded)), scores(scorer, batch))

    def test_a_row_alone_scores_as_in_its_batch(self, scorer: Scorer, batch: Batch) -> None:
        alone = [scores(scorer, batch.select(torch.tensor([row]))) for row in range(len(batch))]
        self.assert_same(torch.cat(alone), scores(scorer, batch))

    def test_padded_cells_and_labels_are_not_read(self, setting: Setting, scorer: Scorer, batch: Batch) -> None:
        padded = batch.tasks == 0
        disturbed = changed(
            batch,
            items=torch.where(padded, 1, batch.items),
            queries=torch.where(padded, 1, batch.queries),
            labels=torch.ones(batch.candidates.shape),
        )
        self.assert_same(scores(scorer, disturbed), scores(scorer, batch))

    def test_unknown_users_empty_histories_and_no_query_give_finite_scores(self, scorer: Scorer, batch: Batch) -> None:
        none = torch.zeros_like(batch.items)
        unknown = changed(batch, user=torch.zeros_like(batch.user))
        empty = changed(unknown, items=none, tasks=none, queries=none)
        blank = changed(empty, query=torch.zeros_like(batch.query))
        for case in (unknown, empty, blank):
            assert torch.isfinite(scores(scorer, case)).all()

    def test_histories_of_one_task_give_finite_scores_and_losses(self, setting: Setting, scorer: Scorer) -> None:
        batch = setting.training_batch(scorer, 16)
        if isinstance(batch, SequenceBatch) or not scorer.trainable:
            batch = setting.batch(scorer)
        for task in (Task.REC, Task.SRC):
            kept = batch.tasks == int(task)
            one = changed(batch, items=batch.items * kept, tasks=batch.tasks * kept, queries=batch.queries * kept)
            assert torch.isfinite(scores(scorer, one)).all()
            if one.labels is not None:
                assert all(torch.isfinite(term) for term in scorer.losses(one).values())

    # Time.

    def test_later_events_never_change_a_score(self, setting: Setting, scorer: Scorer) -> None:
        for task in setting.method.card.tasks:
            rows = setting.dataset.rows(Split.TEST, TASKS[task])[:12]
            other, moved = _other_future(setting.dataset, rows)
            altered = type(setting)(other, setting.method)
            theirs = altered.build()
            kept = setting.batch(scorer, rows=rows)
            batch = changed(altered.batch(theirs, rows=moved), candidates=kept.candidates)
            self.assert_same(scores(theirs, batch), scores(scorer, kept))

    # Signals.

    @pytest.mark.parametrize("signal", ["current query", "past queries", "user id", "rec history", "search history"])
    def test_the_card_says_which_signals_of_the_batch_are_read(
        self, setting: Setting, scorer: Scorer, batch: Batch, signal: str
    ) -> None:
        disturbed = _DISTURB[signal](batch, setting.dataset)
        same = torch.allclose(scores(scorer, disturbed), scores(scorer, batch), rtol=1e-6, atol=1e-7)
        read = signal in setting.method.card.signals and signal not in self.not_in_batch
        assert same != read, f"{signal}: the card says {'read' if read else 'not read'}"

    @pytest.mark.parametrize("signal", ["item text", "item popularity"])
    def test_undeclared_catalog_signals_are_not_read(
        self, setting: Setting, scorer: Scorer, batch: Batch, signal: str
    ) -> None:
        if signal in setting.method.card.signals:
            return
        other = setting.build(corpus=_DISTURB_CORPUS[signal](setting.corpus))
        assert torch.equal(scores(other, batch), scores(scorer, batch))

    # Training.

    def test_losses_are_finite_and_reach_every_trainable_parameter(self, setting: Setting) -> None:
        scorer = setting.build().train()
        if not scorer.trainable:
            assert scorer.losses(setting.training_batch(scorer, 8)) == {}
            return
        terms = scorer.losses(setting.training_batch(scorer, 64))
        assert {t for t in TASKS if t in terms} == set(setting.method.card.tasks)
        assert all(term.ndim == 0 and torch.isfinite(term) for term in terms.values())
        sum(terms.values()).backward()
        named = {n: p for n, p in scorer.named_parameters() if p.requires_grad}
        assert set(self.no_gradient) <= set(named)
        assert all(torch.isfinite(p.grad).all() for p in named.values() if p.grad is not None)
        silent = {n for n, p in named.items() if p.grad is None or not p.grad.any()}
        assert silent == set(self.no_gradient)

    def test_saved_and_loaded_weights_give_equal_scores(
        self, setting: Setting, scorer: Scorer, batch: Batch, tmp_path: Path
    ) -> None:
        save_file(trained_state(scorer), tmp_path / "model.safetensors")
        loaded = setting.build(seed=1)
        scores(loaded, batch)
        load_trained(loaded, load_file(tmp_path / "model.safetensors"))
        assert torch.equal(scores(loaded, batch), scores(scorer, batch))

    def test_overfits_eight_rows(self, setting: Setting) -> None:
        scorer = setting.build()
        if not scorer.trainable:
            pytest.skip("nothing to train")
        batch = setting.training_batch(scorer, 8)
        if self.draws_targets:
            batch = replace(batch, targets=batch.targets * _at_end(batch))
        optimizer = torch.optim.AdamW(scorer.parameters(), lr=self.overfit_rate, weight_decay=0.0)
        torch.manual_seed(0)
        start = _task_loss(scorer, batch)
        for _ in range(self.overfit_steps):
            optimizer.zero_grad()
            # Evaluation mode: dropout would hide how well the rows are fitted.
            sum(scorer.losses(batch).values()).backward()
            optimizer.step()
        assert _task_loss(scorer, batch) < self.overfit_factor * start
        rows = _last_targets(batch, setting.dataset.n_items) if isinstance(batch, SequenceBatch) else batch
        assert (scores(scorer, rows).argmax(1) == rows.labels.argmax(1)).all()


@torch.no_grad()
def _task_loss(scorer: Scorer, batch: Batch | SequenceBatch) -> float:
    return sum(float(term) for name, term in scorer.losses(batch).items() if name in TASKS)


def _at_end(batch: SequenceBatch) -> Tensor:
    """Which targets, [B, M] bool, follow the last column of their window."""
    return batch.states == batch.items.shape[1] - 1


def _last_targets(batch: SequenceBatch, n_items: int) -> Batch:
    """The windows whose last column predicts a target, ranked against the whole catalog."""
    last = _at_end(batch)
    # Several targets may share a time stamp and so a state; such rows have no single right answer.
    row = (last.sum(1) == 1).nonzero().squeeze(1)
    assert len(row), "no window ends before a single target"
    place = last[row].long().argmax(1)
    candidates = torch.arange(1, n_items + 1).expand(len(row), -1)
    labels = (candidates == batch.targets[row, place].unsqueeze(1)).float()
    user, query = batch.user[row], torch.zeros_like(batch.user[row])
    task = torch.full_like(query, int(Task.REC))
    return Batch(user, batch.items[row], batch.tasks[row], batch.queries[row], candidates, query, task, labels)


def _other_future(dataset: Dataset, rows: np.ndarray) -> tuple[Dataset, np.ndarray]:
    """The dataset with everything altered that no target of `rows` may see, and the rows' new numbers.

    `rows` holds one target a user. The user's events at or after its time, the target apart, get other items and
    queries, and two later events are appended.
    """
    events = dataset.events.assign(origin=np.arange(len(dataset.events)))
    cut = events.iloc[rows].set_index("user")["time"]
    late = (events["time"] >= events["user"].map(cut)) & ~events["origin"].isin(rows)
    assert late.any()
    events.loc[late, "item"] = events.loc[late, "item"] % dataset.n_items + 1
    searched = late & (events["query"] > 0)
    events.loc[searched, "query"] = events.loc[searched, "query"] % dataset.n_queries + 1
    last = events.groupby("user")["time"].max().loc[cut.index]
    extra = {"user": cut.index, "item": 1, "time": last.to_numpy() + 1, "split": int(Split.UNUSED), "origin": -1}
    rec = pd.DataFrame({**extra, "task": int(Task.REC), "query": 0})
    src = pd.DataFrame({**extra, "task": int(Task.SRC), "query": 1})
    events = pd.concat([events, rec, src]).sort_values(["user", "time", "task"], kind="stable", ignore_index=True)
    number = events.reset_index().set_index("origin")["index"]
    altered = replace(dataset, events=events.drop(columns="origin")).validate()
    return altered, number.loc[rows].to_numpy()


def _with_items(batch: Batch, dataset: Dataset, task: Task) -> Batch:
    other = other_ids(batch.items, dataset.n_items)
    return changed(batch, items=torch.where(batch.tasks == int(task), other, batch.items))


_DISTURB: dict[str, Callable[[Batch, Dataset], Batch]] = {
    "current query": lambda b, d: changed(b, query=other_ids(b.query, d.n_queries)),
    "past queries": lambda b, d: changed(b, queries=other_ids(b.queries, d.n_queries)),
    "user id": lambda b, d: changed(b, user=other_ids(b.user, d.n_users)),
    "rec history": lambda b, d: _with_items(b, d, Task.REC),
    "search history": lambda b, d: _with_items(b, d, Task.SRC),
}


def _other_texts(corpus: Corpus) -> Corpus:
    order = np.r_[0, np.arange(corpus.n_items, 0, -1)]
    texts = [corpus.item_texts[i] for i in order]
    return replace(corpus, item_texts=texts, item_words=corpus.item_words[order])


_DISTURB_CORPUS: dict[str, Callable[[Corpus], Corpus]] = {
    "item text": _other_texts,
    "item popularity": lambda c: replace(c, popularity=c.popularity[::-1].copy()),
}
