"""Expected ranks: by hand, against random tie-breaks, and beside the released rule."""

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from hypothesis.extra import numpy as hnp

from unisr.evaluation.ranks import RankError, expected_rank, released_rank
from unisr.random import generator

shapes = st.tuples(st.integers(1, 6), st.integers(2, 12))
few_values = hnp.arrays(np.float32, shapes, elements=st.sampled_from([0, 1, 2]))


def test_by_hand() -> None:
    scores = np.array([[3, 1, 2], [1, 1, 1], [0, 5, 0], [2, 2, 9]], dtype=np.float32)
    rank, ties = expected_rank(scores, np.array([0, 1, 0, 1]))
    assert rank.tolist() == [1.0, 2.0, 2.5, 2.5]
    assert ties.tolist() == [0, 2, 1, 1]
    assert rank.dtype == np.float64 and ties.dtype == np.int64


@settings(max_examples=30, deadline=None)
@given(few_values, st.integers(0, 10**6))
def test_is_the_mean_over_orders_of_equal_scores(scores: np.ndarray, seed: int) -> None:
    rng = generator(seed, "test")
    positive = rng.integers(scores.shape[1], size=len(scores))
    rank, ties = expected_rank(scores, positive)
    draws = rng.random((4000, *scores.shape))
    own = np.take_along_axis(scores, positive[:, None], 1)
    own_draw = np.take_along_axis(draws, np.broadcast_to(positive[:, None], (4000, len(scores), 1)), 2)
    before = (scores > own) | ((scores == own) & (draws > own_draw))
    error = 5 * np.sqrt((ties + 1) ** 2 / 12 / 4000)
    assert np.all(np.abs(1 + before.sum(2).mean(0) - rank) <= error + 1e-9)


@settings(max_examples=30, deadline=None)
@given(few_values, st.integers(0, 10**6))
def test_columns_may_be_shuffled(scores: np.ndarray, seed: int) -> None:
    rng = generator(seed, "test")
    positive = rng.integers(scores.shape[1], size=len(scores))
    order = rng.permutation(scores.shape[1])
    rank, ties = expected_rank(scores, positive)
    moved_rank, moved_ties = expected_rank(scores[:, order], np.argsort(order)[positive])
    assert np.array_equal(rank, moved_rank) and np.array_equal(ties, moved_ties)


def test_constant_scorer_is_perfect_by_the_released_rule_only() -> None:
    scores, positive = np.full((500, 100), 0.3), generator(0, "test").integers(100, size=500)
    assert released_rank(scores, positive).tolist() == [1.0] * 500
    assert expected_rank(scores, positive)[0].tolist() == [50.5] * 500


def test_rules_agree_without_ties() -> None:
    rng = generator(1, "test")
    scores, positive = rng.random((300, 100)).astype(np.float32), rng.integers(100, size=300)
    untied = expected_rank(scores, positive)[1] == 0
    assert untied.mean() > 0.9
    assert np.array_equal(released_rank(scores, positive)[untied], expected_rank(scores, positive)[0][untied])


def test_infinities_are_ordered_and_tie() -> None:
    rank, ties = expected_rank(torch.tensor([[np.inf, np.inf, 1.0, -np.inf]] * 2), torch.tensor([0, 3]))
    assert rank.tolist() == [1.5, 4.0] and ties.tolist() == [1, 0]


def test_compares_in_fp32() -> None:
    scores = np.array([[1.0, 1.0 + 1e-12]])
    assert expected_rank(scores, np.array([0]))[0].tolist() == [1.5]


@pytest.mark.parametrize("rule", [expected_rank, released_rank])
def test_nan_names_the_first_row(rule) -> None:
    scores = np.zeros((4, 5))
    scores[2, 1:3] = scores[3, 0] = np.nan
    with pytest.raises(RankError, match=r"row 2: 2 of 5 scores are NaN \(so in 2 rows\)"):
        rule(scores, np.zeros(4, dtype=int))


@pytest.mark.parametrize(
    ("shape", "positive", "message"),
    [
        ((3,), [0, 0, 0], "must be"),
        ((3, 4), [0, 0], "must be"),
        ((2, 4), [0, 4], "row 1.*column 4"),
        ((2, 4), [-1, 0], "row 0"),
    ],
)
def test_wrong_shapes_and_columns(shape: tuple[int, ...], positive: list[int], message: str) -> None:
    with pytest.raises(RankError, match=message):
        expected_rank(np.zeros(shape), np.array(positive))
