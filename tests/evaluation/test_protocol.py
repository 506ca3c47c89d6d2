"""Evaluation of a scorer: table, modes, errors; the protocol line; a real dataset end to end."""

from types import SimpleNamespace

import numpy as np
import pytest
import torch
from torch import Tensor, nn

from unisr import registry
from unisr.config import RunConfig
from unisr.data.batches import Batch
from unisr.data.candidates import load_candidates
from unisr.data.schema import Dataset, Split, Task
from unisr.evaluation.metrics import summary
from unisr.evaluation.protocol import COLUMNS, SIZE, EvaluationError, describe_protocol, evaluate
from unisr.evaluation.ranks import RankError
from unisr.models.base import build


class ById(nn.Module):
    """Scores a candidate by its id; `factor` spoils the scores."""

    card = SimpleNamespace(name="ById")

    def __init__(self, factor: Tensor | float = 1.0, dtype: torch.dtype = torch.float32) -> None:
        super().__init__()
        self.factor, self.dtype = factor, dtype
        self.frozen = nn.Dropout().eval()
        self.seen: list[tuple[bool, bool]] = []

    def score(self, batch: Batch) -> Tensor:
        self.seen.append((self.training, torch.is_inference_mode_enabled()))
        return (batch.candidates * self.factor).to(self.dtype)


def batch(candidates: list[list[int]], task: int = 1) -> Batch:
    rows = len(candidates)
    history = torch.zeros(rows, 2, dtype=torch.int64)
    query = torch.full((rows,), 9 if task == 2 else 0)
    return Batch(torch.arange(1, rows + 1), history, history, history, torch.tensor(candidates), query,
                 torch.full((rows,), task))


REC = [(batch([[1, 2, 3], [3, 2, 2]]), np.array([10, 11]), np.array([2, 1])), (batch([[5, 6, 7]]), np.array([20]), [0])]
SRC = [(batch([[4, 4, 4]], task=2), torch.tensor([30]), torch.tensor([1]))]


def test_per_query_table() -> None:
    found = evaluate(ById(), {"rec": REC, "src": SRC})
    assert tuple(found.columns) == (*COLUMNS, SIZE) and (found[SIZE] == 3).all()
    assert found["task"].tolist() == ["rec", "rec", "rec", "src"]
    assert found["user"].tolist() == [1, 2, 1, 1]
    assert found["event"].tolist() == [10, 11, 20, 30]
    assert found["query"].tolist() == [0, 0, 0, 9]
    assert found["rank"].tolist() == [1, 2.5, 3, 2]
    assert found["ties"].tolist() == [0, 1, 0, 2]
    assert summary(found)["src"]["tie_rate"] == 1


@pytest.mark.parametrize("training", [True, False])
def test_mode_is_put_back_even_after_an_error(training: bool) -> None:
    scorer = ById().train(training)
    scorer.frozen.eval()
    evaluate(scorer, {"rec": REC})
    assert scorer.seen == [(False, True)] * 2
    scorer.factor = torch.nan
    with pytest.raises(RankError):
        evaluate(scorer, {"rec": REC})
    assert scorer.training is training and scorer.frozen.training is False


def test_progress_sees_every_batch() -> None:
    seen = []

    def bar(batches, description):
        for item in batches:
            seen.append(description)
            yield item

    evaluate(ById(), {"rec": REC, "src": SRC}, progress=bar)
    assert seen == ["rank rec", "rank rec", "rank src"]


def test_bad_scores_name_method_task_and_event() -> None:
    with pytest.raises(EvaluationError, match=r"ById.score returned torch.bfloat16 \[2, 3\] for task 'rec'"):
        evaluate(ById(dtype=torch.bfloat16), {"rec": REC})
    with pytest.raises(EvaluationError, match=r"torch.float32 \[4, 2, 3\]"):
        evaluate(ById(torch.ones(4, 1, 1)), {"rec": REC})
    with pytest.raises(RankError, match="ById: NaN among the scores of task 'rec', event 11"):
        evaluate(ById(torch.tensor([[1.0], [torch.nan]])), {"rec": REC})
    with pytest.raises(EvaluationError, match="no query to rank for task 'src'"):
        evaluate(ById(), {"rec": REC, "src": []})


def test_popularity_on_a_dataset(world: Dataset) -> None:
    """The stored candidates, ranked by counts of training events that are taken here from the events table."""
    from unisr.run import prepare_inputs

    config = RunConfig(method="Popularity", dataset="synthetic", preset="small")
    inputs = prepare_inputs(config)
    scorer = build(registry.method("Popularity"), config.model, inputs.corpus, seed=0)
    found = evaluate(scorer, inputs.evaluation(scorer, Split.TEST))
    trained = world.events.query("split == 0 and task == 1")["item"].value_counts()
    for task in ("rec", "src"):
        rows, items, positive = inputs.candidates.of(Split.TEST, task)
        counts = trained.reindex(items.ravel(), fill_value=0).to_numpy().reshape(items.shape)
        own = counts[np.arange(len(rows)), positive][:, None]
        table = found[found["task"] == task].set_index("event").loc[rows]
        assert np.array_equal(table["rank"], 0.5 + (counts > own).sum(1) + (counts == own).sum(1) / 2)
        assert np.array_equal(table["user"], world.column("user")[rows])
        assert np.array_equal(table["query"], world.column("query")[rows])
    assert len(found) == len(world.rows(Split.TEST, Task.REC)) + len(world.rows(Split.TEST, Task.SRC))


def test_full_ranking_on_a_dataset(world: Dataset) -> None:
    """Popularity over all items without an event of the user, counted here item by item."""
    from unisr.run import prepare_inputs

    config = RunConfig(method="Popularity", dataset="synthetic", preset="small", candidates="full")
    inputs = prepare_inputs(config)
    scorer = build(registry.method("Popularity"), config.model, inputs.corpus, seed=0)
    found = evaluate(scorer, inputs.evaluation(scorer, Split.TEST), full=True)
    trained = world.events.query("split == 0 and task == 1")["item"].value_counts()
    events = world.events.groupby("user")["item"].agg(set)
    assert set(found["task"]) == {"rec", "src"}
    for row in found.iloc[:: len(found) // 12].itertuples():
        own = trained[world.column("item")[row.event]]
        others = [trained.get(i, 0) for i in range(1, world.n_items + 1) if i not in events[row.user]]
        better, equal = sum(n > own for n in others), sum(n == own for n in others)
        assert row.rank == 1 + better + equal / 2 and row.ties == equal and row.candidates == len(others) + 1


def test_sampled_uniform_candidates_are_a_part_of_the_full_ones(world: Dataset) -> None:
    full, sampled = load_candidates(world, "full"), load_candidates(world)
    for task in ("rec", "src"):
        (rows, items, positive), (all_rows, catalog, column) = (c.of(Split.TEST, task) for c in (sampled, full))
        every = catalog[np.arange(len(all_rows))]
        assert np.array_equal(rows, all_rows)
        assert (np.take_along_axis(every, items - 1, 1) == items).all()
        assert np.array_equal(items[np.arange(len(rows)), positive], every[np.arange(len(rows)), column])


def test_protocol_line() -> None:
    config = RunConfig(method="Popularity", dataset="synthetic", preset="quick", histories="released")
    line = describe_protocol(config, {"#User": 1234}, seeds=[2, 0, 2], device="cpu")
    assert "\n" not in line
    for part in ("synthetic (#User 1,234, a sample of 200 users)", "1 positive + 99 uniform negatives", "test targets",
                 "leaks the target", "expected rank under ties", "preset quick", "2 seeds (0, 2)", "device cpu"):
        assert part in line
    assert "1 seed (0)" in describe_protocol(config, {}, seeds=[0], device="cpu")


class Hungry(ById):
    """Takes memory for a row that the machine has for `room` rows only."""

    def __init__(self, room: int) -> None:
        super().__init__()
        self.room, self.asked = room, []

    def score(self, batch: Batch) -> Tensor:
        self.asked.append(len(batch))
        if len(batch) > self.room:
            torch.empty(len(batch), 1 << 50)
        return super().score(batch)

    score_catalog = score


def queries(count: int) -> tuple[Batch, np.ndarray, np.ndarray]:
    rng = np.random.default_rng(count)
    return batch(rng.integers(1, 9, (count, 5)).tolist()), np.arange(count), rng.integers(0, 5, count)


@pytest.mark.parametrize("full", [False, True])
def test_too_little_memory_ranks_fewer_at_once_with_a_warning_and_the_same_results(full: bool) -> None:
    batches = {"rec": [queries(21), queries(9)]}
    expected, hungry = evaluate(Hungry(99), batches, full=full), Hungry(3)
    with pytest.warns(UserWarning, match="out of memory with 21 queries at once; ranking 10") as told:
        found = evaluate(hungry, batches, full=full)
    assert found.equals(expected) and len(told) == 3
    assert hungry.asked == [21, 10, 5, *[2] * 10, 1, *[2] * 4, 1], "what was too much is not tried again"


def test_too_little_memory_for_one_query_is_an_error_with_a_remedy() -> None:
    with pytest.warns(UserWarning), pytest.raises(EvaluationError, match="single query; rank fewer candidates"):
        evaluate(Hungry(0), {"rec": [queries(4)]})


def test_other_errors_of_a_scorer_are_not_taken_for_too_little_memory() -> None:
    class Broken(ById):
        def score(self, batch: Batch) -> Tensor:
            raise RuntimeError("shapes do not fit")

    with pytest.raises(RuntimeError, match="shapes do not fit"):
        evaluate(Broken(), {"rec": [queries(4)]})
