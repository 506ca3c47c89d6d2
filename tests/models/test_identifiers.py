"""Item ids, balanced assignment, residual k-means."""

from __future__ import annotations

import math
from collections import Counter

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from sklearn.metrics import adjusted_rand_score

from unisr.errors import ConfigError, DataError
from unisr.models.identifiers import ItemIds, atomic, reconstruction_error, residual_kmeans, sinkhorn, textual


@st.composite
def some_ids(draw: st.DrawFn) -> ItemIds:
    sizes = tuple(draw(st.lists(st.integers(1, 4), min_size=1, max_size=3)))
    rows = draw(st.lists(st.tuples(*(st.integers(0, k - 1) for k in sizes)), min_size=1, max_size=20))
    return ItemIds(torch.tensor([(-1,) * len(sizes), *rows]), sizes)


@settings(max_examples=60, deadline=None)
@given(ids=some_ids(), first=st.integers(1, 50))
def test_tokens_of_different_levels_or_codes_differ(ids: ItemIds, first: int) -> None:
    tokens = ids.tokens(first)
    assert (tokens[0] == 0).all()
    for level, column in enumerate(tokens.T[:, 1:]):
        start = first + sum(ids.sizes[:level])
        assert column.tolist() == [start + code for code in ids.codes[1:, level].tolist()]
        assert all(start <= token < start + ids.sizes[level] for token in column.tolist())


@settings(max_examples=60, deadline=None)
@given(ids=some_ids())
def test_counts_are_those_of_a_loop(ids: ItemIds) -> None:
    rows = [tuple(row) for row in ids.codes[1:].tolist()]
    count = Counter(rows)
    assert ids.shared() == sum(count[row] > 1 for row in rows)
    assert ids.collision_rate() == pytest.approx(1 - len(count) / len(rows))
    report = ids.report(ids="x")
    for level, use in enumerate(ids.usage()):
        seen = Counter(row[level] for row in rows)
        entropy = -sum(n / len(rows) * math.log(n / len(rows)) for n in seen.values())
        assert use.used == len(seen) and use.share == len(seen) / ids.sizes[level]
        assert use.perplexity == pytest.approx(math.exp(entropy))
        prefixes = {row[: level + 1] for row in rows}
        assert report["collision_rate"][level] == pytest.approx(1 - len(prefixes) / len(rows))
    assert report["ids"].eq("x").all() and report["level"].tolist() == list(range(1, ids.levels + 1))


@settings(max_examples=60, deadline=None)
@given(ids=some_ids())
def test_the_counter_tells_apart_and_counts_in_order(ids: ItemIds) -> None:
    counted = ids.with_counter()
    assert counted.collision_rate() == 0 and counted.codes[:, : ids.levels].equal(ids.codes)
    if not ids.shared():
        assert counted is ids
        return
    seen: Counter = Counter()
    for row in counted.codes[1:].tolist():
        assert row[-1] == seen[tuple(row[:-1])]
        seen[tuple(row[:-1])] += 1
    assert counted.sizes[-1] == max(seen.values())


def test_atomic_ids_are_the_items() -> None:
    ids = atomic(5)
    assert ids.codes.tolist() == [[-1], [0], [1], [2], [3], [4]] and ids.sizes == (5,)
    assert ids.usage()[0].perplexity == pytest.approx(5)


def test_textual_ids_end_alike_and_share_one_vocabulary() -> None:
    ids = textual(["", "red car", "car red", "blue"], least=1)
    assert ids.collision_rate() == 0 and len(set(ids.sizes)) == 1
    ends = [row[: row.index(-1)] if -1 in row else row for row in ids.codes[1:].tolist()]
    assert all(row[-1] == 0 and 0 not in row[:-1] for row in ends)
    assert ids.sizes[0] == 1 + len({code for row in ends for code in row if code})


@pytest.mark.parametrize(
    ("codes", "sizes", "error", "says"),
    [
        ([[-1, -1], [0, 3]], (2, 3), DataError, r"item 1, \[0, 3\], is out of range"),
        ([[-1, -1], [0, 0], [-2, 0]], (2, 3), DataError, "item 2, .* is out of range"),
        ([[-1, -1], [-1, -1]], (2, 3), DataError, "item 1, .* is empty"),
        ([[-1, -1, -1], [0, -1, 0]], (2, 3, 3), DataError, "goes on after its end"),
        ([[0, 0], [0, 0]], (2, 3), DataError, "row 0"),
        ([[-1, -1], [0, 0]], (2,), ConfigError, "2 levels"),
        ([[-1], [0]], (0,), ConfigError, "positive"),
        ([[-1, -1]], (2, 3), DataError, "V >= 1"),
    ],
)
def test_broken_ids_are_refused(codes: list, sizes: tuple, error: type, says: str) -> None:
    with pytest.raises(error, match=says):
        ItemIds(torch.tensor(codes), sizes)
    with pytest.raises(DataError, match="int64"):
        ItemIds(torch.tensor(codes).int(), sizes)


def test_shorter_ids_are_not_counted_and_get_no_counter() -> None:
    ids = ItemIds(torch.tensor([[-1, -1], [0, -1], [0, -1], [1, 1]]), (2, 2))
    assert ids.usage()[1].used == 1 and ids.usage()[1].perplexity == 1 and ids.shared() == 2
    assert ids.tokens(7).tolist() == [[0, 0], [7, 0], [7, 0], [8, 10]]
    with pytest.raises(ConfigError, match="one length"):
        ids.with_counter()
    with pytest.raises(ConfigError, match="at least 1"):
        ids.tokens(0)


@settings(max_examples=40, deadline=None)
@given(
    n=st.integers(1, 40), k=st.integers(1, 9), seed=st.integers(0, 99), epsilon=st.sampled_from([0.05, 0.3, 1.0, 10.0]),
    scale=st.sampled_from([1e-20, 1.0, 1e20]),
)  # fmt: skip
def test_rows_of_sinkhorn_sum_to_one_and_columns_to_their_share(
    n: int, k: int, seed: int, epsilon: float, scale: float
) -> None:
    distances = torch.rand(n, k, generator=torch.Generator().manual_seed(seed)).double() * scale
    q = sinkhorn(distances, epsilon=epsilon, iterations=2000)
    torch.testing.assert_close(q.sum(1), torch.ones(n, dtype=torch.float64))
    torch.testing.assert_close(q.sum(0), torch.full((k,), n / k, dtype=torch.float64), rtol=0.02, atol=0)
    moved = sinkhorn(distances * 3 + scale, epsilon=epsilon, iterations=2000)
    torch.testing.assert_close(moved, q, rtol=1e-4, atol=1e-6)


def test_sinkhorn_is_the_scaling_of_the_weights() -> None:
    """q_ik = u_i w_ik v_k: all 2 x 2 odds ratios are those of w."""
    distances = torch.rand(6, 4, generator=torch.Generator().manual_seed(1)).double()
    q, low, high = sinkhorn(distances, epsilon=0.5).log(), distances.min(), distances.max()
    w = -(2 * (distances - low) / (high - low) - 1) / 0.5
    odds = [m[1:, 1:] - m[:1, 1:] - m[1:, :1] + m[:1, :1] for m in (q, w)]
    torch.testing.assert_close(*odds)


def test_sinkhorn_stays_finite_at_its_hardest_and_solves_problems_alone() -> None:
    problems = torch.rand(3, 30, 8, generator=torch.Generator().manual_seed(2))
    q = sinkhorn(problems, epsilon=0.003)
    assert q.isfinite().all()
    for problem, expected in zip(problems, q, strict=True):
        torch.testing.assert_close(sinkhorn(problem, epsilon=0.003), expected)
    torch.testing.assert_close(sinkhorn(torch.ones(4, 2), epsilon=0.003), torch.full((4, 2), 0.5).double())
    with pytest.raises(ConfigError, match="below 0.003"):
        sinkhorn(problems, epsilon=0.001)


@pytest.fixture(scope="module")
def planted() -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    """Vectors [1 + 300, 8] that are a coarse and a fine center plus a little noise, and the labels of both."""
    rng = np.random.default_rng(0)
    coarse, fine = rng.integers(0, 5, 300), rng.integers(0, 4, 300)
    centers, shifts = 10 * np.eye(8)[:5], np.eye(8)[4:] - np.eye(8)[4:].mean(0)
    vectors = centers[coarse] + shifts[fine] + 0.01 * rng.normal(size=(300, 8))
    return np.concatenate([np.full((1, 8), np.nan), vectors]).astype(np.float32), coarse, fine


def test_residual_kmeans_finds_planted_levels(planted: tuple) -> None:
    vectors, coarse, fine = planted
    ids, codebooks = residual_kmeans(vectors, sizes=(5, 4), seed=0)
    assert adjusted_rand_score(coarse, ids.codes[1:, 0]) == pytest.approx(1)
    for label in range(5):
        members = coarse == label
        assert adjusted_rand_score(fine[members], ids.codes[1:, 1][members]) > 0.95
    errors = reconstruction_error(vectors, ids, codebooks)
    x = vectors[1:].astype(np.float64)
    for level in (1, 2):
        rebuilt = sum(codebooks[t].numpy()[ids.codes[1:, t]] for t in range(level))
        assert errors[level - 1] == pytest.approx(((x - rebuilt) ** 2).sum() / (x**2).sum(), rel=1e-3)
    assert errors[0] > 3 * errors[1]


def test_error_falls_with_every_level_and_the_same_seed_gives_the_same_ids() -> None:
    vectors = np.random.default_rng(1).normal(size=(201, 6)).astype(np.float32)
    ids, codebooks = residual_kmeans(vectors, sizes=(8, 8, 8, 8), seed=3)
    errors = [1.0, *reconstruction_error(vectors, ids, codebooks)]
    assert all(later < earlier for earlier, later in zip(errors, errors[1:], strict=False))
    again, _ = residual_kmeans(torch.from_numpy(vectors), sizes=[8, 8, 8, 8], seed=3)
    assert again.codes.equal(ids.codes)
    assert not residual_kmeans(vectors, sizes=(8, 8, 8, 8), seed=4)[0].codes.equal(ids.codes)


def test_balance_spreads_a_lopsided_catalog() -> None:
    rng = np.random.default_rng(2)
    vectors = np.concatenate([rng.normal(size=(361, 4)) * 0.3, rng.normal(size=(40, 4)) * 3 + 5]).astype(np.float32)
    free, even = (residual_kmeans(vectors, sizes=(10, 10), seed=0, balance=balance)[0] for balance in (False, True))
    largest = [int(torch.bincount(ids.codes[1:, 0]).max()) for ids in (free, even)]
    assert largest[0] > 80 > 60 > largest[1]
    assert all(e.perplexity > f.perplexity for e, f in zip(even.usage(), free.usage(), strict=True))


def test_vectors_that_cannot_be_clustered_are_refused() -> None:
    good = torch.rand(6, 3)
    bad = good.clone()
    bad[2, 1] = math.inf
    for vectors in (bad, good[:1], good[0], good.long()):
        with pytest.raises(DataError, match="item vectors"):
            residual_kmeans(vectors, sizes=(2,), seed=0)
    with pytest.raises(ConfigError, match="6, 2.* for 5 items"):
        residual_kmeans(good, sizes=(6, 2), seed=0)
