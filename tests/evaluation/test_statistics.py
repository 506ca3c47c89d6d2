"""Tests and intervals: known cases, other libraries, coverage by simulation."""

import numpy as np
import pandas as pd
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from scipy import stats
from statsmodels.stats.multitest import multipletests

from unisr.evaluation.statistics import (
    StatisticsError,
    average_seeds,
    bootstrap_interval,
    holm,
    paired_test,
    wilcoxon_test,
)
from unisr.random import generator


def test_paired_test_equals_scipy_and_its_formula() -> None:
    rng = generator(0, "test")
    a, b = rng.random(50), rng.random(50)
    t, p, mean = paired_test(a, b)
    theirs = stats.ttest_rel(a, b)
    assert (t, p) == pytest.approx((theirs.statistic, theirs.pvalue), rel=1e-12)
    assert t == pytest.approx((a - b).mean() / ((a - b).std(ddof=1) / np.sqrt(50)))
    assert mean == pytest.approx((a - b).mean())
    assert paired_test(b, a) == pytest.approx((-t, p, -mean))


def test_paired_test_without_variance() -> None:
    a = np.linspace(0, 1, 20)
    assert paired_test(a, a) == (0.0, 1.0, 0.0)
    t, p, mean = paired_test(a, a + 0.25)
    assert (t, p) == (-np.inf, 2.0**-19) and mean == pytest.approx(-0.25)
    assert paired_test([1, 1], [0, 0])[1] == 0.5, "two queries prove nothing"


def test_wilcoxon() -> None:
    rng = generator(1, "test")
    a = rng.random(40)
    b = np.where(rng.random(40) < 0.3, a, rng.random(40))
    theirs = stats.wilcoxon(a, b)
    assert wilcoxon_test(a, b)[:2] == pytest.approx((theirs.statistic, theirs.pvalue))
    assert wilcoxon_test(a, a) == (0.0, 1.0, 0.0)


@pytest.mark.parametrize("test", [paired_test, wilcoxon_test])
def test_bad_samples(test) -> None:
    with pytest.raises(StatisticsError, match="one length"):
        test([1.0, 2.0], [1.0])
    with pytest.raises(StatisticsError, match="one length"):
        test([1.0], [1.0])
    with pytest.raises(StatisticsError, match="query 1"):
        test([1.0, np.nan], [1.0, 2.0])


def test_paired_test_holds_its_level() -> None:
    rng = generator(2, "test")
    rejected = [paired_test(rng.standard_normal(60), rng.standard_normal(60))[1] < 0.05 for _ in range(600)]
    assert 0.03 < np.mean(rejected) < 0.075


@settings(max_examples=20, deadline=None)
@given(st.lists(st.floats(0, 1), min_size=1, max_size=20))
def test_holm_equals_statsmodels(pvalues: list[float]) -> None:
    assert holm(pvalues) == pytest.approx(multipletests(pvalues, method="holm")[1], abs=1e-12)


def test_holm_by_hand_and_with_missing_tests() -> None:
    assert holm([0.01, 0.04, 0.03]).tolist() == pytest.approx([0.03, 0.06, 0.06])
    found = holm([0.01, np.nan, 0.02])
    assert found[[0, 2]].tolist() == pytest.approx([0.02, 0.02]) and np.isnan(found[1])
    with pytest.raises(StatisticsError, match="1.5"):
        holm([0.1, 1.5])


def test_bootstrap_covers_the_mean() -> None:
    rng = generator(3, "test")
    samples = rng.exponential(size=(100, 400))
    low, high = bootstrap_interval(samples, level=0.9, resamples=500)
    assert 0.84 < np.mean((low <= 1) & (high >= 1)) < 0.94


def test_bootstrap_equals_a_plain_loop_and_scipy() -> None:
    values = generator(4, "test").random(200)
    low, high = bootstrap_interval(values, resamples=4000)
    stream = generator(5, "loop")
    means = [values[stream.integers(200, size=200)].mean() for _ in range(4000)]
    assert (low, high) == pytest.approx(np.quantile(means, [0.025, 0.975]), abs=0.003)
    theirs = stats.bootstrap([values], np.mean, method="percentile", n_resamples=4000, rng=0).confidence_interval
    assert (low, high) == pytest.approx((theirs.low, theirs.high), abs=0.003)


def test_bootstrap_in_chunks_draws_the_same(monkeypatch: pytest.MonkeyPatch) -> None:
    values = generator(6, "test").random((50, 3))
    whole = bootstrap_interval(values, seed=1)
    assert np.array_equal(bootstrap_interval(values, seed=1), whole)
    assert not np.array_equal(bootstrap_interval(values, seed=2), whole)
    monkeypatch.setattr("unisr.evaluation.statistics.CHUNK", 64)
    assert np.allclose(bootstrap_interval(values, seed=1), whole, rtol=1e-12), "the same stream, drawn in pieces"
    low, high = whole
    assert low.shape == high.shape == (3,) and (low < values.mean(0)).all() and (values.mean(0) < high).all()


def test_bootstrap_of_constants_and_bad_input() -> None:
    low, high = bootstrap_interval(np.full(10, 0.25))
    assert low == high == 0.25
    for arguments in ({"values": []}, {"values": [1.0], "level": 1.0}, {"values": [1.0], "resamples": 0}):
        with pytest.raises(StatisticsError):
            bootstrap_interval(np.array(arguments.pop("values")), **arguments)


def test_average_over_seeds_pairs_by_event() -> None:
    first = pd.DataFrame({"event": [7, 3], "MRR": [0.5, 1.0]})
    second = pd.DataFrame({"event": [3, 7], "MRR": [0.0, 1.0]})
    assert average_seeds([first, second], ["MRR"])["MRR"].to_dict() == {3: 0.5, 7: 0.75}
    with pytest.raises(StatisticsError, match="table 1"):
        average_seeds([first, second.assign(event=[3, 8])], ["MRR"])
    with pytest.raises(StatisticsError, match="once each"):
        average_seeds([first.assign(event=7)], ["MRR"])
